// The CPU backend: element-wise work by rows over threads, products by oneDNN.
#include <algorithm>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/backend/cpu/attention.h"
#include "swiftprune/backend/cpu/bf16.h"
#include "swiftprune/backend/cpu/bf16_linear.h"
#include "swiftprune/backend/cpu/bf16_products.h"
#include "swiftprune/backend/cpu/kernels.h"
#include "swiftprune/backend/cpu/products.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace cpu {

const Kernels& kernels() {
  static const Kernels& table = cpu_features().avx512 ? kAvx512Kernels
                                : cpu_features().avx2 ? kAvx2Kernels
                                                      : kBaselineKernels;
  return table;
}

}  // namespace cpu

namespace {

using cpu::kernels;

constexpr std::int64_t kRowChunk = 64;

bool rounds(ComputeType compute) { return compute == ComputeType::kBF16 && cpu::Bf16Linear::available(); }

class CpuWeight final : public PackedWeight {
 public:
  CpuWeight(ConstMatrixView weight, ComputeType compute) : weight_(weight) {
    if (rounds(compute)) {
      bf16_ = std::make_unique<cpu::Bf16Linear>(weight);
    }
  }
  void forward(ConstMatrixView x, std::span<const float> bias, MatrixView y) const {
    if (bf16_) {
      bf16_->forward(x, bias, y);
    } else {
      cpu::linear(x, weight_, bias, y);
    }
  }

 private:
  ConstMatrixView weight_;
  std::unique_ptr<cpu::Bf16Linear> bf16_;
};

class CpuMomentOperand final : public MomentOperand {
 public:
  Matrix x;  // empty where it is rounded
  cpu::Bf16Rows rounded;
};

template <class Body>
void for_rows(std::int64_t rows, const Body& body) {
  parallel_for(rows, kRowChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) body(r);
  });
}

auto activation_kernel(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return kernels().silu;
    case Activation::kGelu:
      return kernels().gelu;
    case Activation::kGeluTanh:
      return kernels().gelu_tanh;
    case Activation::kReluSquared:
      return kernels().relu_squared;
    case Activation::kQuickGelu:
      return kernels().quick_gelu;
    case Activation::kClippedGelu:
      return kernels().clipped_gelu;
    case Activation::kMish:
      return kernels().mish;
    case Activation::kSigmoid:
      return kernels().sigmoid;
    case Activation::kRelu:
      break;
  }
  return kernels().relu;
}

class CpuBackend final : public Backend {
 public:
  std::string_view name() const override { return "cpu"; }
  bool has_fast_bf16() const override { return cpu::Bf16Linear::available(); }

 private:
  std::unique_ptr<PackedWeight> do_pack(ConstMatrixView weight, ComputeType compute) const override {
    return std::make_unique<CpuWeight>(weight, compute);
  }
  void do_linear(ConstMatrixView x, const PackedWeight& weight, std::span<const float> bias,
                 MatrixView y) const override {
    static_cast<const CpuWeight&>(weight).forward(x, bias, y);
  }
  void do_matmul(ConstMatrixView a, ConstMatrixView b, bool b_transposed, float alpha, float beta,
                 MatrixView c) const override {
    cpu::matmul(a, b, b_transposed, alpha, beta, c);
  }
  void do_add_gram(ConstMatrixView x, MatrixView gram, ComputeType compute) const override {
    rounds(compute) ? cpu::add_gram_bf16({x.rows, cpu::rounded(x)}, gram, 0, gram.rows)
                    : cpu::add_gram(x, gram, 0, gram.rows);
  }
  void do_add_cross(ConstMatrixView a, ConstMatrixView b, MatrixView c, ComputeType compute) const override {
    rounds(compute) ? cpu::add_cross_bf16({a.rows, cpu::rounded(a)}, {b.rows, cpu::rounded(b)}, c, 0, c.rows)
                    : cpu::add_cross(a, b, c, 0, c.rows);
  }
  std::unique_ptr<MomentOperand> do_moment_operand(ConstMatrixView x, ComputeType compute) const override {
    auto operand = std::make_unique<CpuMomentOperand>();
    rounds(compute) ? void(operand->rounded = {x.rows, cpu::rounded(x)}) : void(operand->x = copy_of(x));
    return operand;
  }
  std::int64_t do_moment_rows(std::int64_t n, ComputeType compute) const override {
    return rounds(compute) ? cpu::moment_rows_bf16(n) : cpu::moment_rows(n);
  }
  void do_add_gram_rows(const MomentOperand& x, MatrixView gram, std::int64_t first,
                        std::int64_t count) const override {
    const auto& of = static_cast<const CpuMomentOperand&>(x);
    of.x.empty() ? cpu::add_gram_bf16(of.rounded, gram, first, count)
                 : cpu::add_gram(of.x.view(), gram, first, count);
  }
  void do_add_cross_rows(const MomentOperand& a, const MomentOperand& b, MatrixView c, std::int64_t first,
                         std::int64_t count) const override {
    const auto& left = static_cast<const CpuMomentOperand&>(a);
    const auto& right = static_cast<const CpuMomentOperand&>(b);
    left.x.empty() ? cpu::add_cross_bf16(left.rounded, right.rounded, c, first, count)
                   : cpu::add_cross(left.x.view(), right.x.view(), c, first, count);
  }
  std::int64_t do_product_rows(std::int64_t rows, std::int64_t outputs, ComputeType compute) const override {
    const std::int64_t part = cpu::product_rows(rows, outputs);
    if (!rounds(compute) || part == rows) return part;
    const bool panels = outputs > cpu::Bf16Linear::kPanelRows;
    return panels && part == cpu::Bf16Linear::kRowChunk ? part : rows;
  }
  bool do_invert_spd(MatrixView a) const override { return cpu::invert_spd(a); }

  void do_rms_norm(ConstMatrixView x, std::span<const float> gain, float gain_offset, float eps,
                   MatrixView y) const override {
    for_rows(x.rows, [&](std::int64_t r) {
      kernels().rms_norm_row(x.row(r), gain.data(), gain_offset, eps, x.cols, y.row(r));
    });
  }
  void do_layer_norm(ConstMatrixView x, std::span<const float> gain, std::span<const float> bias, float eps,
                     MatrixView y) const override {
    for_rows(x.rows, [&](std::int64_t r) {
      kernels().layer_norm_row(x.row(r), gain.empty() ? nullptr : gain.data(),
                               bias.empty() ? nullptr : bias.data(), eps, x.cols, y.row(r));
    });
  }
  void do_rope(MatrixView x, const RopeTable& table, std::int64_t head_size,
               std::int64_t first_position) const override {
    for_rows(x.rows, [&](std::int64_t r) {
      const std::int64_t position = first_position + r;
      for (std::int64_t h = 0; h < x.cols; h += head_size) {
        kernels().rope_head(x.row(r) + h, table.cos.row(position), table.sin.row(position), table.cos.cols());
      }
    });
  }
  void do_attention(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, const AttentionParams& params,
                    MatrixView out) const override {
    cpu::attention(q, k, v, params, out);
  }
  void do_causal_convolution(ConstMatrixView x, ConstMatrixView taps, std::span<const float> bias,
                             ConstMatrixView past, MatrixView y) const override {
    for_rows(x.rows, [&](std::int64_t n) {
      bias.empty() ? std::fill_n(y.row(n), x.cols, 0.0f) : std::copy_n(bias.data(), x.cols, y.row(n));
      for (std::int64_t j = 0; j < taps.rows; ++j) {
        const std::int64_t from = n - past.rows + j;
        kernels().multiply_add(from < 0 ? past.row(past.rows + from) : x.row(from), taps.row(j), y.row(n),
                               x.cols);
      }
    });
  }
  void do_recurrence(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, ConstMatrixView decay,
                     ConstMatrixView step, const RecurrenceParams& p, MatrixView state,
                     MatrixView out) const override {
    expect(state.stride == state.cols, "recurrence: a state in one piece");
    parallel_for(p.num_heads, 1, [&](std::int64_t first, std::int64_t last) {
      std::vector<float> u(static_cast<std::size_t>(p.value_size));
      for (std::int64_t h = first; h < last; ++h) {
        const std::int64_t key = h / (p.num_heads / p.num_key_heads) * p.key_size, value = h * p.value_size;
        for (std::int64_t n = 0; n < q.rows; ++n) {
          kernels().recurrence_step(state.row(h * p.key_size), p.key_size, p.value_size, decay.at(n, h),
                                    step.at(n, h), p.delta_rule, q.row(n) + key, k.row(n) + key,
                                    v.row(n) + value, u.data(), out.row(n) + value);
        }
      }
    });
  }
  void do_activate(Activation activation, MatrixView x) const override {
    const auto kernel = activation_kernel(activation);
    for_rows(x.rows, [&](std::int64_t r) { kernel(x.row(r), x.cols); });
  }
  void do_gated_activate(Activation activation, MatrixView gate, ConstMatrixView up) const override {
    const auto kernel = activation_kernel(activation);
    for_rows(gate.rows, [&](std::int64_t r) {
      kernel(gate.row(r), gate.cols);
      kernels().multiply(gate.row(r), up.row(r), gate.cols);
    });
  }
  void do_softcap(float cap, MatrixView x) const override {
    for_rows(x.rows, [&](std::int64_t r) { kernels().softcap(x.row(r), x.cols, cap); });
  }
  void do_add(ConstMatrixView x, MatrixView y) const override {
    for_rows(x.rows, [&](std::int64_t r) { kernels().add(x.row(r), y.row(r), x.cols); });
  }

  // Float sums over chunks of 64 rows, added in double in the order of the chunks.
  void do_add_energy(ConstMatrixView x, std::span<double> energy) const override {
    const std::int64_t num_chunks = ceil_div(x.rows, kRowChunk);
    Matrix partial = Matrix::zeros(num_chunks, x.cols);
    for_rows(x.rows,
             [&](std::int64_t r) { kernels().add_squares(x.row(r), partial.row(r / kRowChunk), x.cols); });
    for (std::int64_t c = 0; c < num_chunks; ++c) {
      for (std::int64_t i = 0; i < x.cols; ++i)
        energy[static_cast<std::size_t>(i)] += double{partial.at(c, i)};
    }
  }
  void do_target_log_probs(ConstMatrixView logits, std::span<const std::int32_t> targets,
                           std::span<double> log_probs, std::span<std::int32_t> best) const override {
    for_rows(logits.rows, [&](std::int64_t r) {
      const auto s = static_cast<std::size_t>(r);
      std::int64_t top = 0;
      const double total = kernels().log_sum_exp(logits.row(r), logits.cols, best.empty() ? nullptr : &top);
      log_probs[s] = double{logits.at(r, targets[s])} - total;
      if (!best.empty()) best[s] = static_cast<std::int32_t>(top);
    });
  }
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<CpuBackend>(); }

}  // namespace swiftprune
