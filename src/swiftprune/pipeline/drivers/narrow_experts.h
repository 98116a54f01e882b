// The experts of every layer that has them get fewer inner channels, all as many, one decoder block at a time: each by the
// tokens that the router sends to it. Its channels are ranked by what they add to its output, its down projection is
// refitted on those that stay, and the text then passes the narrower layer. Shared experts and dense layers stay as they are.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/pipeline/drivers/expert_shop.h"

namespace swiftprune {

struct NarrowExpertsOptions {
  std::int64_t width = 0;  // inner channels of each expert that stay
  bool refit = true;       // down projections, by least squares
  double damping = 0.1;
  ComputeType compute = ComputeType::kF32;
  Communicator* ranks = &alone();                                             // as PruneOptions::ranks
  ProgressFn progress = [](std::string_view, std::int64_t, std::int64_t) {};  // stage "shrink", in blocks
};
// With fewer tokens an expert's channels are ranked by its weights alone, and its down projection stays as it is.
inline constexpr std::int64_t kMinNarrowTokens = 32;

struct NarrowedLayer {
  std::int64_t layer = 0;
  std::vector<std::int64_t> tokens;      // of each expert
  std::vector<std::int64_t> by_weights;  // experts with too few tokens
  // |y' − y|² / |y|² of the experts' summed outputs y, each token by 1/|hidden state|².
  double change = 0.0;
};

struct NarrowExpertsResult {
  std::vector<NarrowedLayer> layers;
  ShrinkSeconds seconds;
};

class NarrowedExpertsOutput {
 public:
  virtual ~NarrowedExpertsOutput() = default;
  // kept: rising channels; down [hidden, kept]: what stands in the file now, of its dtype.
  virtual void write(std::int64_t layer, std::int64_t expert, std::span<const std::int64_t> kept,
                     ConstMatrixView down) = 0;
};

// The number of channels: of a ratio that goes, the nearest multiple of `align` (of all channels where they are fewer).
// Throws Error{kUsage} naming --ratio, or what there is that cannot be narrowed: experts in MXFP4, shared experts whose
// width config.json ties to the experts', a packed model.
std::int64_t width_for_ratio(const Model& model, double ratio, std::int64_t align);
void check_narrowable(const Model& model);

NarrowExpertsResult narrow_experts(const ExpertShopMaker& make_shop, const Model& model,
                                   const TokenWindows& windows, const NarrowExpertsOptions& options,
                                   NarrowedExpertsOutput& output);

}  // namespace swiftprune
