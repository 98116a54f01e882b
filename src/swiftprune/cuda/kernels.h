// The project's own kernels: launchers over raw device pointers. All are asynchronous on `stream`, add in a
// fixed order (equal inputs give equal bits) and throw Error{kDevice} when the launch fails. Element types
// are F32, F16 or BF16; matrices are row-major.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "swiftprune/tensor/dtype.h"

namespace swiftprune::cuda {

// After each launch: throws Error{kDevice} naming the kernel when it could not start.
void check_launch(const char* kernel);

// Rows of floats, a stride of elements apart.
struct StridedRows {
  const float* data = nullptr;
  std::int64_t stride = 0;
};

// -- Selection (rows.cu, groups.cu) -------------------------------------------------------------------------
// Keys as in scoring/scores.h: |w·fma(row, slope, column)| to the bit; the lowest are pruned, ties from the
// lower index on: the masks of the CPU's selectors.

// What a pruning launch adds up, in device memory; zero it before the first launch.
struct PruneCounters {
  static constexpr int kLanes = 64;      // spread, so that blocks do not queue for one counter
  unsigned long long zeros[kLanes * 4];  // weights that are zero afterwards: the sum of all entries
  unsigned int not_finite;               // not 0: a key was not finite, and the output is to be dropped
};

struct PruneRowsArgs {
  const void* in = nullptr;  // [rows, cols] weights
  void* out = nullptr;       // [rows, cols], may be `in`; pruned ones become +0
  DType dtype = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  const float* column = nullptr;  // [cols] or null (ones)
  const float* row = nullptr;     // [rows] or null, with slope
  const float* slope = nullptr;   // [cols] or null
  std::uint8_t* mask = nullptr;   // [rows, cols] gets 1 where kept, else 0; or null
  PruneCounters* counters = nullptr;
};

// Prunes counts[r] (or, when null, `count`) weights of row r. One pass over the memory for cols <= 32768 that
// are a multiple of 8 (F32: 16384), else several over the cache.
void prune_rows(const PruneRowsArgs& args, std::int64_t count, const std::int32_t* counts,
                cudaStream_t stream);
// Keeps n of every m consecutive weights; m divides cols, m <= 32.
void prune_groups(const PruneRowsArgs& args, int n, int m, cudaStream_t stream);

// Over the whole matrix (layer_select.cu). counts [rows]: how many weights of each row are among the `count`
// lowest of the matrix, as prune_rows() takes them. scratch: layer_scratch(rows) bytes.
std::int64_t layer_scratch(std::int64_t rows);
void layer_counts(const PruneRowsArgs& args, std::int64_t count, void* scratch, std::int32_t* counts,
                  cudaStream_t stream);
// sums [tiles] of key^power over tiles that divide the matrix, tile rows first; then, with the host's choice
// kept [tiles], the mask [rows, cols].
void tile_sums(const PruneRowsArgs& args, std::int64_t tile_rows, std::int64_t tile_cols, int power,
               double* sums, cudaStream_t stream);
void expand_tiles(const std::uint8_t* kept, std::int64_t rows, std::int64_t cols, std::int64_t tile_rows,
                  std::int64_t tile_cols, std::uint8_t* mask, cudaStream_t stream);
// out = in where the mask is 1, else +0; n weights.
void apply_mask(const void* in, const std::uint8_t* mask, std::int64_t n, void* out, DType dtype,
                PruneCounters* counters, cudaStream_t stream);
// The numbers of scoring/random.cpp from its first state on.
void random_scores(std::uint64_t first_state, std::int64_t n, float* scores, cudaStream_t stream);

// One step of admm (refinement/admm.h) after its product: y [rows, cols] holds Y; the weights of the pattern
// are chosen by |Y|, then t = 2Z - Y (F16) and y = constant + Y - Z. `result`, when given, gets Z (F32)
// instead of both: the last step.
struct AdmmStepArgs {
  float* y = nullptr;               // [rows, cols]
  const float* constant = nullptr;  // [rows, cols]
  void* t = nullptr;                // [rows, cols] F16
  float* result = nullptr;          // [rows, cols] or null
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};
void admm_step_rows(const AdmmStepArgs& args, std::int64_t count, const std::int32_t* counts,
                    cudaStream_t stream);
void admm_step_groups(const AdmmStepArgs& args, int n, int m, cudaStream_t stream);
void admm_step_mask(const AdmmStepArgs& args, const std::uint8_t* mask, cudaStream_t stream);  // refine.cu

// -- Statistics (statistics.cu) -----------------------------------------------------------------------------
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

// -- Block arithmetic (block_ops.cu) ------------------------------------------------------------------------
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

// -- Experts (experts.cu) -----------------------------------------------------------------------------------
// Which experts rows use, and with which weights, as model/router.h has it. Ties go to the lower index.
struct RouteArgs {
  const float* logits = nullptr;      // [rows, num_experts], without bias
  const float* bias = nullptr;        // [num_experts] or null
  const float* correction = nullptr;  // [num_experts] or null
  std::int64_t rows = 0;
  int num_experts = 0;
  bool sigmoid = false;  // else softmax
  int top_k = 1;
  int num_groups = 1;  // only experts of the best top_groups can be chosen
  int top_groups = 1;
  bool best_two = true;  // what ranks a group: the sum of its best two, else its best
  bool renormalised = false;
  float scale = 1.0f;
  std::int32_t* chosen = nullptr;  // [rows, top_k] by falling rank
  float* gates = nullptr;          // [rows, top_k]
};
void route(const RouteArgs& args, cudaStream_t stream);

// gate·sigmoid(alpha·gate)·(up + 1), gate at most `limit` and up within ±limit; in place of an activation where limit
// is positive.
struct ClampedGate {
  float alpha = 0.0f;
  float limit = 0.0f;
};
// x [rows, 2·cols] -> y [rows, cols] = of the first and the second half
void clamped_activate(const ClampedGate& clamped, const void* x, std::int64_t rows, std::int64_t cols,
                      void* y, DType dtype, cudaStream_t stream);

// The products of a few rows with the experts that they chose. dtype: of x, weights and inner values.
struct FewExpertsArgs {
  DType dtype = DType::kBF16;
  std::int64_t rows = 0;
  std::int64_t hidden = 0;
  std::int64_t width = 0;
  int top_k = 1;
  const std::int32_t* chosen = nullptr;  // [rows, top_k]
  const float* gates = nullptr;          // [rows, top_k], of experts_down() alone
  const void* up_bias = nullptr;         // [E, 2·width] of dtype ([E, width] without gates), or null
  const float* down_bias = nullptr;      // [E, hidden] or null
  ClampedGate clamped = {};
  bool gated = true;
};
// x [rows, hidden], gate_up [E, 2·width, hidden] (gate first; without gates [E, width, hidden]) -> inner [rows·top_k,
// width]
void experts_up(const FewExpertsArgs& args, ActivationKind kind, const void* x, const void* gate_up,
                void* inner, cudaStream_t stream);
// y [rows, hidden] += Σ_k gate·down, down [E, hidden, width]
void experts_down(const FewExpertsArgs& args, const void* inner, const void* down, float* y,
                  cudaStream_t stream);
// y [., cols] at `rows` (each once) += gate_i·values_i, values [n, cols]
void add_gated_rows(const float* values, const std::int32_t* rows, const float* gates, std::int64_t n,
                    std::int64_t cols, float* y, cudaStream_t stream);
// inner [rows, inner_cols], in place: each row times sigmoid(x·gate), x [rows, cols]
void gate_rows(const void* x, DType dtype, const float* gate, std::int64_t rows, std::int64_t cols,
               std::int64_t inner_cols, void* inner, cudaStream_t stream);

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

// -- Attention (attention.cu) -------------------------------------------------------------------------------
// Causal attention of whole sequences: row r belongs to sequence r / sequence_length. No N×N matrix exists.
struct AttentionArgs {
  const void* q = nullptr;  // head h of row r at r·row_stride + h·head_stride elements; k, v likewise
  const void* k = nullptr;
  const void* v = nullptr;
  void* out = nullptr;  // [rows, heads·head_size]
  DType dtype = DType::kBF16;
  std::int64_t rows = 0;
  std::int64_t sequence_length = 0;
  std::int64_t row_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_size = 0;  // at most kMostHeadSize
  float scale = 1.0f;
  float softcap = 0.0f;     // > 0: cap·tanh(score/cap)
  std::int64_t window = 0;  // > 0: keys a query sees, itself included
  // [heads] or null: a score of each head that every query has beside its keys', and that brings no value
  const float* sinks = nullptr;
  // [heads] or null: slope·(key − query) joins each score (ALiBi)
  const float* slopes = nullptr;
};
inline constexpr std::int64_t kMostHeadSize = 512;
// The fastest kernel that the device has for these arguments.
void attention(const AttentionArgs& args, cudaStream_t stream);
// The kernel of every device, for heads of at most kMostTiledHeadSize and without slopes.
inline constexpr std::int64_t kMostTiledHeadSize = 256;
void attention_portable(const AttentionArgs& args, cudaStream_t stream);

// -- Recurrent mixers (mixers.cu) ---------------------------------------------------------------------------
// Sequences of `length` rows each, one after the other. What is remembered of sequence s lies in lane lanes[s]; where
// positions[s] is 0 nothing is yet. Without lanes all begin anew, and nothing is kept.
struct SequencesArgs {
  std::int64_t rows = 0;
  std::int64_t length = 0;
  const std::int32_t* lanes = nullptr;
  const std::int32_t* positions = nullptr;  // with lanes
};

// y_n = bias + Σ_j taps_j·x_{n − T + 1 + j} of each channel (backend.h), then SiLU where it is asked for.
struct ConvolutionArgs {
  SequencesArgs sequences;
  const void* x = nullptr;       // first channel of the first row
  const void* factor = nullptr;  // multiplies x, as x lies; or null
  DType dtype = DType::kBF16;
  std::int64_t row_stride = 0;  // elements
  std::int64_t channels = 0;
  std::int64_t taps_count = 0;  // T
  const float* taps = nullptr;  // [T, channels]
  const float* bias = nullptr;  // [channels] or null
  bool silu = false;
  float* past = nullptr;  // [lanes, T − 1, channels], with lanes
  float* y = nullptr;     // [rows, channels]
};
void causal_convolution(const ConvolutionArgs& args, cudaStream_t stream);

// Each head of a row, in place, times length/√(Σ x² + eps).
struct ScaleHeadsArgs {
  float* x = nullptr;
  std::int64_t rows = 0;
  std::int64_t row_stride = 0;
  std::int64_t num_heads = 0;
  std::int64_t head_size = 0;
  float length = 1.0f;
  float eps = 0.0f;
};
void scale_heads(const ScaleHeadsArgs& args, cudaStream_t stream);

// time' = max(least_time, softplus(time_scale·time + step_bias)); decays = exp(−e^decay·time'), steps = sigmoid(rate)
// or, without rate, time'.
struct MixerGatesArgs {
  const void* time = nullptr;  // [rows, heads]
  const void* rate = nullptr;  // the same, or null
  DType dtype = DType::kBF16;
  std::int64_t row_stride = 0;  // of both
  std::int64_t rows = 0;
  std::int64_t num_heads = 0;
  const float* decay = nullptr;      // [heads]
  const float* step_bias = nullptr;  // [heads]
  float time_scale = 1.0f;
  float least_time = 0.0f;
  float* decays = nullptr;  // [rows, heads]
  float* steps = nullptr;   // [rows, heads]
};
void mixer_gates(const MixerGatesArgs& args, cudaStream_t stream);

// Backend::recurrence() of each sequence.
inline constexpr std::int64_t kMostStateKeys = 512;
struct RecurrenceArgs {
  SequencesArgs sequences;
  const float* q = nullptr;  // first element of the first row; k, v likewise
  const float* k = nullptr;
  const float* v = nullptr;
  std::int64_t row_stride = 0;  // of all three
  const float* decays = nullptr;
  const float* steps = nullptr;
  std::int64_t num_heads = 0;
  std::int64_t num_key_heads = 0;
  std::int64_t key_size = 0;  // at most kMostStateKeys
  std::int64_t value_size = 0;
  bool delta_rule = false;
  float* state = nullptr;  // [lanes, heads, values, keys], with lanes
  float* y = nullptr;      // [rows, heads·values]
};
void recurrence(const RecurrenceArgs& args, cudaStream_t stream);

// x = y + skip·v; out = norm(x·g), or norm(x)·g, or x·g, group by group of elements; g = silu(gate_scale·gate) or
// gate_scale·gate.
struct MixerOutputArgs {
  const float* y = nullptr;  // [rows, num_groups·group_size]
  std::int64_t rows = 0;
  std::int64_t num_groups = 1;
  std::int64_t group_size = 0;
  const float* skip = nullptr;  // by head; or null
  const float* v = nullptr;     // with skip
  std::int64_t v_stride = 0;
  std::int64_t head_size = 1;  // with skip
  const void* gate = nullptr;
  std::int64_t gate_stride = 0;
  float gate_scale = 1.0f;
  bool silu = true;
  const float* norm = nullptr;   // gain [group_size], or of each group; null: no norm
  std::int64_t norm_stride = 0;  // from one group's gain to the next
  bool norm_first = false;
  float eps = 0.0f;
  void* out = nullptr;
  std::int64_t out_stride = 0;
  DType dtype = DType::kBF16;  // of gate and out
};
void mixer_output(const MixerOutputArgs& args, cudaStream_t stream);

// Rows of [for each key head: q | k | its values | their z][for each key head: its b | its a] -> [q | k | v | z | b | a].
struct UngroupArgs {
  const void* x = nullptr;
  void* y = nullptr;
  DType dtype = DType::kBF16;
  std::int64_t rows = 0;
  std::int64_t key_heads = 0;
  std::int64_t value_heads = 0;
  std::int64_t key_size = 0;
  std::int64_t value_size = 0;
};
void ungroup(const UngroupArgs& args, cudaStream_t stream);

// -- Generation (generation.cu) -----------------------------------------------------------------------------
// Keys and values of several sequences, each in a lane of its own, in pages: position p of lane l lies in page
// pages[l·pages_per_lane + p / kCachePage], whose bytes `keys` and `values` begin [kCachePage, kv_heads·head_size] of the
// attention's dtype. Row r of q, k and v (AttentionArgs) belongs to sequence s = r / sequence_length and
// stands at position positions[s] + r % sequence_length of lane lanes[s]; pages, lanes and positions lie on the device, so
// that a recorded launch serves any.
struct CacheArgs {
  std::byte* const* pages = nullptr;  // each aligned to 256 bytes
  std::int64_t pages_per_lane = 0;
  std::int64_t keys = 0;  // multiples of 16
  std::int64_t values = 0;
  std::int64_t capacity = 0;  // positions of a lane at most
  const std::int32_t* lanes = nullptr;
  const std::int32_t* positions = nullptr;
  void* scratch = nullptr;  // kCacheScratch bytes of this stream's own, zero before the first launch
};
inline constexpr std::int64_t kCachePage = 64;
inline constexpr std::int64_t kCacheScratch = std::int64_t{2} << 20;
void append_cache(const AttentionArgs& args, const CacheArgs& cache, cudaStream_t stream);
// prepare_heads() for queries and keys that lie one after another and are only rotated, and append_cache(), in one pass.
// False, with nothing done, for heads that it does not take.
bool rotate_and_append(const HeadsArgs& heads, const AttentionArgs& args, const CacheArgs& cache,
                       cudaStream_t stream);
// Attention of the rows with all cached positions up to their own, and, without a cache, of whole sequences: of large
// heads, and with slopes (attention_wide.cu). Others go to faster kernels.
void wide_attention(const AttentionArgs& args, const CacheArgs* cache, cudaStream_t stream);
inline bool needs_wide_attention(const AttentionArgs& args) {
  return args.head_size > kMostTiledHeadSize || args.slopes != nullptr;
}
// Attention of the rows with all cached positions up to their own.
void cached_attention(const AttentionArgs& args, const CacheArgs& cache, cudaStream_t stream);

// x = cap·tanh(x / cap)
void soft_cap(float* x, std::int64_t n, float cap, cudaStream_t stream);
// y = sum of `bytes` / 16 words of x: what reading memory takes
void read_all(const void* x, std::int64_t bytes, std::uint32_t* y, cudaStream_t stream);

// -- Refinement (refine.cu) ---------------------------------------------------------------------------------
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

// -- Structured pruning (columns.cu) ------------------------------------------------------------------------
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

// -- Row effects and sensitivities (block_ops.cu, statistics.cu) --------------------------------------------
// x [tokens, 2·cols] (gated) or [tokens, cols]: means over tokens of (up · act'(gate))² and act(gate)² as in
// pipeline/choices/row_budgets.h.
void mlp_effects(ActivationKind kind, bool gated, const void* x, DType dtype, std::int64_t tokens,
                 std::int64_t cols, double* gate, double* up, cudaStream_t stream);
// changes [rows] = |y - x|² / |x|² of each row, 0 where x is
void relative_changes(StridedRows x, StridedRows y, std::int64_t rows, std::int64_t cols, double* changes,
                      cudaStream_t stream);

}  // namespace swiftprune::cuda
