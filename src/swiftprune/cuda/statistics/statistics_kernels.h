// Launchers of the statistics (statistics.cu), as runtime/launch.h has them.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "swiftprune/cuda/runtime/launch.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune::cuda {

// One pass over x [rows, cols]: energy[j] += Σ x², and where given sum[j] += Σ x, peak[j] = max(peak[j],
// max|x|), ewma[j] += ewma_weight·(Σ x² - ewma[j]). partial: statistics_scratch(rows, cols) bytes.
struct StatisticsArgs {
  const void* x = nullptr;
  DType dtype = DType::kBF16;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  double* energy = nullptr;  // [cols]
  double* ewma = nullptr;    // [cols] or null
  double ewma_weight = 1.0;
  double* sum = nullptr;  // [cols] or null
  float* peak = nullptr;  // [cols] or null
  void* scratch = nullptr;
};
std::int64_t statistics_scratch(std::int64_t rows, std::int64_t cols);
void add_statistics(const StatisticsArgs& args, cudaStream_t stream);
// weight [rows, cols] -> row_sums [rows] = Σ_j |w_ij|, column_sums [cols] = Σ_i |w_ij|
void abs_sums(const void* weight, DType dtype, std::int64_t rows, std::int64_t cols, double* row_sums,
              double* column_sums, void* scratch, cudaStream_t stream);
// Weighted residuals and inputs of the aligned refinement. root [rows] = 1/sqrt(rms(hidden_t)), times
// 1/sqrt(rms(out_t)) when `out` [rows, out_cols] F32 is given.
void token_roots(StridedRows hidden, std::int64_t rows, std::int64_t cols, const float* out, float* root,
                 cudaStream_t stream);
// y [rows, cols] = root_t · (a - b); b may be null. a, b, y of their own types. stride: of a's and b's rows; 0: cols
void scaled_difference(const void* a, DType a_dtype, const void* b, DType b_dtype, const float* root,
                       std::int64_t rows, std::int64_t cols, void* y, DType y_dtype, cudaStream_t stream,
                       std::int64_t stride = 0);

}  // namespace swiftprune::cuda
