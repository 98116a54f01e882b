// Where one decoder block after another loses units: the mechanism behind shrink.h's decisions. The processor
// has one (cpu_shrink_shop.cpp), a GPU another (cuda/). A call may return before its work is done; finish()
// waits.
//
// Order for each block: load(), silence() when the layer goes, start_block(); then for each input collect(),
// and where it was wanted either refit_readers() or unit_scores() and what makes the output projection
// smaller; then pass(), and write() of a block that stays.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "swiftprune/pipeline/drivers/shrink.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/structure/unit_scores.h"

namespace swiftprune {

// What is known of a run before its first block, so that a shop can make room for everything once.
struct ShrinkRun {
  const Model& model;
  const ShrinkShape& shape;
  const TokenWindows& windows;
  const ShrinkOptions& options;
  ShrinkOutput& output;
  ShrinkSeconds& seconds;  // the shop adds what loading and writing took
  const UnitScorer& scorer;
  // Output projections that get a bias which the dense model lacks (added_biases()).
  std::span<const LinearInput> added_biases;
  std::span<const std::int64_t> layers;  // those that the windows run through, rising

  // The dense model runs beside the shrinking one.
  bool aligned() const { return options.compensation == Compensation::kAligned; }
  // What is left is refitted by least squares.
  bool refits() const { return aligned() || options.compensation == Compensation::kRefit; }
  // Is the Gram matrix of this input wanted in any block?
  bool needs_gram(LinearInput input) const;
};

class ShrinkShop {
 public:
  virtual ~ShrinkShop() = default;

  // The block that all other calls are about. The next of the run's layers may be fetched meanwhile.
  virtual void load(std::int64_t layer) = 0;
  // Makes it pass its input on: nothing is added to the residual.
  virtual void silence() = 0;
  virtual bool norms_output(LinearInput output) const = 0;
  // Has this output projection a bias?
  virtual bool has_bias(LinearInput output) const = 0;

  // The windows stand before the block; then run up to `input`, which joins new statistics. needs: null where
  // nothing is wanted. residual: with the moments of the residual that the output joins.
  virtual void start_block() = 0;
  virtual void collect(LinearInput input, const StatNeeds* needs, bool residual) = 0;

  // Every column of the linears that read the input, refitted.
  virtual void refit_readers(LinearInput input, const RefitOptions& options) = 0;
  // Of the columns of the output projection that reads `output`; num_kept as in UnitEvidence.
  virtual std::vector<double> unit_scores(LinearInput output, std::int64_t num_kept) = 0;
  // Only these columns of it stay, the others become zero; refitted, or as they are.
  virtual void refit_columns(LinearInput output, std::span<const std::int64_t> columns,
                             const RefitOptions& options) = 0;
  virtual void keep_columns(LinearInput output, std::span<const std::int64_t> columns) = 0;
  // [O] (W - B)·mean x of the projection as it was loaded and as it is now.
  virtual std::vector<float> mean_error(LinearInput output) = 0;
  virtual std::vector<float> bias(LinearInput output) = 0;
  // Rounded to the checkpoint's dtype.
  virtual void set_bias(LinearInput output, std::vector<float> bias) = 0;

  // The windows stand behind the block.
  virtual void pass() = 0;
  // The tensors of the block's linears at their new sizes, by their names in the dense model.
  virtual void write(const ShrunkBlock& block) = 0;
  // Until everything is written.
  virtual void finish() = 0;
};

// Makes the shop of a device for one run. What `run` refers to outlives it.
using ShrinkShopMaker = std::function<std::unique_ptr<ShrinkShop>(const ShrinkRun& run)>;
ShrinkShopMaker cpu_shrink_shop(const Backend& backend);

// shrink() of shrink.h in such a shop.
ShrinkResult shrink(const ShrinkShopMaker& make_shop, const Model& model, const ShrinkShape& shape,
                    std::span<const std::int64_t> removed_layers, const TokenWindows& windows,
                    const ShrinkOptions& options, ShrinkOutput& output);

// The rows and, for output projections, columns of each linear of the block that stay (kept_rows(),
// kept_columns()); columns are empty where all stay.
struct KeptPart {
  std::vector<std::int64_t> rows, columns;
};
std::vector<KeptPart> kept_parts(const ModelConfig& model, const BlockConfig& block, const KeptUnits& kept);

}  // namespace swiftprune
