// Every heavy operation of the pipeline, its contract checked once (here), its implementations in reference/
// (plain loops with double sums: the specification), cpu/ (threads, SIMD, oneDNN). Callers hold no knowledge
// of the implementation.
//
// Dimension alphabet: N tokens (rows), I inputs, O outputs, H heads, D head size. All matrices are row-major
// float. Results do not depend on the number of threads: every sum has a fixed order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

enum class Activation {
  kSilu,
  kGelu,
  kGeluTanh,
  kRelu,
  kReluSquared,  // max(x, 0)²
  kQuickGelu,    // x·sigmoid(1.702·x)
  kClippedGelu,  // gelu(x) within ±10
  kMish,         // x·tanh(log(1 + e^x))
  kSigmoid
};
std::string_view name_of(Activation activation);

// The precision of the operands of a linear layer's product; sums are always float.
enum class ComputeType { kF32, kBF16 };

// A weight [O, I] in the layout that the backend multiplies with fastest. It may keep a view of the matrix it
// was packed from: that one must outlive it unchanged.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
};

// Rows of activations [N, I] in the form in which moments are multiplied: a copy that may wait for its turn.
class MomentOperand {
 public:
  virtual ~MomentOperand() = default;
  std::int64_t tokens = 0;  // N
  std::int64_t inputs = 0;  // I
};

// Causal attention of one sequence: query i (at position first_position + i) sees keys 0 .. first_position +
// i.
struct AttentionParams {
  std::int64_t num_heads = 0;       // H
  std::int64_t num_kv_heads = 0;    // divides H
  std::int64_t head_size = 0;       // D
  float scale = 1.0f;               // multiplies q·k
  float softcap = 0.0f;             // > 0: cap·tanh(score/cap)
  std::int64_t window = 0;          // > 0: a query sees only the last `window` keys, itself included
  std::int64_t first_position = 0;  // number of keys before the first query
  // [H] or empty: a score of each head that every query has beside its keys', and that brings no value (gpt-oss).
  std::span<const float> sinks = {};
  // [H] or empty: slope_h·(j − i) is added to the score of query i and key j (ALiBi, arXiv 2108.12409).
  std::span<const float> slopes = {};
};

// A recurrence whose state is a matrix S [K, V] for each of H heads; H / G heads share a query and a key. Of one token:
//   S = decay·S;  u = step·(v − Sᵀk) with the delta rule, else step·v;  S += k uᵀ;  out = Sᵀq
// Gated DeltaNet (arXiv 2412.06464) has the delta rule, Mamba-2 (arXiv 2405.21060) has not.
struct RecurrenceParams {
  std::int64_t num_heads = 0;      // H
  std::int64_t num_key_heads = 0;  // G, divides H
  std::int64_t key_size = 0;       // K
  std::int64_t value_size = 0;     // V
  bool delta_rule = false;
};

// cos and sin [positions, rotary_size / 2] of the rotary embedding.
struct RopeTable {
  Matrix cos;
  Matrix sin;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;  // "reference", "cpu"
  // Are products of bf16 operands faster than float ones here? (Otherwise ComputeType::kBF16 may compute in
  // float.)
  virtual bool has_fast_bf16() const { return false; }

  // -- Products ---------------------------------------------------------------------------------------------
  //
  // weight [O, I]
  std::unique_ptr<PackedWeight> pack(ConstMatrixView weight, ComputeType compute) const;
  // x [N, I], bias [O] or empty -> y [N, O] = x Wᵀ + bias
  void linear(ConstMatrixView x, const PackedWeight& weight, std::span<const float> bias, MatrixView y) const;
  // a [M, K], b [K, N] -> c [M, N] = alpha a b + beta c
  void matmul(ConstMatrixView a, ConstMatrixView b, float alpha, float beta, MatrixView c) const;
  // a [M, K], b [N, K] -> c [M, N] = alpha a bᵀ + beta c
  void matmul_transposed(ConstMatrixView a, ConstMatrixView b, float alpha, float beta, MatrixView c) const;
  // x [N, I] -> gram [I, I] += xᵀ x. Only blocks on and below the diagonal are computed; call symmetrize once
  // at the end.
  void add_gram(ConstMatrixView x, MatrixView gram, ComputeType compute = ComputeType::kF32) const;
  // a [N, A], b [N, B] -> c [A, B] += aᵀ b
  void add_cross(ConstMatrixView a, ConstMatrixView b, MatrixView c,
                 ComputeType compute = ComputeType::kF32) const;
  // The same a few rows of gram or c at a time, the same bits as all at once: [first, first + count) of the n rows
  // begins and ends at multiples of moment_rows(n), or at n.
  std::unique_ptr<MomentOperand> moment_operand(ConstMatrixView x, ComputeType compute) const;
  std::int64_t moment_rows(std::int64_t n, ComputeType compute) const;
  void add_gram_rows(const MomentOperand& x, MatrixView gram, std::int64_t first, std::int64_t count) const;
  void add_cross_rows(const MomentOperand& a, const MomentOperand& b, MatrixView c, std::int64_t first,
                      std::int64_t count) const;
  // So many rows of a product [N, O], from a multiple of it on, are the same bits in matmul() when they are computed
  // alone (the last ones may be fewer); with kBF16 in linear(), too.
  std::int64_t product_rows(std::int64_t rows, std::int64_t outputs, ComputeType compute) const;
  // a [n, n]: the upper triangle becomes the mirror of the lower.
  static void symmetrize(MatrixView a);
  // a [n, n] symmetric positive definite (both halves given) -> its inverse, in place.
  // Returns false, with `a` destroyed, when a pivot is not positive.
  [[nodiscard]] bool invert_spd(MatrixView a) const;

  // -- Block arithmetic -------------------------------------------------------------------------------------
  //
  // x [N, I], gain [I] -> y [N, I] = x / sqrt(mean(x²) + eps) · (gain + gain_offset). y may be x.
  void rms_norm(ConstMatrixView x, std::span<const float> gain, float gain_offset, float eps,
                MatrixView y) const;
  // bias [I] or empty; gain [I] or empty
  void layer_norm(ConstMatrixView x, std::span<const float> gain, std::span<const float> bias, float eps,
                  MatrixView y) const;
  // x [N, heads·head_size], in place: the first rotary_size of each head are rotated (halves paired: i with i
  // + rotary_size/2) by the table's row first_position + n.
  void rope(MatrixView x, const RopeTable& table, std::int64_t head_size, std::int64_t first_position) const;
  // q [N, H·D], k and v [T, Hkv·D] with T = first_position + N -> out [N, H·D]. No N×T matrix is kept.
  void attention(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, const AttentionParams& params,
                 MatrixView out) const;
  // One sequence x [N, C], a filter for each channel: y_n = bias + Σ_j taps_j·x_{n − T + 1 + j} with taps [T, C]. The
  // T − 1 rows before the first stand in `past` [T − 1, C], which becomes the last T − 1. bias: [C] or empty.
  void causal_convolution(ConstMatrixView x, ConstMatrixView taps, std::span<const float> bias,
                          MatrixView past, MatrixView y) const;
  // One sequence: q and k [N, G·K], v [N, H·V], decay and step [N, H] -> out [N, H·V]; state [H·K, V] is read and left
  // as the last token makes it.
  void recurrence(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, ConstMatrixView decay,
                  ConstMatrixView step, const RecurrenceParams& params, MatrixView state,
                  MatrixView out) const;
  // x = act(x)
  void activate(Activation activation, MatrixView x) const;
  // gate [N, I], up [N, I] -> gate = act(gate)·up
  void gated_activate(Activation activation, MatrixView gate, ConstMatrixView up) const;
  // x = cap · tanh(x / cap)
  void softcap(float cap, MatrixView x) const;
  // y += x
  void add(ConstMatrixView x, MatrixView y) const;

  // -- Statistics and losses --------------------------------------------------------------------------------
  //
  // x [N, I] -> energy [I] += Σ_n x_nj² (double sums in a fixed order)
  void add_energy(ConstMatrixView x, std::span<double> energy) const;
  // logits [N, V], targets [N] -> log_probs [N] = log softmax(logits)_target; also the arg max when `best` is
  // given [N]
  void target_log_probs(ConstMatrixView logits, std::span<const std::int32_t> targets,
                        std::span<double> log_probs, std::span<std::int32_t> best = {}) const;

 private:
  virtual std::unique_ptr<PackedWeight> do_pack(ConstMatrixView weight, ComputeType compute) const = 0;
  virtual void do_linear(ConstMatrixView x, const PackedWeight& weight, std::span<const float> bias,
                         MatrixView y) const = 0;
  virtual void do_matmul(ConstMatrixView a, ConstMatrixView b, bool b_transposed, float alpha, float beta,
                         MatrixView c) const = 0;
  virtual void do_add_gram(ConstMatrixView x, MatrixView gram, ComputeType compute) const = 0;
  virtual void do_add_cross(ConstMatrixView a, ConstMatrixView b, MatrixView c,
                            ComputeType compute) const = 0;
  virtual std::unique_ptr<MomentOperand> do_moment_operand(ConstMatrixView x, ComputeType compute) const = 0;
  virtual std::int64_t do_moment_rows(std::int64_t n, ComputeType compute) const = 0;
  virtual void do_add_gram_rows(const MomentOperand& x, MatrixView gram, std::int64_t first,
                                std::int64_t count) const = 0;
  virtual void do_add_cross_rows(const MomentOperand& a, const MomentOperand& b, MatrixView c,
                                 std::int64_t first, std::int64_t count) const = 0;
  virtual std::int64_t do_product_rows(std::int64_t rows, std::int64_t outputs,
                                       ComputeType compute) const = 0;
  virtual bool do_invert_spd(MatrixView a) const = 0;
  virtual void do_rms_norm(ConstMatrixView x, std::span<const float> gain, float gain_offset, float eps,
                           MatrixView y) const = 0;
  virtual void do_layer_norm(ConstMatrixView x, std::span<const float> gain, std::span<const float> bias,
                             float eps, MatrixView y) const = 0;
  virtual void do_rope(MatrixView x, const RopeTable& table, std::int64_t head_size,
                       std::int64_t first_position) const = 0;
  virtual void do_attention(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v,
                            const AttentionParams& params, MatrixView out) const = 0;
  virtual void do_causal_convolution(ConstMatrixView x, ConstMatrixView taps, std::span<const float> bias,
                                     ConstMatrixView past, MatrixView y) const = 0;
  virtual void do_recurrence(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, ConstMatrixView decay,
                             ConstMatrixView step, const RecurrenceParams& params, MatrixView state,
                             MatrixView out) const = 0;
  virtual void do_activate(Activation activation, MatrixView x) const = 0;
  virtual void do_gated_activate(Activation activation, MatrixView gate, ConstMatrixView up) const = 0;
  virtual void do_softcap(float cap, MatrixView x) const = 0;
  virtual void do_add(ConstMatrixView x, MatrixView y) const = 0;
  virtual void do_add_energy(ConstMatrixView x, std::span<double> energy) const = 0;
  virtual void do_target_log_probs(ConstMatrixView logits, std::span<const std::int32_t> targets,
                                   std::span<double> log_probs, std::span<std::int32_t> best) const = 0;
};

std::unique_ptr<Backend> make_reference_backend();
std::unique_ptr<Backend> make_cpu_backend();

}  // namespace swiftprune
