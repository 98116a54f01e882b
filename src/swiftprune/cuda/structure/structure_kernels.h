// Launchers of structured pruning and of the removal of experts (columns.cu, expert_rows.cu), as runtime/launch.h has them.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "swiftprune/tensor/dtype.h"

namespace swiftprune::cuda {

// kept [n]: the columns that stay, rising; place [cols]: a column's place among them, or -1. norm [cols] as
// of admm_norms(). a [n, n] = G_pq/(n_p n_q) over the kept columns, + shift on the diagonal
void kept_gram(const float* gram, std::int64_t inputs, const float* norm, const std::int32_t* kept,
               std::int64_t n, float shift, float* a, cudaStream_t stream);
// moments [inputs, n] = ((1 - alpha)·G_ik + alpha·C_ik)/n_k; cross may be null: alpha 0
void kept_moments(const float* gram, const float* cross, std::int64_t inputs, const float* norm,
                  const std::int32_t* kept, std::int64_t n, float alpha, float* moments, cudaStream_t stream);
// right [rows, n] = damping·w_ok·n_k + beta·R_ok/n_k; weight, residual (or null) [rows, cols]
void kept_right(const void* weight, DType dtype, const float* residual, std::int64_t rows, std::int64_t cols,
                const float* norm, const std::int32_t* kept, std::int64_t n, float damping, float beta,
                float* right, cudaStream_t stream);
// weight [rows, cols] = b/n_k in the kept columns of b [rows, n], +0 in the others
void spread_columns(const float* b, const float* norm, const std::int32_t* place, std::int64_t rows,
                    std::int64_t cols, std::int64_t n, void* weight, DType dtype, cudaStream_t stream);
// +0 in all but the kept columns
void keep_columns(const std::int32_t* place, std::int64_t rows, std::int64_t cols, void* weight, DType dtype,
                  cudaStream_t stream);
// y [num_rows, num_columns] = x [., x_cols] at `rows` and `columns` (null: the first ones)
void gather(const void* x, DType dtype, std::int64_t x_cols, const std::int32_t* rows, std::int64_t num_rows,
            const std::int32_t* columns, std::int64_t num_columns, void* y, cudaStream_t stream);
// sums [rows] = Σ_j (a_rj - b_rj)·weights_j
void weighted_differences(const void* a, const void* b, DType dtype, std::int64_t rows, std::int64_t cols,
                          const double* weights, double* sums, cudaStream_t stream);

// -- Removal of experts (expert_rows.cu) --------------------------------------------------------------------
// norms [rows] = √Σ_j x², largest [rows] = max_j |x| of x = a + factor·b; b may be null.
void row_sizes(const float* a, const float* b, std::int64_t rows, std::int64_t cols, double* norms,
               double* largest, cudaStream_t stream, float factor = 1.0f);
// squares [rows] = Σ_j y², products [rows] = Σ_j y·(y - dense)
void row_products(const float* y, const float* dense, std::int64_t rows, std::int64_t cols, double* squares,
                  double* products, cudaStream_t stream);
// y [., cols] at `rows` = values [n, cols]
void place_rows(const float* values, const std::int32_t* rows, std::int64_t n, std::int64_t cols, void* y,
                DType dtype, cudaStream_t stream);
// changes [n] = Σ_j d·(d + 2·(y - dense)) with d = factors·(y, f, next); y, dense and next [., cols] at `rows`
struct ExpertChangesArgs {
  const float* f = nullptr;  // [n, cols]
  const std::int32_t* rows = nullptr;
  const double* factors = nullptr;  // [n, 3]
  const float* y = nullptr;
  const float* dense = nullptr;
  std::int64_t n = 0;
  std::int64_t cols = 0;
  double* changes = nullptr;
};
void expert_changes(const ExpertChangesArgs& args, const void* next, DType dtype, cudaStream_t stream);
// out [n, cols] = roots_i·(dense - y) at `rows`
void lacking_rows(const float* dense, const float* y, const std::int32_t* rows, const float* roots,
                  std::int64_t n, std::int64_t cols, float* out, cudaStream_t stream);
// out [n] = weight + fit, rounded; fit becomes what that changed
void apply_fit(const void* weight, DType dtype, float* fit, std::int64_t n, void* out, cudaStream_t stream);

}  // namespace swiftprune::cuda
