// refinement/grid_solver.h on the device: the weights on a grid of few bits that change a linear's outputs least. Columns
// lie in the order in which they are rounded. What differs from the processor's: rows descend until few weights move, kept
// and pruned weights change places in the first rounds alone, and the scales come from a few steps of conjugate gradients.
#pragma once

#include <cstdint>
#include <string_view>

#include "swiftprune/cuda/refinement/grid_kernels.h"
#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/refinement/grid_solver.h"
#include "swiftprune/selection/pattern.h"
#include "swiftprune/tensor/quantized_weight.h"

namespace swiftprune::cuda {

class DeviceGridSolver {
 public:
  // Room for linears of at most so many rows, inputs, weights and groups. descends: for solve().
  struct Room {
    std::int64_t rows = 0, inputs = 0, numel = 0, groups = 0;
    bool descends = false;
  };
  DeviceGridSolver(DeviceMemory& memory, Products& products, const Room& room, bool tf32,
                   cudaStream_t stream);

  // H = G + damping·diag(n²); gram [I, I] stays. norm [I]: on the device. dead: the diagonal of inputs without energy.
  // Waits for the device.
  void prepare(const float* gram, std::int64_t inputs, const float* norm, double damping, double dead,
               ColumnOrder order, std::string_view tensor);
  double damping() const { return damping_; }
  int raised() const { return raised_; }

  // values [rows, I] F32, contiguous: the start, zero where pruned, in the file's order; on the grid afterwards.
  void solve(DeviceView values, DeviceView target, const Pattern& pattern, const QuantGrid& grid);
  // target = w H, for solve(). w [rows, I] F32
  void target_of(DeviceView w, DeviceView target);
  // GPTQ: mask [rows, I] of what is kept.
  void round_columns(DeviceView values, const std::uint8_t* mask, GroupScales scales, const QuantGrid& grid);
  // To the nearest values, with the grids of the ranges.
  void round_to_nearest(DeviceView values, const QuantGrid& grid);

  // Of the values that were found last: rows [first, ...) of `weight`, on the host. Waits for the device.
  void download(DeviceView values, std::int64_t first, QuantizedWeight& weight);

 private:
  GridRows rows_of(DeviceView values, const QuantGrid& grid) const;
  DeviceView square(const DeviceBuffer& buffer) const {
    return view_of(buffer.data(), DType::kF32, inputs_, inputs_);
  }
  DeviceView like(const DeviceBuffer& buffer, const GridRows& grid) const {
    return view_of(buffer.data(), DType::kF32, grid.rows, grid.cols);
  }
  void round_in_order(const GridRows& grid, const std::uint8_t* kept, bool range_on_the_way);
  void fit_scales(const GridRows& grid);

  Products& products_;
  const bool tf32_;
  cudaStream_t stream_;
  std::int64_t inputs_ = 0;
  double damping_ = 0.0;
  int raised_ = 0;
  GridRows last_;                              // of the values that were found last
  DeviceBuffer h_, factor_, scratch_, bad_;    // of the input, [I, I]
  DeviceBuffer order_, place_, diagonal_;      // diagonal_: of h_, in its order
  DeviceBuffer energies_;                      // the same by column
  DeviceBuffer w_, gradient_, kept_, errors_;  // of the rows in hand, in the order
  DeviceBuffer scales_, zeros_;                // [rows, groups]
  DeviceBuffer fit_scales_, fit_direction_, fit_slope_, fit_gradient_, v_, vh_;
  DeviceBuffer codes_, scale_bits_, zero_codes_;
  GridState state_;
};

}  // namespace swiftprune::cuda
