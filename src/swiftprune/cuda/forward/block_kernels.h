// Launchers of a block's arithmetic, of scores and of effects (block_ops.cu, scores.cu, statistics.cu), as runtime/launch.h has
// them.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "swiftprune/cuda/runtime/launch.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune::cuda {

struct NormArgs {
  const float* x = nullptr;     // [rows, cols]
  std::int64_t stride = 0;      // of x; 0: cols
  const float* gain = nullptr;  // [cols] or null
  const float* bias = nullptr;  // [cols] or null
  bool layer = false;           // LayerNorm, else RMSNorm
  float gain_offset = 0.0f;
  float eps = 1e-5f;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};
// y_stride: 0: cols
void norm(const NormArgs& args, void* y, DType y_dtype, cudaStream_t stream, std::int64_t y_stride = 0);
// y += factor·norm(x)
void norm_add(const NormArgs& args, float factor, float* y, cudaStream_t stream, std::int64_t y_stride = 0);
// y += factor·x
void add(const void* x, DType x_dtype, float* y, std::int64_t n, cudaStream_t stream, float factor = 1.0f);
// x [rows, cols] with its own stride, in place: norm over whole rows (stride and type of x; NormArgs::x is not read)
void norm_rows(const NormArgs& args, void* x, DType dtype, std::int64_t stride, cudaStream_t stream);
// The same rows: every element within ±limit
void clip_rows(void* x, DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t stride, float limit,
               cudaStream_t stream);

// Per head, in place: norm (where it is asked for), then a factor that depends on the position, then the rotary embedding
// (when cos is given). Neighbours that are rotated stay where they are; the processor puts pairs of halves in their
// place, which products of queries and keys do not tell apart.
struct HeadsArgs {
  void* data = nullptr;  // first head of the first row
  DType dtype = DType::kBF16;
  std::int64_t rows = 0;
  std::int64_t row_stride = 0;   // elements
  std::int64_t head_stride = 0;  // elements
  std::int64_t num_heads = 0;
  std::int64_t head_size = 0;  // at most 512
  bool normed = false;
  const float* gain = nullptr;   // [head_size], or [heads, head_size] with gain_stride; null: ones
  const float* bias = nullptr;   // the same, or null
  std::int64_t gain_stride = 0;  // from one head's gain to the next
  bool layer = false;
  float gain_offset = 0.0f;
  float eps = 1e-5f;
  float scale_beta = 0.0f;  // factor 1 + beta·log(1 + position / scale_positions), rounded down in there
  std::int64_t scale_positions = 1;  // with scale_beta
  bool neighbours = false;           // pairs are elements 2i and 2i + 1, else i and i + pairs
  const float* cos = nullptr;        // [positions, pairs]
  const float* sin = nullptr;
  std::int64_t pairs = 0;
  std::int64_t sequence_length = 0;         // row r belongs to sequence s = r / sequence_length
  const std::int32_t* positions = nullptr;  // of each sequence's first row, on the device; null: 0
};
void prepare_heads(const HeadsArgs& args, cudaStream_t stream);

// Heads of rows from one place to another: y [rows, num_heads, padded] = x [rows, num_heads, size], zeros behind it.
struct CopyHeadsArgs {
  const void* x = nullptr;
  DType x_dtype = DType::kBF16;
  std::int64_t x_row_stride = 0;   // elements
  std::int64_t x_head_stride = 0;  // 0: one head for all
  void* y = nullptr;
  DType y_dtype = DType::kBF16;
  std::int64_t y_row_stride = 0;
  std::int64_t y_head_stride = 0;
  std::int64_t rows = 0;
  std::int64_t num_heads = 1;
  std::int64_t size = 0;
  std::int64_t padded = 0;  // 0: size
};
void copy_heads(const CopyHeadsArgs& args, cudaStream_t stream);
// y [rows, heads·size] *= sigmoid(gate), gate of the same dtype: head h of row r at r·row_stride + h·head_stride
struct GateHeadsArgs {
  const void* gate = nullptr;
  std::int64_t row_stride = 0;
  std::int64_t head_stride = 0;
  void* y = nullptr;
  DType dtype = DType::kBF16;
  std::int64_t rows = 0;
  std::int64_t num_heads = 0;
  std::int64_t head_size = 0;
};
void gate_heads(const GateHeadsArgs& args, cudaStream_t stream);
// x [rows, cols] of a stride, in place
void scale_rows(void* x, DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t stride, float factor,
                cudaStream_t stream);

enum class ActivationKind { kSilu, kGelu, kGeluTanh, kRelu, kReluSquared, kQuickGelu, kClippedGelu, kMish };
// gated: x [rows, 2·cols] -> y [rows, cols] = act(first half)·second half; else x [rows, cols] -> y = act(x)
void activate(ActivationKind kind, bool gated, const void* x, std::int64_t rows, std::int64_t cols, void* y,
              DType dtype, cudaStream_t stream);
void convert(const void* x, DType x_dtype, void* y, DType y_dtype, std::int64_t n, cudaStream_t stream);
// logits [rows, cols] F32 (soft-capped when cap > 0), targets [rows] -> log softmax(logits)_target in double
void target_log_probs(const float* logits, std::int64_t rows, std::int64_t cols, float cap,
                      const std::int32_t* targets, double* log_probs, cudaStream_t stream);

// -- Scores (scores.cu) -------------------------------------------------------------------------------------
// logits [rows, cols] F32 -> the likeliest token of each row, the lowest of equal ones
void likeliest(const float* logits, std::int64_t rows, std::int64_t cols, std::int32_t* best,
               cudaStream_t stream);
// kl [rows] = KL(softmax(a) || softmax(b)) of logits [rows, cols], in nats
void row_divergences(const float* a, const float* b, std::int64_t rows, std::int64_t cols, double* kl,
                     cudaStream_t stream);
// differences [rows] = Σ_j (a_rj - b_rj)², references [rows] = Σ_j b_rj²
void row_squares(StridedRows a, StridedRows b, std::int64_t rows, std::int64_t cols, double* differences,
                 double* references, cudaStream_t stream);

// -- Row effects and sensitivities (block_ops.cu, statistics.cu) --------------------------------------------
// x [tokens, 2·cols] (gated) or [tokens, cols]: means over tokens of (up · act'(gate))² and act(gate)² as in
// pipeline/choices/row_budgets.h.
void mlp_effects(ActivationKind kind, bool gated, const void* x, DType dtype, std::int64_t tokens,
                 std::int64_t cols, double* gate, double* up, cudaStream_t stream);
// changes [rows] = |y - x|² / |x|² of each row, 0 where x is
void relative_changes(StridedRows x, StridedRows y, std::int64_t rows, std::int64_t cols, double* changes,
                      cudaStream_t stream);

}  // namespace swiftprune::cuda
