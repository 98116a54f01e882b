// All refinements on the device, with the meaning of refinement/refiner.h: one after the other where they are
// joined by '+'. Products are in float, with --compute bf16 in TF32; the steps of admm as admm.h has them.
#pragma once

#include <optional>
#include <vector>

#include "swiftprune/cuda/refinement/admm.h"
#include "swiftprune/cuda/refinement/damped_factor.h"
#include "swiftprune/cuda/refinement/grid_solver.h"
#include "swiftprune/cuda/refinement/refinement_kernels.h"
#include "swiftprune/cuda/selection/matrix_select.h"
#include "swiftprune/cuda/selection/selection_kernels.h"
#include "swiftprune/cuda/selection/selector.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/refinement/refine_spec.h"

namespace swiftprune::cuda {

class DeviceRefiner {
 public:
  // Room for what the plan's entries ask for.
  DeviceRefiner(DeviceMemory& memory, Products& products, MatrixSelect& matrix, const Plan& plan,
                const LinearSizes& sizes, DType compute, cudaStream_t stream);

  // For the linears of one input. Uses up the Gram matrix; cross: memory [I, I] of the cross moments. stats: null, or
  // without a Gram matrix, where the refinement reads none.
  void prepare(const RefineSpec& spec, const DeviceStats* stats, float* cross, std::string_view tensor);
  // mask [O, I]: what selection keeps, where the refinement reads one; changes. Of rows of a linear: the first one's
  // place among all.
  void refine(DeviceView weight, std::uint8_t* mask, const PruneTarget& target, DeviceView out,
              PruneCounters* counters, std::int64_t first_row = 0);
  // The same of a whole linear, on the grid.
  QuantizedWeight refine_on_grid(DeviceView weight, std::uint8_t* mask, const PruneTarget& target,
                                 const QuantGrid& grid, DeviceView out, PruneCounters* counters);
  // energies [rows] = x G xᵀ of each row of x [rows, I] F32, with the Gram matrix that was prepared; product:
  // room for as much as x.
  void row_energies(DeviceView x, float* product, double* energies);
  // Where it had to be raised for this input.
  std::optional<double> raised_damping() const { return raised_damping_; }
  bool keeps_weights() const { return spec_.facts().keeps_weights; }

 private:
  void run(const RefinePart& part, DeviceView weight, const float* start, std::uint8_t* mask,
           const PruneTarget& target, DeviceView out, PruneCounters* counters, std::int64_t first_row,
           const QuantGrid* grid);
  void run_parts(DeviceView weight, std::uint8_t* mask, const PruneTarget& target, DeviceView out,
                 PruneCounters* counters, std::int64_t first_row, const QuantGrid* grid);
  void run_admm(DeviceView weight, const PruneTarget& target, DeviceView out, PruneCounters* counters,
                std::int64_t first_row, const QuantGrid* grid);
  void prepare_gptq(const GptqOptions& options, std::string_view tensor);
  DeviceView values_of(DeviceView weight) const {
    return view_of(values_.data(), DType::kF32, weight.rows, weight.cols);
  }
  void run_pcg(const PcgOptions& options, DeviceView weight, const float* start, const std::uint8_t* mask,
               DeviceView out, PruneCounters* counters);
  void run_swaps(const SwapsOptions& options, DeviceView weight, std::uint8_t* mask,
                 const PruneTarget& target, DeviceView out, PruneCounters* counters);
  void run_sparsegpt(DeviceView weight, const PruneTarget& target, DeviceView out, PruneCounters* counters);
  // The mask of the block of columns [first, first + size), of which `keys` are the weights.
  void select_block(const PruneTarget& target, const SparseGptArgs& args, std::int64_t first,
                    std::int64_t cols, const float* column, float* keys, std::uint8_t* mask);
  DeviceView work(int i, DeviceView like) const;

  Products& products_;
  MatrixSelect& matrix_;
  cudaStream_t stream_;
  bool tf32_;
  std::optional<DeviceGridSolver> grid_;
  std::optional<DeviceAdmm> admm_;
  std::optional<DampedFactor> factor_;
  std::vector<DeviceBuffer> work_;   // [O, I] F32 each
  DeviceBuffer values_, grid_norm_;  // of a linear on a grid
  DeviceBuffer gram_copy_, between_, mask_, columns_, energy_, block_mask_, counts_, unused_counters_;
  RefineSpec spec_;  // of the input in hand
  std::int64_t inputs_ = 0;
  const float* gram_ = nullptr;
  double unit_ = 1.0;
  std::optional<double> raised_damping_;
};

}  // namespace swiftprune::cuda
