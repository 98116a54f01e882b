// What a comparison tells of a model besides its measurements: size, sparsity of every linear, and what
// swiftprune.json says of how it was made. Dense and packed models.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "swiftprune/model/model.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

struct LinearSummary {
  std::string name;  // of the weight
  std::int64_t layer = 0;
  std::int64_t rows = 0, cols = 0;
  double sparsity = 0.0;
  std::string pattern;  // "dense", "unstructured", "2:4", ...; of a packed linear its kind
};

// One of the runs that made a model out of the dense one.
struct ModelStep {
  std::string method;                // "shrink", a method of prune, "pack int8"
  std::vector<std::string> command;  // arguments that repeat the run; empty where no record says them
};

struct ModelSummary {
  std::string name;    // the folder's own name, "+ adapter" where one stands beside it
  std::string folder;  // as given
  std::string family;
  std::int64_t num_parameters = 0;  // of the linears and all other tensors, zeros included; an adapter's, too
  std::int64_t num_bytes = 0;       // of the weight files' tensors, an adapter's, too
  double bits_per_weight = 0.0;     // of the blocks' linears, as they are stored, with their adapter's bytes
  bool packed = false;
  double sparsity = 0.0;  // of the blocks' linears
  std::string pattern;    // of most linears that have zeros, "dense" when none has
  std::vector<double> block_sparsity;
  std::vector<LinearSummary> linears;

  // From swiftprune.json; empty without one. All but the steps: of the last run that it records.
  std::vector<ModelStep> steps;  // the first run first
  std::string method;
  std::string calibration;                                    // "8 windows of 2048 tokens from FILE"
  std::vector<std::pair<std::string, double>> stage_seconds;  // in the order of the run
  std::vector<std::string> prune_command;                     // arguments that repeat the run
};

// folder: the name that the user gave. Throws Error{kBadInput} for a damaged tensor or record.
ModelSummary summarize_model(const Model& model, const std::string& folder);

// "shrink, best, pack int8"; the method where no record tells of the steps; "–" for a dense model.
std::string steps_text(const ModelSummary& summary);

// Pictures of where a weight's zeros are.
struct MaskPicture {
  std::string tensor;
  std::int64_t rows = 0, cols = 0;
  std::int64_t corner_size = 0;           // the first outputs and inputs, at most kMaskCorner of each
  std::vector<std::vector<bool>> corner;  // [rows][cols], true: kept
  Matrix density;                         // [tiles, tiles] share of kept weights
};
inline constexpr std::int64_t kMaskCorner = 64;
inline constexpr std::int64_t kMaskTiles = 48;
// Throws Error{kUsage} naming --mask when the model has no such linear.
MaskPicture picture_mask(const Model& model, const std::string& tensor);

}  // namespace swiftprune
