// Plain loops with double sums: the specification of every operation and the oracle of the tests. Not for
// speed.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "swiftprune/backend/backend.h"

namespace swiftprune {
namespace {

class ReferenceWeight final : public PackedWeight {
 public:
  explicit ReferenceWeight(ConstMatrixView w) : weight(w.rows, w.cols) {
    for (std::int64_t o = 0; o < w.rows; ++o) {
      for (std::int64_t i = 0; i < w.cols; ++i) weight.at(o, i) = w.at(o, i);
    }
  }
  Matrix weight;
};

double activated(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1.0 + std::exp(-x));
    case Activation::kGelu:
      return 0.5 * x * (1.0 + std::erf(x / std::numbers::sqrt2));
    case Activation::kGeluTanh: {
      const double inner = std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x);
      return 0.5 * x * (1.0 + std::tanh(inner));
    }
    case Activation::kRelu:
      return x > 0.0 ? x : 0.0;
    case Activation::kReluSquared:
      return x > 0.0 ? x * x : 0.0;
    case Activation::kQuickGelu:
      return x / (1.0 + std::exp(-1.702 * x));
    case Activation::kClippedGelu:
      return std::clamp(activated(Activation::kGelu, x), -10.0, 10.0);
    case Activation::kMish:
      return x * std::tanh(x > 0.0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)));
    case Activation::kSigmoid:
      return 1.0 / (1.0 + std::exp(-x));
  }
  return x;
}

// sum += Σ_n a_ni b_nj
void add_dot(ConstMatrixView a, std::int64_t i, ConstMatrixView b, std::int64_t j, float& sum) {
  double total = sum;
  for (std::int64_t n = 0; n < a.rows; ++n) total += double{a.at(n, i)} * double{b.at(n, j)};
  sum = static_cast<float>(total);
}

class Operand final : public MomentOperand {
 public:
  Matrix x;
};

void gram_rows(ConstMatrixView x, MatrixView gram, std::int64_t first, std::int64_t count) {
  for (std::int64_t i = first; i < first + count; ++i) {
    for (std::int64_t j = 0; j <= i; ++j) add_dot(x, i, x, j, gram.at(i, j));
  }
}

void cross_rows(ConstMatrixView a, ConstMatrixView b, MatrixView c, std::int64_t first, std::int64_t count) {
  for (std::int64_t i = first; i < first + count; ++i) {
    for (std::int64_t j = 0; j < b.cols; ++j) add_dot(a, i, b, j, c.at(i, j));
  }
}

class ReferenceBackend final : public Backend {
 public:
  std::string_view name() const override { return "reference"; }

 private:
  std::unique_ptr<PackedWeight> do_pack(ConstMatrixView weight, ComputeType) const override {
    return std::make_unique<ReferenceWeight>(weight);
  }

  void do_linear(ConstMatrixView x, const PackedWeight& packed, std::span<const float> bias,
                 MatrixView y) const override {
    const Matrix& w = static_cast<const ReferenceWeight&>(packed).weight;
    for (std::int64_t n = 0; n < x.rows; ++n) {
      for (std::int64_t o = 0; o < w.rows(); ++o) {
        double sum = bias.empty() ? 0.0 : double{bias[static_cast<std::size_t>(o)]};
        for (std::int64_t i = 0; i < x.cols; ++i) sum += double{x.at(n, i)} * double{w.at(o, i)};
        y.at(n, o) = static_cast<float>(sum);
      }
    }
  }

  void do_matmul(ConstMatrixView a, ConstMatrixView b, bool b_transposed, float alpha, float beta,
                 MatrixView c) const override {
    for (std::int64_t m = 0; m < c.rows; ++m) {
      for (std::int64_t n = 0; n < c.cols; ++n) {
        double sum = 0.0;
        for (std::int64_t k = 0; k < a.cols; ++k) {
          sum += double{a.at(m, k)} * double{b_transposed ? b.at(n, k) : b.at(k, n)};
        }
        const double old = beta == 0.0f ? 0.0 : double{beta} * double{c.at(m, n)};
        c.at(m, n) = static_cast<float>(double{alpha} * sum + old);
      }
    }
  }

  void do_add_gram(ConstMatrixView x, MatrixView gram, ComputeType) const override {
    gram_rows(x, gram, 0, gram.rows);
  }
  void do_add_cross(ConstMatrixView a, ConstMatrixView b, MatrixView c, ComputeType) const override {
    cross_rows(a, b, c, 0, c.rows);
  }
  std::unique_ptr<MomentOperand> do_moment_operand(ConstMatrixView x, ComputeType) const override {
    auto operand = std::make_unique<Operand>();
    operand->x = copy_of(x);
    return operand;
  }
  std::int64_t do_moment_rows(std::int64_t, ComputeType) const override { return 1; }
  void do_add_gram_rows(const MomentOperand& x, MatrixView gram, std::int64_t first,
                        std::int64_t count) const override {
    gram_rows(static_cast<const Operand&>(x).x.view(), gram, first, count);
  }
  void do_add_cross_rows(const MomentOperand& a, const MomentOperand& b, MatrixView c, std::int64_t first,
                         std::int64_t count) const override {
    cross_rows(static_cast<const Operand&>(a).x.view(), static_cast<const Operand&>(b).x.view(), c, first,
               count);
  }
  std::int64_t do_product_rows(std::int64_t, std::int64_t, ComputeType) const override { return 1; }

  // Cholesky A = L Lᵀ, then the inverse column by column from L Lᵀ x = e.
  bool do_invert_spd(MatrixView a) const override {
    const std::int64_t n = a.rows;
    std::vector<double> l(static_cast<std::size_t>(n * n), 0.0);
    const auto at = [&](std::int64_t i, std::int64_t j) -> double& {
      return l[static_cast<std::size_t>(i * n + j)];
    };
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t i = j; i < n; ++i) {
        double sum = a.at(i, j);
        for (std::int64_t k = 0; k < j; ++k) sum -= at(i, k) * at(j, k);
        if (i == j) {
          if (!(sum > 0.0)) return false;
          at(j, j) = std::sqrt(sum);
        } else {
          at(i, j) = sum / at(j, j);
        }
      }
    }
    std::vector<double> x(static_cast<std::size_t>(n));
    for (std::int64_t c = 0; c < n; ++c) {
      for (std::int64_t i = 0; i < n; ++i) {
        double sum = i == c ? 1.0 : 0.0;
        for (std::int64_t k = 0; k < i; ++k) sum -= at(i, k) * x[static_cast<std::size_t>(k)];
        x[static_cast<std::size_t>(i)] = sum / at(i, i);
      }
      for (std::int64_t i = n - 1; i >= 0; --i) {
        double sum = x[static_cast<std::size_t>(i)];
        for (std::int64_t k = i + 1; k < n; ++k) sum -= at(k, i) * x[static_cast<std::size_t>(k)];
        x[static_cast<std::size_t>(i)] = sum / at(i, i);
        a.at(i, c) = static_cast<float>(x[static_cast<std::size_t>(i)]);
      }
    }
    return true;
  }

  void do_rms_norm(ConstMatrixView x, std::span<const float> gain, float gain_offset, float eps,
                   MatrixView y) const override {
    for (std::int64_t n = 0; n < x.rows; ++n) {
      double sum = 0.0;
      for (std::int64_t i = 0; i < x.cols; ++i) sum += double{x.at(n, i)} * double{x.at(n, i)};
      const double scale = 1.0 / std::sqrt(sum / static_cast<double>(x.cols) + double{eps});
      for (std::int64_t i = 0; i < x.cols; ++i) {
        y.at(n, i) = static_cast<float>(double{x.at(n, i)} * scale *
                                        (double{gain[static_cast<std::size_t>(i)]} + double{gain_offset}));
      }
    }
  }

  void do_layer_norm(ConstMatrixView x, std::span<const float> gain, std::span<const float> bias, float eps,
                     MatrixView y) const override {
    for (std::int64_t n = 0; n < x.rows; ++n) {
      double mean = 0.0;
      for (std::int64_t i = 0; i < x.cols; ++i) mean += double{x.at(n, i)};
      mean /= static_cast<double>(x.cols);
      double variance = 0.0;
      for (std::int64_t i = 0; i < x.cols; ++i)
        variance += (double{x.at(n, i)} - mean) * (double{x.at(n, i)} - mean);
      const double scale = 1.0 / std::sqrt(variance / static_cast<double>(x.cols) + double{eps});
      for (std::int64_t i = 0; i < x.cols; ++i) {
        const auto s = static_cast<std::size_t>(i);
        const double g = gain.empty() ? 1.0 : double{gain[s]};
        const double b = bias.empty() ? 0.0 : double{bias[s]};
        y.at(n, i) = static_cast<float>((double{x.at(n, i)} - mean) * scale * g + b);
      }
    }
  }

  void do_rope(MatrixView x, const RopeTable& table, std::int64_t head_size,
               std::int64_t first_position) const override {
    const std::int64_t half = table.cos.cols();
    for (std::int64_t n = 0; n < x.rows; ++n) {
      for (std::int64_t h = 0; h < x.cols; h += head_size) {
        for (std::int64_t i = 0; i < half; ++i) {
          const double cos = table.cos.at(first_position + n, i);
          const double sin = table.sin.at(first_position + n, i);
          const double a = x.at(n, h + i);
          const double b = x.at(n, h + half + i);
          x.at(n, h + i) = static_cast<float>(a * cos - b * sin);
          x.at(n, h + half + i) = static_cast<float>(b * cos + a * sin);
        }
      }
    }
  }

  void do_attention(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, const AttentionParams& p,
                    MatrixView out) const override {
    const std::int64_t group = p.num_heads / p.num_kv_heads;
    const std::int64_t d = p.head_size;
    std::vector<double> weights(static_cast<std::size_t>(k.rows));
    for (std::int64_t n = 0; n < q.rows; ++n) {
      const std::int64_t last = p.first_position + n;
      const std::int64_t first = p.window > 0 ? std::max<std::int64_t>(0, last - p.window + 1) : 0;
      for (std::int64_t h = 0; h < p.num_heads; ++h) {
        const std::int64_t kv = (h / group) * d;
        const double none = -std::numeric_limits<double>::infinity();
        const double sink = p.sinks.empty() ? none : double{p.sinks[static_cast<std::size_t>(h)]};
        double top = sink;
        for (std::int64_t t = first; t <= last; ++t) {
          double score = 0.0;
          for (std::int64_t i = 0; i < d; ++i) score += double{q.at(n, h * d + i)} * double{k.at(t, kv + i)};
          score *= double{p.scale};
          if (!p.slopes.empty())
            score += double{p.slopes[static_cast<std::size_t>(h)]} * static_cast<double>(t - last);
          if (p.softcap > 0.0f) score = double{p.softcap} * std::tanh(score / double{p.softcap});
          weights[static_cast<std::size_t>(t)] = score;
          top = std::max(top, score);
        }
        double total = p.sinks.empty() ? 0.0 : std::exp(sink - top);
        for (std::int64_t t = first; t <= last; ++t) {
          double& w = weights[static_cast<std::size_t>(t)];
          w = std::exp(w - top);
          total += w;
        }
        for (std::int64_t i = 0; i < d; ++i) {
          double sum = 0.0;
          for (std::int64_t t = first; t <= last; ++t)
            sum += weights[static_cast<std::size_t>(t)] * double{v.at(t, kv + i)};
          out.at(n, h * d + i) = static_cast<float>(sum / total);
        }
      }
    }
  }

  void do_causal_convolution(ConstMatrixView x, ConstMatrixView taps, std::span<const float> bias,
                             ConstMatrixView past, MatrixView y) const override {
    for (std::int64_t n = 0; n < x.rows; ++n) {
      for (std::int64_t c = 0; c < x.cols; ++c) {
        double sum = bias.empty() ? 0.0 : double{bias[static_cast<std::size_t>(c)]};
        for (std::int64_t j = 0; j < taps.rows; ++j) {
          const std::int64_t from = n - past.rows + j;
          sum += double{taps.at(j, c)} * double{from < 0 ? past.at(past.rows + from, c) : x.at(from, c)};
        }
        y.at(n, c) = static_cast<float>(sum);
      }
    }
  }

  void do_recurrence(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, ConstMatrixView decay,
                     ConstMatrixView step, const RecurrenceParams& p, MatrixView state,
                     MatrixView out) const override {
    std::vector<double> s(static_cast<std::size_t>(p.key_size * p.value_size));
    const auto at = [&](std::int64_t i, std::int64_t j) -> double& {
      return s[static_cast<std::size_t>(i * p.value_size + j)];
    };
    for (std::int64_t h = 0; h < p.num_heads; ++h) {
      const std::int64_t key = h / (p.num_heads / p.num_key_heads) * p.key_size;
      const MatrixView of_head = state.row_block(h * p.key_size, p.key_size);
      for (std::int64_t i = 0; i < p.key_size; ++i) {
        for (std::int64_t j = 0; j < p.value_size; ++j) at(i, j) = double{of_head.at(i, j)};
      }
      for (std::int64_t n = 0; n < q.rows; ++n) {
        for (double& value : s) value *= double{decay.at(n, h)};
        for (std::int64_t j = 0; j < p.value_size; ++j) {
          double u = double{v.at(n, h * p.value_size + j)};
          for (std::int64_t i = 0; i < p.key_size && p.delta_rule; ++i)
            u -= double{k.at(n, key + i)} * at(i, j);
          u *= double{step.at(n, h)};
          double sum = 0.0;
          for (std::int64_t i = 0; i < p.key_size; ++i) {
            at(i, j) += double{k.at(n, key + i)} * u;
            sum += double{q.at(n, key + i)} * at(i, j);
          }
          out.at(n, h * p.value_size + j) = static_cast<float>(sum);
        }
      }
      for (std::int64_t i = 0; i < p.key_size; ++i) {
        for (std::int64_t j = 0; j < p.value_size; ++j) of_head.at(i, j) = static_cast<float>(at(i, j));
      }
    }
  }

  void do_activate(Activation activation, MatrixView x) const override {
    for (std::int64_t n = 0; n < x.rows; ++n) {
      for (float& value : x.row_span(n)) value = static_cast<float>(activated(activation, double{value}));
    }
  }

  void do_gated_activate(Activation activation, MatrixView gate, ConstMatrixView up) const override {
    for (std::int64_t n = 0; n < gate.rows; ++n) {
      for (std::int64_t i = 0; i < gate.cols; ++i) {
        gate.at(n, i) =
            static_cast<float>(activated(activation, double{gate.at(n, i)}) * double{up.at(n, i)});
      }
    }
  }

  void do_softcap(float cap, MatrixView x) const override {
    for (std::int64_t n = 0; n < x.rows; ++n) {
      for (float& value : x.row_span(n))
        value = static_cast<float>(double{cap} * std::tanh(double{value} / double{cap}));
    }
  }

  void do_add(ConstMatrixView x, MatrixView y) const override {
    for (std::int64_t n = 0; n < x.rows; ++n) {
      for (std::int64_t i = 0; i < x.cols; ++i) y.at(n, i) += x.at(n, i);
    }
  }

  void do_add_energy(ConstMatrixView x, std::span<double> energy) const override {
    for (std::int64_t n = 0; n < x.rows; ++n) {
      for (std::int64_t i = 0; i < x.cols; ++i)
        energy[static_cast<std::size_t>(i)] += double{x.at(n, i)} * double{x.at(n, i)};
    }
  }

  void do_target_log_probs(ConstMatrixView logits, std::span<const std::int32_t> targets,
                           std::span<double> log_probs, std::span<std::int32_t> best) const override {
    for (std::int64_t n = 0; n < logits.rows; ++n) {
      std::int64_t top = 0;
      for (std::int64_t v = 1; v < logits.cols; ++v) {
        if (logits.at(n, v) > logits.at(n, top)) top = v;
      }
      double sum = 0.0;
      for (std::int64_t v = 0; v < logits.cols; ++v)
        sum += std::exp(double{logits.at(n, v)} - double{logits.at(n, top)});
      const auto s = static_cast<std::size_t>(n);
      log_probs[s] = double{logits.at(n, targets[s])} - double{logits.at(n, top)} - std::log(sum);
      if (!best.empty()) best[s] = static_cast<std::int32_t>(top);
    }
  }
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace swiftprune
