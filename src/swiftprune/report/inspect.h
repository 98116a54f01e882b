// What is in a model folder: architecture, sizes, dtypes, and for every weight matrix how sparse it is and
// which pattern its zeros keep to. One pass over the files; memory stays at one tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/core/progress.h"
#include "swiftprune/masking/zero_scan.h"
#include "swiftprune/model/model_config.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {

struct TensorInspection {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::string file;
  std::int64_t numel = 0;
  std::int64_t num_bytes = 0;
  bool is_block_linear = false;   // one of those that pruning works on
  std::optional<ZeroScan> zeros;  // of F32, F16 and BF16 tensors (vectors count as one row)
  std::string pattern;  // "dense", "unstructured", "2:4", "block:16x16", "all zero"; "" when unknown
};

// Tensors of the same place in each block: "model.layers.*.mlp.up_proj.weight".
struct TensorGroup {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::int64_t count = 0;
  std::int64_t numel = 0;
  std::int64_t num_zeros = 0;
  double min_sparsity = 0.0, max_sparsity = 0.0;
  std::string pattern;  // "mixed" when they differ
  bool is_block_linear = false;
};

struct LinearTotals {
  std::int64_t count = 0;
  std::int64_t numel = 0;
  std::int64_t num_zeros = 0;
  std::map<std::string, std::int64_t> patterns;  // how many tensors of each

  double sparsity() const {
    return numel == 0 ? 0.0 : static_cast<double>(num_zeros) / static_cast<double>(numel);
  }
};

// What swiftprune.json tells of a layer's experts: of the run that wrote it, or of the one before.
struct LayerRouting {
  std::int64_t layer = 0;
  std::vector<std::int64_t> tokens;  // of the calibration text, by expert (before experts were taken out)
  double entropy = 0.0;              // of log E, 1: all used alike
};

struct ModelInspection {
  std::filesystem::path folder;
  std::string model_type;             // config.json's, "" when absent
  std::string architecture;           // config.json's first one, "" when absent
  std::optional<ModelConfig> config;  // when swiftprune supports the model
  std::string problem;                // why it does not
  std::vector<std::string> notes;     // the checkpoint's
  std::vector<TensorInspection> tensors;
  std::map<std::string, std::int64_t> bytes_of_dtype;
  std::map<std::string, std::int64_t> bytes_of_file;
  std::int64_t num_parameters = 0;
  std::int64_t num_bytes = 0;
  bool is_tied = false;     // no head of its own
  bool has_record = false;  // swiftprune.json: a pruned model
  LinearTotals linears;     // of the blocks; experts in one tensor count one by one
  std::vector<LayerRouting> routing;
};

// Throws Error{kBadInput} for a folder that cannot be read; an unknown architecture is not an error.
ModelInspection inspect_model(const std::filesystem::path& folder, const ProgressFn& progress);

std::vector<TensorGroup> group_tensors(const ModelInspection& inspection);  // in the files' order
nlohmann::ordered_json to_json(const ModelInspection& inspection, bool with_tensors);

}  // namespace swiftprune
