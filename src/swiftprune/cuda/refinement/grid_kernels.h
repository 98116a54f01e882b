// Kernels of the weights on a grid of few bits (grid.cu, grid_descent.cu), which cuda/refinement/grid_solver.h puts together. Matrices are
// F32; "in the order": columns as GridRows::order has them.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "swiftprune/tensor/dtype.h"

namespace swiftprune::cuda {

inline constexpr std::int64_t kGridBlock = 128;  // columns that are rounded one after the other

// Rows of a linear and their grids: group g of row r is scale·{-zero, ..., 2^bits - 1 - zero}.
struct GridRows {
  std::int64_t rows = 0, cols = 0;
  std::int64_t width = 0;  // inputs of a group
  int bits = 4;
  bool asymmetric = false;
  float* scales = nullptr;              // [rows, groups], f16 numbers
  float* zeros = nullptr;               // [rows, groups], whole numbers
  const std::int32_t* order = nullptr;  // [cols] which column stands at each place
  const std::int32_t* place = nullptr;  // [cols] where each column stands

  std::int64_t groups = 1;  // of a row
};

// h [n, n] = gram in the order
void ordered_gram(const float* gram, const std::int32_t* order, std::int64_t n, float* h,
                  cudaStream_t stream);
// a [n, n] = h_ij/(norm_i norm_j), norm [n] by column, h in the order; shift on the diagonal
void ordered_normalised(const float* h, const float* norm, const std::int32_t* order, std::int64_t n,
                        float shift, float* a, cudaStream_t stream);
// factor [n, n], in the order: column i divided by the norm of its column; diagonal of h += damping·norm²
void ordered_rescale(float* factor, float* h, const float* norm, const std::int32_t* order, std::int64_t n,
                     float damping, cudaStream_t stream);
// diagonal [n], by column, of h in the order
void ordered_diagonal(const float* h, const std::int32_t* order, std::int64_t n, float* diagonal,
                      cudaStream_t stream);
// to [rows, cols] in the order, of `from` in the file's; mask: 1 where `to` is not 0, or null. back: the other way.
void order_columns(const GridRows& grid, const float* from, float* to, std::uint8_t* mask, bool back,
                   cudaStream_t stream);

// to [rows, cols] in the order, of a mask in the file's
void order_mask(const GridRows& grid, const std::uint8_t* from, std::uint8_t* to, cudaStream_t stream);

// Grids of all groups of w [rows, cols] (in the file's order), by their range or by search (refinement/grid_search.h).
void range_grids(const GridRows& grid, const float* w, cudaStream_t stream);
void search_grids(const GridRows& grid, const float* w, const float* importance, cudaStream_t stream);
// w (in the file's order) to the nearest values.
void round_to_grid(const GridRows& grid, float* w, cudaStream_t stream);

// Of at most kGridBlock columns in the order, from place `first` on. Pointers are to the block's first column.
struct GridBlock {
  float* w = nullptr;                  // [rows, stride]
  const std::uint8_t* kept = nullptr;  // [rows, stride], or null: all
  const float* matrix = nullptr;       // the block's corner on the diagonal of the factor U
  std::int64_t stride = 0, matrix_stride = 0;
  std::int64_t first = 0;
  int size = 0;
};
// errors [rows, size]. range_on_the_way: a group's grid is that of its range when its first column comes; the order is
// the file's then and kGridBlock holds whole groups.
void round_grid_block(const GridRows& grid, const GridBlock& block, bool range_on_the_way, float* errors,
                      cudaStream_t stream);
// All columns [rows, cols] in the order.
struct GridState {
  float* w = nullptr;
  float* gradient = nullptr;  // w H - target
  std::uint8_t* kept = nullptr;
  const float* h = nullptr;         // [cols, cols]
  const float* diagonal = nullptr;  // [cols] of h
};
// Each weight in turn goes to the grid's value nearest to its best, and the gradient follows; at most `sweeps` times over
// a row, while one of its weights moves. A row's gradient has to fit into a block's shared memory.
void descend_on_grid(const GridRows& grid, const GridState& state, int sweeps, cudaStream_t stream);
// Kept and pruned weights change places, at most `most` pairs of each `unit` columns (in the file's order), each where it
// makes the error smaller.
void exchange_weights(const GridRows& grid, const GridState& state, std::int64_t unit, int most,
                      cudaStream_t stream);

// The least-squares scales of the codes, by conjugate gradients of all rows at once. Of each group: solution, direction.
struct GridScales {
  float* scales = nullptr;     // [rows, groups] what is looked for
  float* direction = nullptr;  // [rows, groups]
  double* slope = nullptr;     // [rows] of the step before
  float* gradient = nullptr;   // [rows, cols] that follows the scales
  float* v = nullptr;          // [rows, cols] what the direction does to the weights
  const float* vh = nullptr;   // [rows, cols] v H
};
// The next direction and its v; first: of the scales as they are.
void next_scale_direction(const GridRows& grid, const GridState& state, const GridScales& fit, bool first,
                          cudaStream_t stream);
// As far along it as makes the error least; scales and gradient follow.
void step_scales(const GridRows& grid, const GridScales& fit, cudaStream_t stream);
// v = what the scales, rounded and within a factor of two of the grid's, change of the weights.
void changes_of_scales(const GridRows& grid, const GridState& state, const GridScales& fit,
                       cudaStream_t stream);
// Rows whose error becomes smaller take them over: w, its gradient and the grid's scales.
void take_scales(const GridRows& grid, const GridState& state, const GridScales& fit, cudaStream_t stream);

// codes [rows, cols] of w, both in the file's order; scales as f16 bits, zeros, both [rows, groups]
void grid_codes(const GridRows& grid, const float* w, std::uint8_t* codes, std::uint16_t* scales,
                std::uint8_t* zeros, cudaStream_t stream);

// What admm leaves for the grid (refinement/admm.h, refinement/aligned_admm.h), rows in the file's order.
// target = norm·(right·scale + more·norm·w)
void aligned_grid_target(const float* right, const float* scale, const void* w, DType dtype,
                         const float* norm, float more, std::int64_t rows, std::int64_t cols, float* target,
                         cudaStream_t stream);
// start = z·scale·f/norm, target·f if there is one; f = the root of √(wanted/found), within [1/2, 2]; 1 without them
void grid_start(const float* z, const float* scale, const float* norm, const double* wanted,
                const double* found, std::int64_t rows, std::int64_t cols, float* start, float* target,
                cudaStream_t stream);
// start = w where the mask keeps it, else 0; w in `dtype`, or F32 where `from` is given
void masked_start(const void* w, DType dtype, const float* from, const std::uint8_t* mask, std::int64_t n,
                  float* start, cudaStream_t stream);

}  // namespace swiftprune::cuda
