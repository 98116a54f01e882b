// Experts are taken out of every layer that has them, one decoder block at a time: what the calibration text shows of
// them decides which stay, the router loses the others' rows, and the outputs of those that stay are refitted. The
// text then passes the smaller layer. Experts are read one by one; in memory are the hidden states, a few matrices of
// their size, one layer's router and one expert (on a GPU: one layer's experts).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/drivers/shrink.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/structure/expert_scores.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

struct ReducedLayer {
  ExpertEvidence evidence;          // of the dense layer on the text that passed the smaller layers before it
  std::vector<std::int64_t> kept;   // rising
  std::vector<std::int64_t> super;  // experts that make massive activations
  std::vector<std::int64_t> never;  // without a token
  std::vector<std::int64_t> not_refitted;  // of those kept, for want of tokens
  std::vector<bool> refitted;              // by place among those kept: the down projection is another one
  std::vector<bool> biased;                // the same of its bias
  // |y' − y|² / |y|² of the experts' summed outputs y, each token by 1/|hidden state|²: before and after what is fitted.
  double change = 0.0, change_refitted = 0.0;

  std::vector<std::int64_t> removed() const;  // rising
};

// How many experts of each layer stay: the same number everywhere, or one for each layer that has experts, in order.
class ExpertCounts {
 public:
  ExpertCounts(std::int64_t everywhere = 0) : everywhere_(everywhere) {}  // NOLINT: a number is enough
  explicit ExpertCounts(std::vector<std::int64_t> of_layers) : of_layers_(std::move(of_layers)) {}
  // place: of the layer among those with experts
  std::int64_t of(std::size_t place) const { return of_layers_.empty() ? everywhere_ : of_layers_.at(place); }
  bool differ() const { return !of_layers_.empty(); }
  const std::vector<std::int64_t>& of_layers() const { return of_layers_; }  // empty: the same everywhere

 private:
  std::int64_t everywhere_ = 0;
  std::vector<std::int64_t> of_layers_;
};

struct RemoveExpertsOptions {
  ExpertCounts keep;
  const ExpertScorer* scorer = nullptr;
  std::uint64_t seed = 0;  // of the score `random`
  // `ours` removes in so many steps; each measures the change beside the dense layer's output anew.
  std::int64_t rounds = 4;
  bool keep_super = true;
  // The down projections of what stays, by least squares towards the dense layer's output: one expert after the other,
  // each on what the others leave. An expert with fewer than kMinRefitTokens tokens stays as it is.
  bool refit = true;
  // Then the biases of these projections, all at once (expert_bias.h). Only where the experts have biases.
  bool bias = false;
  double damping = 0.1;
  ComputeType compute = ComputeType::kF32;
  // By an earlier run, from the first layer with experts on; the first rank's output has them.
  std::vector<ReducedLayer> finished;
  // The processes that do this run together, each with the same model, windows and options: as PruneOptions::ranks.
  Communicator* ranks = &alone();
  ProgressFn progress = [](std::string_view, std::int64_t, std::int64_t) {};  // stage "shrink", in blocks
};
inline constexpr std::int64_t kMinRefitTokens = 32;

struct RemoveExpertsResult {
  std::vector<ReducedLayer> layers;  // those with experts
  ShrinkSeconds seconds;
};

// Takes what becomes of a layer.
class ReducedExpertsOutput {
 public:
  virtual ~ReducedExpertsOutput() = default;
  // The down projection [hidden, width] of the expert that is the `index`th of those kept.
  virtual void write_down(std::int64_t layer, std::int64_t index, ConstMatrixView weight) = 0;
  // Its bias [hidden].
  virtual void write_bias(std::int64_t layer, std::int64_t index, std::span<const float> bias) = 0;
  // All else of the experts kept and the router's rows for them. What is `refitted` and `biased` was written.
  virtual void keep(const ReducedLayer& layer) = 0;
  // The layer's tensors are all written.
  virtual void finish_layer(const ReducedLayer& layer) = 0;
  // What write_down() and write_bias() of an earlier run wrote.
  virtual Matrix read_down(std::int64_t layer, std::int64_t index) = 0;
  virtual std::vector<float> read_bias(std::int64_t layer, std::int64_t index) = 0;
};

// The number of experts that stay: of a ratio that goes, the nearest number that the router's groups divide. Throws
// Error{kUsage} naming --ratio or --experts when the model has no experts, or not enough would be left for the
// router.
std::int64_t experts_for_ratio(const ModelConfig& model, double ratio);
void check_experts_left(const ModelConfig& model, std::int64_t keep, std::string_view flag);
// Throws Error for a packed model, and for a refit of experts whose form cannot hold it (MXFP4).
void check_reducible(const Model& model);
bool can_refit_experts(const Model& model);

// In a device's shop (expert_shop.h).
class ExpertShop;
struct ExpertRun;
using ExpertShopMaker = std::function<std::unique_ptr<ExpertShop>(const ExpertRun& run)>;
// What scores read of every layer that has experts, all of them of the dense model: nothing is removed.
std::vector<ExpertEvidence> observe_experts(const ExpertShopMaker& make_shop, const Model& model,
                                            const TokenWindows& windows, const RemoveExpertsOptions& options);
RemoveExpertsResult remove_experts(const ExpertShopMaker& make_shop, const Model& model,
                                   const TokenWindows& windows, const RemoveExpertsOptions& options,
                                   ReducedExpertsOutput& output);

}  // namespace swiftprune
