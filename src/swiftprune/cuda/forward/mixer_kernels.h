// Launchers of recurrent mixers (mixers.cu), as runtime/launch.h has them.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "swiftprune/tensor/dtype.h"

namespace swiftprune::cuda {

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

}  // namespace swiftprune::cuda
