#include "swiftprune/backend/backend.h"

#include <algorithm>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

bool same_shape(ConstMatrixView a, ConstMatrixView b) { return a.rows == b.rows && a.cols == b.cols; }

bool empty_or(std::size_t size, std::int64_t expected) {
  return size == 0 || static_cast<std::int64_t>(size) == expected;
}

bool has_size(std::size_t size, std::int64_t expected) { return static_cast<std::int64_t>(size) == expected; }

}  // namespace

std::string_view name_of(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return "silu";
    case Activation::kGelu:
      return "gelu";
    case Activation::kGeluTanh:
      return "gelu_tanh";
    case Activation::kRelu:
      return "relu";
    case Activation::kReluSquared:
      return "relu2";
    case Activation::kQuickGelu:
      return "quick_gelu";
    case Activation::kClippedGelu:
      return "gelu_10";
    case Activation::kMish:
      return "mish";
    case Activation::kSigmoid:
      return "sigmoid";
  }
  return "?";
}

std::unique_ptr<PackedWeight> Backend::pack(ConstMatrixView weight, ComputeType compute) const {
  auto packed = do_pack(weight, compute);
  packed->out_features = weight.rows;
  packed->in_features = weight.cols;
  return packed;
}

void Backend::linear(ConstMatrixView x, const PackedWeight& weight, std::span<const float> bias,
                     MatrixView y) const {
  expect(x.cols == weight.in_features && y.cols == weight.out_features && x.rows == y.rows,
         "linear: shapes agree");
  expect(empty_or(bias.size(), weight.out_features), "linear: bias [O] or empty");
  if (x.rows > 0) do_linear(x, weight, bias, y);
}

void Backend::matmul(ConstMatrixView a, ConstMatrixView b, float alpha, float beta, MatrixView c) const {
  expect(a.cols == b.rows && c.rows == a.rows && c.cols == b.cols, "matmul: shapes agree");
  if (c.numel() > 0) do_matmul(a, b, false, alpha, beta, c);
}

void Backend::matmul_transposed(ConstMatrixView a, ConstMatrixView b, float alpha, float beta,
                                MatrixView c) const {
  expect(a.cols == b.cols && c.rows == a.rows && c.cols == b.rows, "matmul_transposed: shapes agree");
  if (c.numel() > 0) do_matmul(a, b, true, alpha, beta, c);
}

void Backend::add_gram(ConstMatrixView x, MatrixView gram, ComputeType compute) const {
  expect(gram.rows == x.cols && gram.cols == x.cols, "add_gram: gram [I, I]");
  if (x.numel() > 0) do_add_gram(x, gram, compute);
}

void Backend::add_cross(ConstMatrixView a, ConstMatrixView b, MatrixView c, ComputeType compute) const {
  expect(a.rows == b.rows && c.rows == a.cols && c.cols == b.cols, "add_cross: shapes agree");
  if (a.rows > 0 && c.numel() > 0) do_add_cross(a, b, c, compute);
}

std::unique_ptr<MomentOperand> Backend::moment_operand(ConstMatrixView x, ComputeType compute) const {
  auto operand = do_moment_operand(x, compute);
  operand->tokens = x.rows;
  operand->inputs = x.cols;
  return operand;
}

std::int64_t Backend::moment_rows(std::int64_t n, ComputeType compute) const {
  return do_moment_rows(n, compute);
}

void Backend::add_gram_rows(const MomentOperand& x, MatrixView gram, std::int64_t first,
                            std::int64_t count) const {
  expect(gram.rows == x.inputs && gram.cols == x.inputs, "add_gram_rows: gram [I, I]");
  expect(first >= 0 && count >= 0 && first + count <= gram.rows, "add_gram_rows: rows of gram");
  if (x.tokens > 0 && count > 0) do_add_gram_rows(x, gram, first, count);
}

void Backend::add_cross_rows(const MomentOperand& a, const MomentOperand& b, MatrixView c, std::int64_t first,
                             std::int64_t count) const {
  expect(a.tokens == b.tokens && c.rows == a.inputs && c.cols == b.inputs, "add_cross_rows: shapes agree");
  expect(first >= 0 && count >= 0 && first + count <= c.rows, "add_cross_rows: rows of c");
  if (a.tokens > 0 && count > 0 && c.cols > 0) do_add_cross_rows(a, b, c, first, count);
}

std::int64_t Backend::product_rows(std::int64_t rows, std::int64_t outputs, ComputeType compute) const {
  return do_product_rows(rows, outputs, compute);
}

void Backend::symmetrize(MatrixView a) {
  expect(a.rows == a.cols, "symmetrize: a square matrix");
  constexpr std::int64_t kTile = 32;  // both halves of a tile pair fit in the first-level cache
  for (std::int64_t i0 = 0; i0 < a.rows; i0 += kTile) {
    for (std::int64_t j0 = 0; j0 <= i0; j0 += kTile) {
      for (std::int64_t i = i0; i < std::min(a.rows, i0 + kTile); ++i) {
        for (std::int64_t j = j0; j < std::min(i, j0 + kTile); ++j) a.at(j, i) = a.at(i, j);
      }
    }
  }
}

bool Backend::invert_spd(MatrixView a) const {
  expect(a.rows == a.cols, "invert_spd: a square matrix");
  return a.rows == 0 || do_invert_spd(a);
}

void Backend::rms_norm(ConstMatrixView x, std::span<const float> gain, float gain_offset, float eps,
                       MatrixView y) const {
  expect(same_shape(x, y) && has_size(gain.size(), x.cols), "rms_norm: shapes agree");
  do_rms_norm(x, gain, gain_offset, eps, y);
}

void Backend::layer_norm(ConstMatrixView x, std::span<const float> gain, std::span<const float> bias,
                         float eps, MatrixView y) const {
  expect(same_shape(x, y) && empty_or(gain.size(), x.cols) && empty_or(bias.size(), x.cols),
         "layer_norm: shapes agree");
  do_layer_norm(x, gain, bias, eps, y);
}

void Backend::rope(MatrixView x, const RopeTable& table, std::int64_t head_size,
                   std::int64_t first_position) const {
  expect(head_size > 0 && x.cols % head_size == 0, "rope: whole heads");
  expect(2 * table.cos.cols() <= head_size && table.sin.cols() == table.cos.cols(),
         "rope: table fits the head");
  expect(first_position >= 0 && first_position + x.rows <= table.cos.rows(), "rope: positions in the table");
  do_rope(x, table, head_size, first_position);
}

void Backend::attention(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, const AttentionParams& p,
                        MatrixView out) const {
  expect(p.num_heads > 0 && p.num_kv_heads > 0 && p.num_heads % p.num_kv_heads == 0,
         "attention: whole query groups");
  expect(q.cols == p.num_heads * p.head_size && same_shape(q, out), "attention: q and out [N, H·D]");
  expect(k.cols == p.num_kv_heads * p.head_size && same_shape(k, v), "attention: k and v [T, Hkv·D]");
  expect(k.rows == p.first_position + q.rows, "attention: keys up to the last query");
  expect(p.sinks.empty() || std::ssize(p.sinks) == p.num_heads, "attention: a sink for each head");
  expect(p.slopes.empty() || std::ssize(p.slopes) == p.num_heads, "attention: a slope for each head");
  expect(p.slopes.empty() || p.softcap == 0.0f, "attention: slopes without a soft cap");
  if (q.rows > 0) do_attention(q, k, v, p, out);
}

void Backend::causal_convolution(ConstMatrixView x, ConstMatrixView taps, std::span<const float> bias,
                                 MatrixView past, MatrixView y) const {
  expect(same_shape(x, y) && taps.cols == x.cols && taps.rows > 0,
         "causal_convolution: x and y [N, C], taps [T, C]");
  expect(past.rows == taps.rows - 1 && (past.rows == 0 || past.cols == x.cols),
         "causal_convolution: past [T - 1, C]");
  expect(empty_or(bias.size(), x.cols), "causal_convolution: bias [C] or empty");
  if (x.rows == 0) return;
  do_causal_convolution(x, taps, bias, past, y);
  for (std::int64_t t = 0; t < past.rows; ++t) {
    const std::int64_t n = x.rows - past.rows + t;  // rows before the first move up: t + x.rows > t
    std::copy_n(n >= 0 ? x.row(n) : past.row(t + x.rows), x.cols, past.row(t));
  }
}

void Backend::recurrence(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, ConstMatrixView decay,
                         ConstMatrixView step, const RecurrenceParams& p, MatrixView state,
                         MatrixView out) const {
  expect(p.num_key_heads > 0 && p.num_heads > 0 && p.num_heads % p.num_key_heads == 0,
         "recurrence: whole groups of heads");
  expect(q.cols == p.num_key_heads * p.key_size && same_shape(q, k), "recurrence: q and k [N, G·K]");
  expect(v.rows == q.rows && v.cols == p.num_heads * p.value_size && same_shape(v, out),
         "recurrence: v and out [N, H·V]");
  expect(decay.rows == q.rows && decay.cols == p.num_heads && same_shape(decay, step),
         "recurrence: decay and step [N, H]");
  expect(state.rows == p.num_heads * p.key_size && state.cols == p.value_size, "recurrence: state [H·K, V]");
  if (q.rows > 0) do_recurrence(q, k, v, decay, step, p, state, out);
}

void Backend::activate(Activation activation, MatrixView x) const { do_activate(activation, x); }

void Backend::gated_activate(Activation activation, MatrixView gate, ConstMatrixView up) const {
  expect(same_shape(gate, up), "gated_activate: shapes agree");
  do_gated_activate(activation, gate, up);
}

void Backend::softcap(float cap, MatrixView x) const {
  expect(cap > 0.0f, "softcap: a positive cap");
  do_softcap(cap, x);
}

void Backend::add(ConstMatrixView x, MatrixView y) const {
  expect(same_shape(x, y), "add: shapes agree");
  do_add(x, y);
}

void Backend::add_energy(ConstMatrixView x, std::span<double> energy) const {
  expect(has_size(energy.size(), x.cols), "add_energy: energy [I]");
  do_add_energy(x, energy);
}

void Backend::target_log_probs(ConstMatrixView logits, std::span<const std::int32_t> targets,
                               std::span<double> log_probs, std::span<std::int32_t> best) const {
  expect(has_size(targets.size(), logits.rows) && has_size(log_probs.size(), logits.rows) &&
             empty_or(best.size(), logits.rows),
         "target_log_probs: one target a row");
  do_target_log_probs(logits, targets, log_probs, best);
}

}  // namespace swiftprune
