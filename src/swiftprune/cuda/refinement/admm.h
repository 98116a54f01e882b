// admm and aligned-admm on the device: the algorithm of refinement/admm.h and refinement/aligned_admm.h. The
// step products take F16 operands (as many significant bits as TF32, at twice the rate): each row is scaled
// to at most 1 first, which changes nothing in the solution.
#pragma once

#include <string_view>

#include "swiftprune/cuda/refinement/grid_solver.h"
#include "swiftprune/cuda/selection/matrix_select.h"
#include "swiftprune/cuda/selection/selection_kernels.h"
#include "swiftprune/cuda/statistics/calibration.h"
#include "swiftprune/refinement/refine_spec.h"
#include "swiftprune/selection/pattern.h"

namespace swiftprune::cuda {

// Of both: what the aligned one has beside the steps that they share.
struct DeviceAdmmOptions {
  AdmmOptions admm{};
  bool aligned = false;
  double alpha = 0.0;  // aligned only
  double beta = 0.0;

  DeviceAdmmOptions() = default;
  DeviceAdmmOptions(const AdmmOptions& options) : admm(options) {}
  DeviceAdmmOptions(const AlignedAdmmOptions& options)
      : admm(options.admm()), aligned(true), alpha(options.alpha), beta(options.beta) {}
};

class DeviceAdmm {
 public:
  // Room for linears of at most so many rows and columns. grid: puts the weights on a grid afterwards, where refine() is
  // given one; null where it never is.
  DeviceAdmm(DeviceMemory& memory, Products& products, MatrixSelect& matrix, std::int64_t max_rows,
             std::int64_t max_cols, std::int64_t max_numel, cudaStream_t stream,
             DeviceGridSolver* grid = nullptr);

  // Uses up the matrices of `stats`: they hold other things afterwards. moments [I, I]: the memory of the
  // cross moments, whether there are any or not (aligned only). Waits for the device.
  void prepare(const DeviceStats& stats, const DeviceAdmmOptions& options, float* moments,
               std::string_view tensor);
  double damping() const { return damping_; }
  bool damping_raised() const { return raised_ > 0; }
  // weight [O, I] -> refined and rounded into `out` [O, I] of the same dtype. Of rows of a linear: the first one's place
  // among all, for the residual moments.
  void refine(DeviceView weight, const PruneTarget& target, DeviceView out, PruneCounters* counters,
              std::int64_t first_row = 0);
  // The same, on the grid: values [O, I] F32, exact, beside their rounding to `out`.
  void refine_on_grid(DeviceView weight, const PruneTarget& target, const QuantGrid& grid, DeviceView values,
                      DeviceView out, PruneCounters* counters);
  // energies [rows] = x G xᵀ of each row of x [rows, I] F32 (rows of a linear at most), with the Gram matrix
  // that was prepared, which is kept in F16 for columns of a common size.
  void output_energies(DeviceView x, double* energies);

 private:
  // Steps of weights [O, I]; wide_ holds the result, normalised. grid_target: also what the grid aims at.
  void iterate(DeviceView weight, const PruneTarget& target, std::int64_t first_row, DeviceView grid_target);
  const double* wanted() const { return options_.aligned ? wanted_.as<double>() : nullptr; }
  void factorise(std::string_view tensor);
  void step(DeviceView y, DeviceView constant, DeviceView result, const PruneTarget& target, double share);
  void prepare_matrix_step(DeviceView y);
  void row_energies(DeviceView x, double* energies);

  DeviceMemory& memory_;
  Products& products_;
  MatrixSelect& matrix_;
  cudaStream_t stream_;
  DeviceGridSolver* grid_;
  DeviceAdmmOptions options_;
  double damping_ = 0.0;
  int raised_ = 0;
  std::int64_t inputs_ = 0;
  DeviceBuffer norm_, p_half_, a_half_, bad_;  // of the input
  float* factor_ = nullptr;                    // [I, I] W with P = WᵀW, in the memory of the Gram matrix
  float* moments_ = nullptr;                   // [I, I], in the memory of the cross moments
  const float* residual_ = nullptr;
  DeviceBuffer wide_, constant_, y_, t_, scale_, wanted_, found_, counts_;  // of the linear
  DeviceBuffer grid_target_;
  DeviceBuffer mask_, zeros_and_ones_;  // of the patterns layer and block
};

}  // namespace swiftprune::cuda
