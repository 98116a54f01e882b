// The element-wise inner loops of the CPU backend, one table an instruction set. Raw pointers only across
// this border; kernels.inc holds the loops once and is compiled with each set's flags.
#pragma once

#include <cstddef>
#include <cstdint>

namespace swiftprune::cpu {

struct Kernels {
  const char* isa;
  // One row of attention scores s[0..n): s = exp(scale·s − new_max) with new_max = max(*top, max(scale·s)),
  // after the soft cap when softcap > 0. *top = new_max; *total = *total·correction + Σ s; returns correction
  // = exp(old top − new top).
  float (*softmax_row)(float* s, std::int64_t n, float scale, float softcap, float* top, float* total);
  void (*scale_row)(float* x, std::int64_t n, float factor);
  // Attention of a few queries, whose products are too small for a library's call. scores[t] = q·k_t for keys k [keys,
  // stride] of d numbers, and y[0..d) += Σ weights[t]·v_t.
  void (*key_products)(const float* q, const float* k, std::int64_t keys, std::int64_t stride, std::int64_t d,
                       float* scores);
  void (*add_values)(const float* weights, const float* v, std::int64_t keys, std::int64_t stride,
                     std::int64_t d, float* y);
  void (*rms_norm_row)(const float* x, const float* gain, float gain_offset, float eps, std::int64_t n,
                       float* y);
  // gain and bias may be null
  void (*layer_norm_row)(const float* x, const float* gain, const float* bias, float eps, std::int64_t n,
                         float* y);
  // one head: halves x[0..half) and x[half..2·half)
  void (*rope_head)(float* x, const float* cos, const float* sin, std::int64_t half);
  void (*silu)(float* x, std::int64_t n);
  void (*gelu)(float* x, std::int64_t n);
  void (*gelu_tanh)(float* x, std::int64_t n);
  void (*relu)(float* x, std::int64_t n);
  void (*relu_squared)(float* x, std::int64_t n);
  void (*quick_gelu)(float* x, std::int64_t n);
  void (*clipped_gelu)(float* x, std::int64_t n);
  void (*mish)(float* x, std::int64_t n);
  void (*sigmoid)(float* x, std::int64_t n);
  void (*softcap)(float* x, std::int64_t n, float cap);                            // x = cap·tanh(x / cap)
  void (*multiply)(float* x, const float* y, std::int64_t n);                      // x *= y
  void (*multiply_add)(const float* x, const float* w, float* y, std::int64_t n);  // y += x·w
  // One token and head of Backend::recurrence(): state [keys, values], u and out [values].
  void (*recurrence_step)(float* state, std::int64_t keys, std::int64_t values, float decay, float step,
                          bool delta_rule, const float* q, const float* k, const float* v, float* u,
                          float* out);
  void (*add)(const float* x, float* y, std::int64_t n);             // y += x
  void (*add_squares)(const float* x, float* sums, std::int64_t n);  // sums += x²
  // log Σ exp(x − max), and the place of the first maximum
  double (*log_sum_exp)(const float* x, std::int64_t n, std::int64_t* best);
  void (*to_bf16)(const float* x, std::uint16_t* y, std::int64_t n);  // round to nearest even
};

extern const Kernels kBaselineKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;

// The best table for this processor (cpu_features()).
const Kernels& kernels();

}  // namespace swiftprune::cpu
