// Launchers of refinements (refine.cu, invert_block.cu, pcg.cu, swaps.cu, sparsegpt.cu), as runtime/launch.h has them.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "swiftprune/cuda/selection/selection_kernels.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune::cuda {

// gram [n, n]: the upper triangle becomes the mirror of the lower.
void symmetrize(float* gram, std::int64_t n, cudaStream_t stream);
// norm_j = √(G_jj + floor·mean) + 1e-8, mean the diagonal's
void admm_norms(const float* gram, std::int64_t n, double floor, float* norm, cudaStream_t stream);
// a_ij = G_ij/(n_i n_j), + shift on the diagonal; y in F32 or F16
void normalised_gram(const float* gram, const float* norm, std::int64_t n, float shift, float scale, void* y,
                     DType y_dtype, cudaStream_t stream);
// moments_ij = ((1 - alpha)·G_ij + alpha·C_ij)/n_j in place of C; cross may be null: then written to
// `moments`
void aligned_moments(const float* gram, const float* cross, const float* norm, std::int64_t n, float alpha,
                     float* moments, cudaStream_t stream);
// A base block of inverse.h (invert_block.cu): a [n, n] (stride), n <= inverse_block(), both halves given,
// becomes L⁻¹; *bad is set when a pivot is not positive. The size depends on the device's shared memory.
std::int64_t inverse_block();
void invert_block(float* a, std::int64_t stride, std::int64_t n, int* bad, cudaStream_t stream);
// Rows are brought to a common size, so that F16 holds them: scale [rows] is the power of two above the row's
// largest |w·n|. scaled = w·n/scale (F16), wide (F32) the same when scale_wide, else w.
void admm_start(const void* weight, DType dtype, const float* norm, std::int64_t rows, std::int64_t cols,
                float* scale, void* scaled, float* wide, bool scale_wide, cudaStream_t stream);
void add_diagonal(float* a, std::int64_t n, float shift, cudaStream_t stream);
// right [rows, cols] = (right + damping·w·n + beta·R/n)/scale; residual may be null
void admm_right(float* right, const float* wide, const float* norm, const float* residual, float beta,
                float damping, const float* scale, std::int64_t rows, std::int64_t cols, cudaStream_t stream);
// y holds C, which may be much larger than the weights: where a row's |C| exceeds 2, C, t and 1/scale (and
// the square root of wanted) are divided by the power of two that ends it. C goes to constant and stays in y.
void admm_rescale(float* constant, float* y, void* t, float* scale, double* wanted, std::int64_t rows,
                  std::int64_t cols, cudaStream_t stream);
// energies [rows] = Σ_j x_rj·p_rj in double, p F32
void row_dots(const void* x, DType dtype, const float* p, std::int64_t rows, std::int64_t cols,
              double* energies, cudaStream_t stream);
// energies [rows] = Σ_j x_rj²·weights_j
void weighted_row_energies(const void* x, DType dtype, const double* weights, std::int64_t rows,
                           std::int64_t cols, double* energies, cudaStream_t stream);
// weight = z·scale/n, each row times clip(√(wanted/found), 1/2, 2)^½ where both are positive (null: no
// factor); pruned ones (z = 0) stay +0.
void admm_finish(const float* z, const float* scale, const float* norm, const double* wanted,
                 const double* found, std::int64_t rows, std::int64_t cols, void* weight, DType dtype,
                 PruneCounters* counters, cudaStream_t stream);

// b [rows, cols] F32 rounded into `weight`, counted as in admm_finish.
void round_weights(const float* b, std::int64_t rows, std::int64_t cols, void* weight, DType dtype,
                   PruneCounters* counters, cudaStream_t stream);
// mask = 1 where b is not 0
void mask_of(const float* b, std::int64_t n, std::uint8_t* mask, cudaStream_t stream);
// The inverse of [n, n] symmetric a reversed in both directions has the factor of a⁻¹ reversed: element i
// goes to n - 1 - i.
void reverse(float* a, std::int64_t n, cudaStream_t stream);
// a_jj += shift; an a_jj of 0 becomes dead_diagonal first
void damp_diagonal(float* a, std::int64_t n, float shift, float dead_diagonal, cudaStream_t stream);

// Least squares on the kept weights (refinement/pcg.h) around its products p·G (pcg.cu); damping is added to
// the diagonal of G in all of them. [rows, cols] F32 each.
struct PcgArgs {
  const void* weight = nullptr;
  DType dtype = DType::kF32;
  const std::uint8_t* mask = nullptr;
  const float* diagonal = nullptr;  // [cols] 1/(G_jj + damping)
  float damping = 0.0f;
  float* b = nullptr;
  float* p = nullptr;
  float* q = nullptr;  // the product
  float* r = nullptr;
  float* energy = nullptr;  // [rows]
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};
// diagonal [n] of a Gram matrix
void pcg_diagonal(const float* gram, std::int64_t n, float damping, float* diagonal, cudaStream_t stream);
// start [rows, cols] or null: b = start or the weights under the mask, p = W - b.
void pcg_start(const PcgArgs& args, const float* start, cudaStream_t stream);
void pcg_begin(const PcgArgs& args, cudaStream_t stream);  // q = (W - b)G -> r, p, energy
void pcg_step(const PcgArgs& args, cudaStream_t stream);   // q = pG -> b, r, p, energy

// Exchanges of kept and pruned weights (refinement/swaps.h), rows side by side (swaps.cu).
struct SwapsArgs {
  const void* weight = nullptr;  // [rows, cols]
  DType dtype = DType::kF32;
  const float* gram = nullptr;      // [cols, cols]
  const float* diagonal = nullptr;  // [cols] of it
  float* c = nullptr;               // [rows, cols] pruned part times Gram, changes
  std::uint8_t* mask = nullptr;     // [rows, cols], changes
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  int max_swaps = 0;
  int group = 0;  // m of n:m, 0: the whole row
};
void take_diagonal(const float* a, std::int64_t n, float* diagonal, cudaStream_t stream);
// pruned [rows, cols] F32 = the weights where the mask is 0, else 0
void pruned_part(const void* weight, DType dtype, const std::uint8_t* mask, std::int64_t n, float* pruned,
                 cudaStream_t stream);
void swap_weights(const SwapsArgs& args, cudaStream_t stream);

// SparseGPT (refinement/sparsegpt.h), columns in blocks (sparsegpt.cu).
inline constexpr std::int64_t kSparseGptBlock = 128;
struct SparseGptArgs {
  float* w = nullptr;  // [rows, stride] F32, the block's first column
  std::int64_t stride = 0;
  const float* factor = nullptr;  // U of H⁻¹ = UᵀU, the block's corner on the diagonal
  std::int64_t factor_stride = 0;
  const std::uint8_t* mask = nullptr;  // [rows, size], or null with a group
  float* errors = nullptr;             // [rows, size]
  std::int64_t rows = 0;
  int size = 0;  // columns, at most kSparseGptBlock
  int kept = 0;  // of each `group` columns, chosen as they come; 0: by the mask
  int group = 0;
};
// w = weight (F32), 0 in columns where the diagonal of `gram` is 0
void sparsegpt_start(const void* weight, DType dtype, const float* gram, std::int64_t rows, std::int64_t cols,
                     float* w, cudaStream_t stream);
// column [size] = 1/U_jj of the block; keys [rows, size] the block's weights, contiguous
void sparsegpt_block(const SparseGptArgs& args, float* column, float* keys, cudaStream_t stream);
// Zeroes what goes and makes up for it in the block's columns to the right.
void sparsegpt_compensate(const SparseGptArgs& args, cudaStream_t stream);

}  // namespace swiftprune::cuda
