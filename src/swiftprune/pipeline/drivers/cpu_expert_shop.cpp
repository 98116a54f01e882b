#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/core/timeline.h"
#include "swiftprune/pipeline/block_edits.h"
#include "swiftprune/pipeline/drivers/expert_shop.h"
#include "swiftprune/pipeline/streams/cpu_stream_ops.h"
#include "swiftprune/pipeline/streams/rank_windows.h"
#include "swiftprune/structure/refit.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kTokensAPass = 4096;  // of one expert at a time

double dot(const float* a, const float* b, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

class CpuExpertShop final : public ExpertShop {
 public:
  CpuExpertShop(const Backend& backend, const ExpertRun& run)
      : backend_(backend),
        run_(run),
        share_(rank_windows(run.model.config(), run.windows, *run.options.ranks)),
        windows_(windows_of_rank(run.windows, share_)),
        part_ends_(expert_part_ends(run.windows, share_)),
        ops_(run.model, backend, windows_),
        hidden_(ops_.embed()) {}

  Share tokens() const override { return {share_.first * windows_.seqlen, share_.count * windows_.seqlen}; }

  void start(std::int64_t layer) override {
    if (layer_ >= 0) run_.model.release_block(layer_);
    layer_ = layer;
    {
      const Stopwatch watch(run_.seconds.load);
      const TimelineStage stage("read", layer);
      block_.emplace(run_.model.load_block(layer));
      block_->pack(backend_, run_.options.compute);
    }
    const Stopwatch watch(run_.seconds.forward);
    const TimelineStage stage("forward", layer);
    if (block_->experts() != nullptr) return run_up_to_experts();
    ops_.for_rows([&](std::int64_t first, std::int64_t count) {
      ops_.forward(*block_, CpuStreamOps::rows(hidden_, first, count), nullptr, false);
    });
  }

  Matrix products(ConstMatrixView weight) override {
    Matrix result(x_.rows(), weight.rows);
    ops_.for_rows([&](std::int64_t first, std::int64_t count) {
      backend_.matmul_transposed(x_.view().row_block(first, count), weight, 1.0f, 0.0f,
                                 result.view().row_block(first, count));
    });
    return result;
  }

  void sum_dense(const MemberTokens& all, const SizesFn& seen) override {
    dense_ = sum_outputs(all, [&](std::size_t j, std::int64_t first, ConstMatrixView f) {
      seen(j, first, sizes_of(f.rows, f.cols, [&](std::int64_t i) { return f.row_span(i); }));
    });
  }

  RowSizes residual_sizes() override {
    return sizes_of(dense_.rows(), dense_.cols(), [&](std::int64_t t) {
      std::vector<float> row(at(dense_.cols()));
      for (std::int64_t c = 0; c < dense_.cols(); ++c)
        row[at(c)] = hidden_.at(t, c) + run_.model.config().residual_scale * dense_.at(t, c);
      return row;
    });
  }

  void set_token_weights(std::span<const double> weights) override {
    weights_.assign(weights.begin(), weights.end());
  }

  RowSquares start_changes(const MemberTokens& now, bool of_tokens) override {
    next_ = Matrix(x_.rows(), x_.cols());
    y_ = sum_outputs(now, {}, &next_);
    off_ = y_.clone();
    parallel_for(off_.rows(), kRowsATask, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        for (std::int64_t c = 0; c < off_.cols(); ++c) off_.at(t, c) -= dense_.at(t, c);
      }
    });
    RowSquares result;
    if (!of_tokens) return result;
    result.squares.resize(at(y_.rows()));
    result.products.resize(at(y_.rows()));
    parallel_for(y_.rows(), kRowsATask, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        result.squares[at(t)] = dot(y_.row(t), y_.row(t), y_.cols());
        result.products[at(t)] = dot(y_.row(t), off_.row(t), y_.cols());
      }
    });
    return result;
  }

  std::vector<std::vector<double>> changes(const MemberTokens& now,
                                           std::span<const std::vector<OutputChange>> changes) override {
    std::vector<std::vector<double>> result;
    for (std::size_t j = 0; j < now.members.size(); ++j) {
      const ExpertTokens& tokens = now.tokens[j];
      std::vector<double>& of_tokens = result.emplace_back(tokens.rows.size());
      for_outputs(now.members[j], tokens.rows, [&](std::int64_t begin, ConstMatrixView f) {
        parallel_for(f.rows, kRowsATask, [&](std::int64_t first, std::int64_t last) {
          for (std::int64_t i = begin + first; i < begin + last; ++i)
            of_tokens[at(i)] = change_of(changes[j][at(i)], f.row(i - begin), tokens.rows[at(i)]);
        });
      });
    }
    return result;
  }

  void sum(const MemberTokens& kept) override { y_ = sum_outputs(kept, {}); }

  RowSquares errors() override {
    RowSquares result{std::vector<double>(at(y_.rows())), std::vector<double>(at(y_.rows()))};
    parallel_for(y_.rows(), kRowsATask, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        double error = 0.0;
        for (std::int64_t c = 0; c < y_.cols(); ++c) {
          const double d = double{y_.at(t, c)} - double{dense_.at(t, c)};
          error += d * d;
        }
        result.products[at(t)] = error;
        result.squares[at(t)] = dot(dense_.row(t), dense_.row(t), y_.cols());
      }
    });
    return result;
  }

  Matrix refit(const MemberTokens& kept, std::size_t member) override {
    const BlockLinear down =
        block_->experts()->tensors().load(kept.members[member], ExpertPart::kDown, WeightUse::kFloat);
    const ExpertTokens& tokens = kept.tokens[member];
    const std::int64_t hidden = x_.cols(), width = down.weight.cols();
    Matrix gram = Matrix::zeros(width, width), cross = Matrix::zeros(width, hidden);
    std::vector<Matrix> inputs, wanted;  // of each product
    for_inner(
        kept.members[member], tokens.rows, [&](std::int64_t first, ConstMatrixView inner, const Expert&) {
          inputs.push_back(weighed(inner, tokens, first));
          Matrix& lacking = wanted.emplace_back(inner.rows, hidden);
          parallel_for(inner.rows, kRowsATask, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) {
              const std::int64_t t = tokens.rows[at(first + i)];
              const double root = std::sqrt(weights_[at(t)]);
              for (std::int64_t c = 0; c < hidden; ++c)
                lacking.at(i, c) = static_cast<float>(root * (double{dense_.at(t, c)} - double{y_.at(t, c)}));
            }
          });
        });
    const std::span<std::byte> sums[] = {std::as_writable_bytes(gram.values()),
                                         std::as_writable_bytes(cross.values())};
    add_in_order(*run_.options.ranks, sums, [&] {
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        backend_.add_gram(inputs[i].view(), gram.view());
        backend_.add_cross(inputs[i].view(), wanted[i].view(), cross.view());
      }
    });
    Backend::symmetrize(gram.view());
    const Matrix fitted = solve(gram, cross, fmt::format("expert {}", kept.members[member]));
    Matrix changed(hidden, width);
    for (std::int64_t o = 0; o < hidden; ++o) {
      for (std::int64_t c = 0; c < width; ++c) changed.at(o, c) = down.weight.at(o, c) + fitted.at(c, o);
    }
    round_to(down.dtype, changed.values());
    replace_down(kept, member, down.weight.view(), changed.view());
    return changed;
  }

  void use_down(const MemberTokens& kept, std::size_t member, ConstMatrixView down) override {
    const BlockLinear dense =
        block_->experts()->tensors().load(kept.members[member], ExpertPart::kDown, WeightUse::kFloat);
    replace_down(kept, member, dense.weight.view(), down);
  }

  Matrix lacking_by_member(const MemberTokens& kept) override {
    const std::int64_t members = std::ssize(kept.members), hidden = x_.cols();
    Matrix result = Matrix::zeros(members, hidden);
    const std::span<std::byte> sums[] = {std::as_writable_bytes(result.values())};
    add_in_order(*run_.options.ranks, sums, [&] {
      for (const Share rows : token_chunks(x_.rows(), kTokensAPass, part_ends_)) {
        Matrix gates = gates_of(kept, rows), lacking(rows.count, hidden);
        parallel_for(rows.count, kRowsATask, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t t = rows.first + i;
            for (float& gate : gates.view().row_span(i))
              gate = static_cast<float>(weights_[at(t)] * double{gate});
            for (std::int64_t c = 0; c < hidden; ++c) lacking.at(i, c) = dense_.at(t, c) - y_.at(t, c);
          }
        });
        backend_.add_cross(gates.view(), lacking.view(), result.view());
      }
    });
    return result;
  }

  void add_biases(const MemberTokens& kept, ConstMatrixView changes) override {
    for (const Share rows : token_chunks(x_.rows(), kTokensAPass, part_ends_)) {
      backend_.matmul(gates_of(kept, rows).view(), changes, 1.0f, 1.0f,
                      y_.view().row_block(rows.first, rows.count));
    }
  }

  void finish_layer() override {
    block_->add_output(backend_, LinearInput::kMlpOutput, y_.view(), hidden_.view());
  }

  Matrix inner_moments(const MemberTokens& all, std::size_t member) override {
    const ExpertTokens& tokens = all.tokens[member];
    const std::int64_t width = run_.model.config().blocks[at(layer_)].experts->width;
    Matrix gram = Matrix::zeros(width, width);
    std::vector<Matrix> inputs;  // of each product
    for_inner(all.members[member], tokens.rows,
              [&](std::int64_t first, ConstMatrixView inner, const Expert&) {
                inputs.push_back(weighed(inner, tokens, first));
              });
    const std::span<std::byte> sums[] = {std::as_writable_bytes(gram.values())};
    add_in_order(*run_.options.ranks, sums, [&] {
      for (const Matrix& z : inputs) backend_.add_gram(z.view(), gram.view());
    });
    Backend::symmetrize(gram.view());
    return gram;
  }

  void start_narrow() override { y_ = Matrix::zeros(x_.rows(), x_.cols()); }

  void add_narrow(const MemberTokens& all, std::size_t member, std::span<const std::int64_t> kept,
                  ConstMatrixView down) override {
    const ExpertTokens& tokens = all.tokens[member];
    const std::vector<float> bias =
        block_->experts()->tensors().load_bias(all.members[member], ExpertPart::kDown);
    for_inner(all.members[member], tokens.rows,
              [&](std::int64_t first, ConstMatrixView inner, const Expert&) {
                const Matrix z = take_columns(inner, kept);
                Matrix f(inner.rows, down.rows);
                backend_.matmul_transposed(z.view(), down, 1.0f, 0.0f, f.view());
                for (std::int64_t t = 0; t < f.rows() && !bias.empty(); ++t) {
                  for (std::size_t c = 0; c < bias.size(); ++c)
                    f.at(t, static_cast<std::int64_t>(c)) += bias[c];
                }
                add_rows(f.view(), part_of(tokens, first, f.rows()), y_.view());
              });
  }

 private:
  using InnerFn = std::function<void(std::int64_t first, ConstMatrixView inner, const Expert& expert)>;
  using OutputFn = std::function<void(std::int64_t first, ConstMatrixView f)>;

  // All of the block but its experts: hidden_ has the attention and the shared expert in it.
  void run_up_to_experts() {
    using enum LinearInput;
    const ModelConfig& model = run_.model.config();
    expect(!model.parallel_residual && !block_->norms_output(kMlpOutput) && model.carried == 0 &&
               block_->config().output_scale.empty(),
           "experts: what they add joins the residual without a norm, behind the attention");
    x_ = Matrix(hidden_.rows(), hidden_.cols());
    ops_.for_rows([&](std::int64_t first, std::int64_t count) {
      const MatrixView rows = CpuStreamOps::rows(hidden_, first, count);
      const Matrix mixed = ops_.attention(*block_, ops_.input_of(*block_, kAttention, rows), rows);
      ops_.project_and_add(*block_, kAttentionOutput, mixed.view(), rows);
      const Matrix input = ops_.input_of(*block_, kMlp, rows);
      std::copy_n(input.data(), input.numel(), x_.row(first));
      Matrix shared = block_->shared_output(backend_, input.view());
      block_->add_output(backend_, kMlpOutput, shared.view(), rows);
    });
  }

  // Inner values of the tokens from `first` on, each by its gate and the root of its weight.
  Matrix weighed(ConstMatrixView inner, const ExpertTokens& tokens, std::int64_t first) const {
    Matrix z(inner.rows, inner.cols);
    parallel_for(inner.rows, kRowsATask, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const double scale =
            std::sqrt(weights_[at(tokens.rows[at(first + i)])]) * double{tokens.gates[at(first + i)]};
        for (std::int64_t c = 0; c < inner.cols; ++c)
          z.at(i, c) = static_cast<float>(scale * double{inner.at(i, c)});
      }
    });
    return z;
  }

  // y follows a down projection [hidden, width] that takes the place of another.
  void replace_down(const MemberTokens& kept, std::size_t member, ConstMatrixView before,
                    ConstMatrixView after) {
    const ExpertTokens& tokens = kept.tokens[member];
    Matrix difference(before.rows, before.cols);
    for (std::int64_t o = 0; o < before.rows; ++o) {
      for (std::int64_t c = 0; c < before.cols; ++c) difference.at(o, c) = after.at(o, c) - before.at(o, c);
    }
    for_inner(kept.members[member], tokens.rows,
              [&](std::int64_t first, ConstMatrixView inner, const Expert&) {
                Matrix more(inner.rows, before.rows);
                backend_.matmul_transposed(inner, difference.view(), 1.0f, 0.0f, more.view());
                add_rows(more.view(), part_of(tokens, first, more.rows()), y_.view());
              });
  }

  void for_outputs(std::int64_t expert, std::span<const std::int64_t> rows, const OutputFn& body) const {
    for_inner(expert, rows, [&](std::int64_t first, ConstMatrixView inner, const Expert& loaded) {
      body(first, loaded.project(backend_, inner).view());
    });
  }

  // The expert's inner values for these rows of x, some at a time.
  void for_inner(std::int64_t expert, std::span<const std::int64_t> rows, const InnerFn& body) const {
    if (rows.empty()) return;
    check_interrupt();
    block_->experts()->use(backend_, expert, [&](const Expert& loaded) {
      for (std::int64_t first = 0; first < std::ssize(rows);) {
        const std::int64_t last = end_in_part(rows, first, kTokensAPass, part_ends_);
        const Matrix inner =
            loaded.inner(backend_, gather_rows(x_.view(), rows.subspan(at(first), at(last - first))).view());
        body(first, inner.view(), loaded);
        first = last;
      }
    });
  }

  template <class RowFn>
  static RowSizes sizes_of(std::int64_t rows, std::int64_t cols, const RowFn& row_of) {
    RowSizes sizes{std::vector<double>(at(rows)), std::vector<double>(at(rows))};
    parallel_for(rows, kRowsATask, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        const auto row = row_of(i);
        sizes.norms[at(i)] = std::sqrt(dot(row.data(), row.data(), cols));
        float most = 0.0f;
        for (const float value : row) most = std::max(most, std::abs(value));
        sizes.largest[at(i)] = double{most};
      }
    });
    return sizes;
  }

  // Σ_j g_j f_j(x) over the members; seen(j, first, f): outputs of member j's tokens from `first` on; next [N, hidden]:
  // outputs of MemberTokens::next, zeros where there is none.
  Matrix sum_outputs(const MemberTokens& routed,
                     const std::function<void(std::size_t, std::int64_t, ConstMatrixView)>& seen,
                     Matrix* next = nullptr) const {
    Matrix y = Matrix::zeros(x_.rows(), x_.cols());
    const std::vector<std::vector<std::int64_t>> waiting = tokens_by_next(routed);
    if (next != nullptr) std::fill(next->values().begin(), next->values().end(), 0.0f);
    for (std::size_t j = 0; j < routed.members.size(); ++j) {
      const ExpertTokens& tokens = routed.tokens[j];
      for_outputs(routed.members[j], tokens.rows, [&](std::int64_t first, ConstMatrixView f) {
        add_rows(f, part_of(tokens, first, f.rows), y.view());
        if (seen) seen(j, first, f);
      });
      if (next == nullptr) continue;
      for_outputs(routed.members[j], waiting[j], [&](std::int64_t first, ConstMatrixView f) {
        for (std::int64_t i = 0; i < f.rows; ++i)
          std::copy_n(f.row(i), f.cols, next->row(waiting[j][at(first + i)]));
      });
    }
    return y;
  }

  // |y' − y_dense|² − |y − y_dense|² of token t, f the member's output.
  double change_of(const OutputChange& by, const float* f, std::int64_t t) const {
    double change = 0.0;
    for (std::int64_t c = 0; c < x_.cols(); ++c) {
      const double d =
          by.of_y * double{y_.at(t, c)} + by.of_f * double{f[c]} + by.of_next * double{next_.at(t, c)};
      change += d * (d + 2.0 * double{off_.at(t, c)});
    }
    return change;
  }

  // (Ĝ + δI)⁻¹ of the normalised Gram matrix times cross, in the units of the inputs: [width, hidden]
  Matrix solve(Matrix& gram, Matrix& cross, const std::string& what) const {
    const std::int64_t width = gram.rows();
    check_gram(&gram, width, what);
    const double floor = kRefitEnergyFloor * damping_unit(gram.view());
    std::vector<double> scale;
    for (std::int64_t c = 0; c < width; ++c)
      scale.push_back(1.0 / (std::sqrt(double{gram.at(c, c)} + floor) + 1e-8));
    for (std::int64_t r = 0; r < width; ++r) {
      for (std::int64_t c = 0; c < width; ++c)
        gram.at(r, c) = static_cast<float>(double{gram.at(r, c)} * scale[at(r)] * scale[at(c)]);
      for (float& value : cross.view().row_span(r)) value = static_cast<float>(double{value} * scale[at(r)]);
    }
    const DampedInverse inverse = damped_inverse(
        gram.view(), {.relative = run_.options.damping, .unit = 1.0, .shift = 0.0}, backend_, what);
    Matrix fitted(width, cross.cols());
    backend_.matmul(inverse.inverse.view(), cross.view(), 1.0f, 0.0f, fitted.view());
    for (std::int64_t r = 0; r < width; ++r) {
      for (float& value : fitted.view().row_span(r)) value = static_cast<float>(double{value} * scale[at(r)]);
    }
    return fitted;
  }

  const Backend& backend_;
  const ExpertRun run_;
  const Share share_;           // of the windows
  const TokenWindows windows_;  // this rank's
  const std::vector<std::int64_t> part_ends_;
  CpuStreamOps ops_;
  std::int64_t layer_ = -1;
  std::optional<DecoderBlock> block_;
  Matrix hidden_;                  // [N, hidden]
  Matrix x_;                       // [N, hidden] inputs of the layer's experts
  Matrix dense_, y_, next_, off_;  // [N, hidden]; off_: y − dense
  std::vector<double> weights_;    // [N] of tokens
};

}  // namespace

ExpertShopMaker cpu_expert_shop(const Backend& backend) {
  return [&backend](const ExpertRun& run) { return std::make_unique<CpuExpertShop>(backend, run); };
}

Matrix ExpertShop::inner_moments(const MemberTokens&, std::size_t) {
  expect(false, "inner_moments: a device that narrows experts");
  return {};
}
void ExpertShop::start_narrow() { expect(false, "start_narrow: a device that narrows experts"); }
void ExpertShop::add_narrow(const MemberTokens&, std::size_t, std::span<const std::int64_t>,
                            ConstMatrixView) {
  expect(false, "add_narrow: a device that narrows experts");
}

Matrix gates_of(const MemberTokens& sent, const Share& tokens) {
  Matrix gates = Matrix::zeros(tokens.count, std::ssize(sent.members));
  for (std::size_t j = 0; j < sent.members.size(); ++j) {
    const ExpertTokens& of = sent.tokens[j];
    const auto first = std::lower_bound(of.rows.begin(), of.rows.end(), tokens.first);
    const auto last = std::lower_bound(first, of.rows.end(), tokens.first + tokens.count);
    for (auto row = first; row != last; ++row)
      gates.at(*row - tokens.first, static_cast<std::int64_t>(j)) = of.gates[at(row - of.rows.begin())];
  }
  return gates;
}

std::vector<std::vector<std::int64_t>> tokens_by_next(const MemberTokens& sent) {
  std::vector<std::vector<std::int64_t>> waiting(sent.members.size());
  for (std::size_t t = 0; t < sent.next.size(); ++t) {
    if (sent.next[t] >= 0) waiting[at(sent.next[t])].push_back(static_cast<std::int64_t>(t));
  }
  return waiting;
}

}  // namespace swiftprune
