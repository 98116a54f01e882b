// Alternating directions on "small output error" and "sparse": mask and weights are found together.
// With n_j = √G_jj + 1e-8, A = G/(n nᵀ) + damping·I, W' = W·n, P = (A + ρI)⁻¹, U = 0, Z = W':
//   B = (W'A + ρ(Z - U))P;  Y = B + U;  keep the largest |Y| of the pattern;  Z = Y⊙keep;  U = U + B - Z
// and Z/n in the end, while the sparsity rises along a cubic ramp.
// Source: ADMM weight update for pruned LLMs (arXiv 2401.02938), ALPS (arXiv 2406.07831).
//
// Since A = P⁻¹ - ρI, W'AP = W' - ρW'P =: C, and since U + B = Y, the new U is Y - Z: one matrix T = Z - U =
// 2Z - Y carries the state, an iteration is the single product Y = C + U + ρTP, and the first needs none (Z =
// W' and U = 0 give B = W').
//
// With a low-rank part L beside the sparse one (three blocks: 3BASiL, NeurIPS 2025) B is to come near to W' - L': each
// step ends with the L' that is best for its B (low_rank_fit.h, in the metric A), and C becomes (W' - L')AP =
// C - L' + ρL'P. The last L' is fit to the Z that is returned.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "swiftprune/refinement/grid_solver.h"
#include "swiftprune/refinement/low_rank_fit.h"
#include "swiftprune/refinement/refiner.h"
#include "swiftprune/selection/selector.h"

namespace swiftprune {

class AdmmGram final : public PreparedGram {
 public:
  std::vector<float> norm;  // [I] n
  Matrix inverse;           // [I, I] P
  // P again, in bf16, where the iteration multiplies so; else null.
  std::unique_ptr<PackedWeight> rounded;
  double damping = 0.0;  // in use
  int damping_raised = 0;
  std::optional<GridGram> grid;  // where a task has a grid: damped by kGridDamping
  // Where a task asks for a low-rank part: [I, I] A and A⁻¹.
  Matrix metric, metric_inverse;
};
AdmmGram prepare_admm(const Matrix& gram, const AdmmOptions& options, const Backend& backend,
                      std::string_view tensor, ComputeType compute = ComputeType::kF32,
                      const RefineExtras& extras = {});

// The iteration by itself: start, then `step` with the target of that step (admm_target()), then the result.
class AdmmIteration {
 public:
  // weight [O, I]; `gram` must outlive this.
  AdmmIteration(ConstMatrixView weight, const AdmmGram& gram, double rho, const Backend& backend);
  // right [O, I] in place of W'A: what the weights are to reproduce is no longer W itself.
  AdmmIteration(ConstMatrixView weight, ConstMatrixView right, const AdmmGram& gram, double rho,
                const Backend& backend);
  // Before the first step: a part of this rank stands beside the weights. best [O, I]: the scaled weights that without
  // zeros would be the best, W' or what solves B A = right.
  void add_low_rank(std::int64_t rank, Matrix best);
  void step(const PruneTarget& target);
  const Mask& mask() const { return mask_; }
  // Fit to the weights of the last step, in the units of W; before take_weight().
  LowRank take_low_rank();
  // Z/n [O, I]; ends the iteration.
  Matrix take_weight();

 private:
  void multiply();  // Y += ρ(Z - U)P
  void start_error();
  void finish_error();  // of B
  void fit_low_rank(int rounds);
  void move_constant();  // C of what the low-rank part leaves

  const AdmmGram& gram_;
  const Backend& backend_;
  float rho_;
  bool first_ = true;
  Matrix constant_;  // C
  Matrix y_;         // Y, then C + U between steps
  Matrix t_;         // Z - U
  Matrix product_;   // (Z - U)P where P is in bf16
  Mask mask_;
  struct LowRankState {
    LowRankFit fit;
    Matrix best;   // [O, I]
    Matrix whole;  // [O, I] C without the low-rank part
    Matrix error;  // [O, I] best - B, in the end best - Z
  };
  std::optional<LowRankState> low_rank_;
};

// W·n [O, I]
Matrix scaled_weights(ConstMatrixView weight, const AdmmGram& gram);

// What makes grids possible with `gram`.
void prepare_admm_grid(AdmmGram& gram, const Backend& backend, std::string_view tensor);
// The iteration's result, moved onto the task's grid. target [O, I]: of grid_solver.h.
Refinement put_on_grid(const RefineTask& task, const Refinement& refined, ConstMatrixView target,
                       const AdmmGram& gram, const Backend& backend);

// Share of the final sparsity at step t (from 0): 1 - (1 - (t+1)/ramp)³, 1 from `ramp` on.
double ramp_share(int t, int ramp);
// All steps of the ramp, the last with the full target.
void run_steps(AdmmIteration& iteration, const PruneTarget& target, int steps, int ramp);

std::unique_ptr<Refiner> make_admm(const AdmmOptions& options);

}  // namespace swiftprune
