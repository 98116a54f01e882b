// Better weights (and, for some, a better mask) for the same sparsity without retraining: the layer's outputs
// x Wᵀ on the calibration inputs are to change as little as possible. With the Gram matrix G = XᵀX the error
// of new weights B is E(B) = tr (W - B) G (W - B)ᵀ.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "swiftprune/backend/backend.h"
#include "swiftprune/refinement/refine_spec.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/selection/pattern.h"
#include "swiftprune/tensor/low_rank.h"
#include "swiftprune/tensor/mask.h"
#include "swiftprune/tensor/matrix.h"
#include "swiftprune/tensor/quantized_weight.h"

namespace swiftprune {

class GridWeight;

struct RefineTask {
  ConstMatrixView weight{};       // [O, I] the dense weights
  const Mask* mask = nullptr;     // [O, I] from scoring and selection; may be null when !uses_mask()
  const Matrix* start = nullptr;  // [O, I] weights to start from; null: weight under the mask
  // Which of the linear's rows the weight is, where it is some of them (RefineSpec::works_by_rows()).
  std::int64_t first_row = 0;
  PruneTarget target{};
  std::optional<QuantGrid> grid{};  // that the new weights are to be on
  std::int64_t low_rank = 0;        // > 0: of a part that stands beside them (RefineFacts::finds_low_rank)
};

struct RefineReport {
  double damping = 0.0;    // added to the Gram's diagonal, relative to its mean
  int damping_raised = 0;  // how often it was raised tenfold because the Gram was not positive definite
};

struct Refinement {
  Matrix weight;                               // [O, I], +0 where pruned; never NaN
  Mask mask;                                   // [O, I]
  std::optional<QuantizedWeight> quantized{};  // the same weights, where the task had a grid
  RefineReport report;
  // Where the task asked for one: weight + low_rank takes the dense weight's place.
  std::optional<LowRank> low_rank{};
};

// What tasks ask for beside zeros.
struct RefineExtras {
  bool grid = false;
  bool low_rank = false;
  bool operator==(const RefineExtras&) const = default;
};

// What depends on the Gram alone (an inverse, say): made once for all linears that share an input.
class PreparedGram {
 public:
  virtual ~PreparedGram() = default;
  const Matrix* gram = nullptr;  // the caller's; null for a refiner that uses none
};

class Refiner {
 public:
  explicit Refiner(const RefineFacts& facts) : facts_(facts) {}
  virtual ~Refiner() = default;
  bool uses_gram() const { return facts_.uses_gram; }
  bool uses_mask() const { return facts_.uses_mask; }
  bool keeps_weights() const { return facts_.keeps_weights; }
  bool uses_alignment() const { return facts_.uses_alignment; }

  // Throws Error{kBadInput} when the Gram is missing or not finite. The matrices of `stats` must outlive the
  // result.
  std::unique_ptr<PreparedGram> prepare(const LayerStats& stats, const Backend& backend,
                                        std::string_view tensor, const RefineExtras& extras = {}) const;
  // `prepared` comes from this refiner and the statistics of this linear's inputs.
  Refinement refine(const RefineTask& task, const PreparedGram& prepared, const Backend& backend) const;

 private:
  virtual std::unique_ptr<PreparedGram> do_prepare(const LayerStats& stats, const Backend& backend,
                                                   std::string_view tensor,
                                                   const RefineExtras& extras) const = 0;
  virtual Refinement do_refine(const RefineTask& task, const PreparedGram& prepared,
                               const Backend& backend) const = 0;

  RefineFacts facts_;
};

std::unique_ptr<Refiner> make_refiner(const RefineSpec& spec);

// What a refiner on a grid returns.
Refinement on_grid_result(GridWeight weight, const Mask& mask);

}  // namespace swiftprune
