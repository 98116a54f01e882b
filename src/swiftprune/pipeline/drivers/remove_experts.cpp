#include "swiftprune/pipeline/drivers/remove_experts.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>
#include <utility>

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/block_edits.h"
#include "swiftprune/pipeline/root_mean_square.h"
#include "swiftprune/pipeline/streams/cpu_stream_ops.h"
#include "swiftprune/sparse/packed_checkpoint.h"
#include "swiftprune/structure/refit.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kTokensAPass = 4096;  // of one expert at a time
constexpr std::int64_t kRowsATask = 16;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

double dot(const float* a, const float* b, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

double sum_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

// The experts in hand, the router over them, and which tokens it sends where.
struct Routed {
  Router router;
  std::vector<std::int64_t> members;  // the layer's experts, rising
  Matrix scores;                      // [N, members]
  Routing routing;                    // by member
  std::vector<std::int32_t> next;     // [N] the best member that was not chosen; -1: none
  std::vector<ExpertTokens> tokens;   // of each member
};

Routed route_tokens(Router router, std::vector<std::int64_t> members, const Backend& backend,
                    ConstMatrixView x) {
  Matrix scores = router.scores(backend, x);
  const auto k = at(router.config().top_k);
  Routing routing{router.config().top_k, std::vector<std::int32_t>(at(x.rows) * k),
                  std::vector<float>(at(x.rows) * k)};
  std::vector<std::int32_t> next(at(x.rows));
  parallel_for(x.rows, kRowsATask, [&](std::int64_t first, std::int64_t last) {
    std::vector<std::int32_t> chosen(k + 1);
    for (std::int64_t t = first; t < last; ++t) {
      const auto row = std::as_const(scores).view().row_span(t);
      router.choose(row, chosen);
      std::copy_n(chosen.begin(), k, routing.experts.begin() + t * router.config().top_k);
      next[at(t)] = chosen[k];
      router.weigh(row, routing.experts_of(t), std::span(routing.gates).subspan(at(t) * k, k));
    }
  });
  std::vector<ExpertTokens> tokens = tokens_by_expert(routing, router.num_experts());
  return {std::move(router),  std::move(members), std::move(scores),
          std::move(routing), std::move(next),    std::move(tokens)};
}

// One layer: its experts, and their inputs of all windows.
class Layer {
 public:
  // weights [N]: of the tokens, once they are known.
  Layer(const Backend& backend, const Experts& experts, const RemoveExpertsOptions& options, const Matrix& x)
      : backend_(backend), experts_(experts), options_(options), x_(x) {}

  const Matrix& dense() const { return dense_; }
  std::vector<double>& weights() { return weights_; }

  Routed route(std::vector<std::int64_t> members) const {
    return route_tokens(experts_.router().with(members), members, backend_, x_.view());
  }

  // The dense layer's summed outputs, and all that scores read of it but the changes.
  ExpertEvidence observe(const Routed& all, std::int64_t layer) {
    const auto n = at(experts_.count());
    ExpertEvidence e;
    e.layer = layer;
    e.num_tokens = x_.rows();
    e.tokens.resize(n);
    for (std::vector<double>* sums : {&e.shares, &e.norms, &e.share_norms, &e.largest}) sums->resize(n);
    const std::vector<double> totals = gate_totals(all.routing);
    dense_ = sum_outputs(all, [&](std::size_t j, std::int64_t first, ConstMatrixView f) {
      const ExpertTokens& tokens = all.tokens[j];
      std::vector<double> norms(at(f.rows)), largest(at(f.rows));
      parallel_for(f.rows, kRowsATask, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          norms[at(i)] = std::sqrt(dot(f.row(i), f.row(i), f.cols));
          float most = 0.0f;
          for (const float value : f.row_span(i)) most = std::max(most, std::abs(value));
          largest[at(i)] = std::abs(double{tokens.gates[at(first + i)]}) * double{most};
        }
      });
      e.tokens[j] = std::ssize(tokens.rows);
      for (std::int64_t i = 0; i < f.rows; ++i) {
        const double total = totals[at(tokens.rows[at(first + i)])];
        const double share = total > 0.0 ? double{tokens.gates[at(first + i)]} / total : 0.0;
        e.shares[j] += share;
        e.norms[j] += norms[at(i)];
        e.share_norms[j] += share * norms[at(i)];
        e.largest[j] = std::max(e.largest[j], largest[at(i)]);
      }
    });
    for (const double norm : e.norms) {
      if (!std::isfinite(norm)) bad_input("layer {}: found experts whose outputs are not finite", layer);
    }
    return e;
  }

  // What each member's removal changes of the outputs, beside the dense layer's: [members]
  //   Σ_t w_t (|y' − y_dense|² − |y − y_dense|²),
  // y the members' outputs, y' the same without the one and with the router's next choice in its place.
  std::vector<double> changes(const Routed& now) {
    Matrix next(x_.rows(), x_.cols());  // outputs of the experts that would be chosen next
    const Matrix y = sum_outputs(now, {}, &next);
    Matrix off = y.clone();  // y - y_dense
    parallel_for(off.rows(), kRowsATask, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        for (std::int64_t c = 0; c < off.cols(); ++c) off.at(t, c) -= dense_.at(t, c);
      }
    });
    std::vector<double> result = changes_of_others(now, y, off);
    for (std::size_t j = 0; j < now.members.size(); ++j) {
      const ExpertTokens& tokens = now.tokens[j];
      for_outputs(now.members[j], tokens.rows, [&](std::int64_t first, ConstMatrixView, ConstMatrixView f) {
        std::vector<double> costs(at(f.rows));
        parallel_for(f.rows, kRowsATask, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t t = tokens.rows[at(first + i)];
            costs[at(i)] = change_of(now, j, t, f.row(i), y.row(t), next.row(t), off.row(t));
          }
        });
        result[j] += sum_of(costs);
      });
    }
    return result;
  }

  // The members' summed outputs.
  Matrix outputs(const Routed& routed) { return sum_outputs(routed, {}); }

  // |y − y_dense|² of tokens by their weights, and |y_dense|².
  double relative_error(const Matrix& y) const {
    std::vector<double> errors(at(y.rows())), sizes(at(y.rows()));
    parallel_for(y.rows(), kRowsATask, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        double error = 0.0;
        for (std::int64_t c = 0; c < y.cols(); ++c) {
          const double d = double{y.at(t, c)} - double{dense_.at(t, c)};
          error += d * d;
        }
        errors[at(t)] = weights_[at(t)] * error;
        sizes[at(t)] = weights_[at(t)] * dot(dense_.row(t), dense_.row(t), y.cols());
      }
    });
    const double size = sum_of(sizes);
    return size > 0.0 ? sum_of(errors) / size : 0.0;
  }

  // Refits member j's down projection on what y lacks of the dense outputs; y becomes the outputs with the new one,
  // rounded as the file will hold it. weight: what it is before and after. False when there are too few tokens.
  bool refit(const Routed& routed, std::size_t j, DType dtype, Matrix& weight, Matrix& y) {
    const ExpertTokens& tokens = routed.tokens[j];
    if (std::ssize(tokens.rows) < kMinRefitTokens) return false;
    const std::int64_t hidden = x_.cols(), width = weight.cols();
    Matrix gram = Matrix::zeros(width, width), cross = Matrix::zeros(width, hidden);
    for_outputs(
        routed.members[j], tokens.rows, [&](std::int64_t first, ConstMatrixView inner, ConstMatrixView) {
          Matrix z(inner.rows, width), lacking(inner.rows, hidden);
          parallel_for(inner.rows, kRowsATask, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t i = begin; i < end; ++i) {
              const std::int64_t t = tokens.rows[at(first + i)];
              const double root = std::sqrt(weights_[at(t)]),
                           scale = root * double{tokens.gates[at(first + i)]};
              for (std::int64_t c = 0; c < width; ++c)
                z.at(i, c) = static_cast<float>(scale * double{inner.at(i, c)});
              for (std::int64_t c = 0; c < hidden; ++c)
                lacking.at(i, c) = static_cast<float>(root * (double{dense_.at(t, c)} - double{y.at(t, c)}));
            }
          });
          backend_.add_gram(z.view(), gram.view());
          backend_.add_cross(z.view(), lacking.view(), cross.view());
        });
    Backend::symmetrize(gram.view());
    const Matrix fitted = solve(gram, cross, fmt::format("expert {}", routed.members[j]));
    Matrix changed = weight.clone();
    for (std::int64_t o = 0; o < hidden; ++o) {
      for (std::int64_t c = 0; c < width; ++c) changed.at(o, c) += fitted.at(c, o);
    }
    round_to(dtype, changed.values());
    for (std::int64_t o = 0; o < hidden; ++o) {
      for (std::int64_t c = 0; c < width; ++c) weight.at(o, c) = changed.at(o, c) - weight.at(o, c);
    }
    for_outputs(routed.members[j], tokens.rows,
                [&](std::int64_t first, ConstMatrixView inner, ConstMatrixView) {
                  Matrix more(inner.rows, hidden);
                  backend_.matmul_transposed(inner, weight.view(), 1.0f, 0.0f, more.view());
                  add_part(more.view(), tokens, first, y);
                });
    weight = std::move(changed);
    return true;
  }

 private:
  using OutputFn = std::function<void(std::int64_t first, ConstMatrixView inner, ConstMatrixView f)>;

  // The expert's inner values and outputs for these rows of x, some at a time.
  void for_outputs(std::int64_t expert, std::span<const std::int64_t> rows, const OutputFn& body) const {
    if (rows.empty()) return;
    check_interrupt();
    experts_.use(backend_, expert, [&](const Expert& loaded) {
      for (std::int64_t first = 0; first < std::ssize(rows); first += kTokensAPass) {
        const auto count = std::min(kTokensAPass, std::ssize(rows) - first);
        const Matrix inner =
            loaded.inner(backend_, gather_rows(x_.view(), rows.subspan(at(first), at(count))).view());
        body(first, inner.view(), loaded.project(backend_, inner.view()).view());
      }
    });
  }

  static void add_part(ConstMatrixView f, const ExpertTokens& tokens, std::int64_t first, Matrix& y) {
    add_rows(f, part_of(tokens, first, f.rows), y.view());
  }

  static std::vector<double> gate_totals(const Routing& routing) {
    std::vector<double> totals;
    for (std::int64_t t = 0; t < routing.num_tokens(); ++t) {
      double total = 0.0;
      for (const float gate : routing.gates_of(t)) total += double{gate};
      totals.push_back(total);
    }
    return totals;
  }

  // Σ_j g_j f_j(x) over the members; seen(j, first, f): outputs of member j's tokens from `first` on; next [N, hidden]:
  // outputs of Routed::next, zeros where there is none.
  Matrix sum_outputs(const Routed& routed,
                     const std::function<void(std::size_t, std::int64_t, ConstMatrixView)>& seen,
                     Matrix* next = nullptr) {
    Matrix y = Matrix::zeros(x_.rows(), x_.cols());
    std::vector<std::vector<std::int64_t>> waiting(routed.members.size());
    if (next != nullptr) {
      std::fill(next->values().begin(), next->values().end(), 0.0f);
      for (std::int64_t t = 0; t < x_.rows(); ++t) {
        if (routed.next[at(t)] >= 0) waiting[at(routed.next[at(t)])].push_back(t);
      }
    }
    for (std::size_t j = 0; j < routed.members.size(); ++j) {
      const ExpertTokens& tokens = routed.tokens[j];
      for_outputs(routed.members[j], tokens.rows,
                  [&](std::int64_t first, ConstMatrixView, ConstMatrixView f) {
                    add_part(f, tokens, first, y);
                    if (seen) seen(j, first, f);
                  });
      for_outputs(routed.members[j], waiting[j], [&](std::int64_t first, ConstMatrixView, ConstMatrixView f) {
        for (std::int64_t i = 0; i < f.rows; ++i)
          std::copy_n(f.row(i), f.cols, next->row(waiting[j][at(first + i)]));
      });
    }
    return y;
  }

  // Of token t, which uses member j, whose output is f. The others' weights all change by one factor, since they are
  // renormalised or the softmax has one summand fewer:
  //   y' − y = (a − 1)·y − a·g_j·f + g_next·f_next
  double change_of(const Routed& now, std::size_t j, std::int64_t t, const float* f, const float* y,
                   const float* next, const float* off) const {
    const auto row = now.scores.view().row_span(t);
    const auto chosen = now.routing.experts_of(t);
    const auto gates = now.routing.gates_of(t);
    std::vector<std::int32_t> experts;
    std::size_t place = 0, other = 0;  // of j, and of one that stays
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      if (at(chosen[i]) == j) {
        place = i;
      } else {
        other = i;
        experts.push_back(chosen[i]);
      }
    }
    const bool stays = !experts.empty();
    const std::int32_t successor = now.next[at(t)];
    if (successor >= 0) experts.push_back(successor);
    std::vector<float> weights(experts.size());
    now.router.weigh(row, experts, weights);
    const double rescaled = now.router.rescaled_without(row[j]);
    double a = 0.0;
    if (stays) {
      const auto index = other < place ? other : other - 1;
      a = gates[other] != 0.0f ? rescaled * double{weights[index]} / double{gates[other]} : 1.0;
    }
    const double g_next = successor >= 0 ? rescaled * double{weights.back()} : 0.0;
    const double g = a * double{gates[place]};
    // With nobody else y is g_j·f alone, and all of it goes.
    const double of_y = stays ? a - 1.0 : -1.0, of_f = stays ? -g : 0.0;
    double change = 0.0;
    for (std::int64_t c = 0; c < x_.cols(); ++c) {
      const double d = of_y * double{y[c]} + of_f * double{f[c]} + g_next * double{next[c]};
      change += d * (d + 2.0 * double{off[c]});
    }
    return weights_[at(t)] * change;
  }

  // Of the tokens that do not use a member: without it the softmax of those that they use is larger.
  std::vector<double> changes_of_others(const Routed& now, const Matrix& y, const Matrix& off) const {
    std::vector<double> result(now.members.size(), 0.0);
    if (now.router.rescaled_without(0.5f) == 1.0) return result;
    std::vector<double> squares(at(y.rows())), products(at(y.rows()));
    parallel_for(y.rows(), kRowsATask, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        squares[at(t)] = weights_[at(t)] * dot(y.row(t), y.row(t), y.cols());
        products[at(t)] = weights_[at(t)] * dot(y.row(t), off.row(t), y.cols());
      }
    });
    parallel_for(std::ssize(now.members), 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t j = first; j < last; ++j) {
        for (std::int64_t t = 0; t < y.rows(); ++t) {
          const auto chosen = now.routing.experts_of(t);
          if (std::find(chosen.begin(), chosen.end(), static_cast<std::int32_t>(j)) != chosen.end()) continue;
          const double more = now.router.rescaled_without(now.scores.at(t, j)) - 1.0;
          result[at(j)] += more * (more * squares[at(t)] + 2.0 * products[at(t)]);
        }
      }
    });
    return result;
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
        gram.view(), {.relative = options_.damping, .unit = 1.0, .shift = 0.0}, backend_, what);
    Matrix fitted(width, cross.cols());
    backend_.matmul(inverse.inverse.view(), cross.view(), 1.0f, 0.0f, fitted.view());
    for (std::int64_t r = 0; r < width; ++r) {
      for (float& value : fitted.view().row_span(r)) value = static_cast<float>(double{value} * scale[at(r)]);
    }
    return fitted;
  }

  const Backend& backend_;
  const Experts& experts_;
  const RemoveExpertsOptions& options_;
  const Matrix& x_;
  Matrix dense_;                 // [N, hidden] summed outputs of the dense layer's experts
  std::vector<double> weights_;  // [N] of tokens
};

class Remover {
 public:
  Remover(const Model& model, const Backend& backend, const TokenWindows& windows,
          const RemoveExpertsOptions& options, ReducedExpertsOutput& output)
      : model_(model),
        backend_(backend),
        options_(options),
        output_(output),
        ops_(model, backend, windows),
        hidden_(ops_.embed()) {}

  RemoveExpertsResult run() {
    {
      const Stopwatch total(result_.seconds.total);
      for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
        check_interrupt();
        run_block(layer);
        model_.release_block(layer);
        options_.progress("shrink", layer + 1, model_.config().num_layers());
      }
    }
    return std::move(result_);
  }

 private:
  void run_block(std::int64_t layer) {
    std::optional<DecoderBlock> block;
    {
      const Stopwatch watch(result_.seconds.load);
      block.emplace(model_.load_block(layer));
      block->pack(backend_, options_.compute);
    }
    if (block->experts() == nullptr) {
      const Stopwatch watch(result_.seconds.forward);
      ops_.for_rows([&](std::int64_t first, std::int64_t count) {
        ops_.forward(*block, CpuStreamOps::rows(hidden_, first, count), nullptr, false);
      });
      return;
    }
    reduce(layer, *block);
  }

  // All of the block but its experts: hidden_ has the attention and the shared expert in it. -> the experts' inputs
  Matrix run_up_to_experts(const DecoderBlock& block) {
    using enum LinearInput;
    expect(!model_.config().parallel_residual && model_.config().residual_scale == 1.0f &&
               !block.norms_output(kMlpOutput),
           "experts: what they add joins the residual as it is, behind the attention");
    Matrix x(hidden_.rows(), hidden_.cols());
    ops_.for_rows([&](std::int64_t first, std::int64_t count) {
      const MatrixView rows = CpuStreamOps::rows(hidden_, first, count);
      const Matrix mixed = ops_.attention(block, ops_.input_of(block, kAttention, rows));
      ops_.project_and_add(block, kAttentionOutput, mixed.view(), rows);
      const Matrix input = ops_.input_of(block, kMlp, rows);
      std::copy_n(input.data(), input.numel(), x.row(first));
      backend_.add(block.shared_output(backend_, input.view()).view(), rows);
    });
    return x;
  }

  void reduce(std::int64_t layer, const DecoderBlock& block) {
    const Experts& experts = *block.experts();
    std::optional<Matrix> x;
    std::vector<std::int64_t> all(at(experts.count()));
    std::iota(all.begin(), all.end(), 0);
    ReducedLayer reduced;
    std::optional<Layer> work;
    {
      const Stopwatch watch(result_.seconds.forward);
      x.emplace(run_up_to_experts(block));
      work.emplace(backend_, experts, options_, *x);
      reduced.evidence = work->observe(work->route(all), layer);
      weigh_tokens(*work, reduced.evidence);
    }
    Matrix y;
    {
      const Stopwatch watch(result_.seconds.solve);
      choose(*work, std::move(all), reduced);
      const Routed routed = work->route(reduced.kept);
      y = work->outputs(routed);
      reduced.change = reduced.change_refitted = work->relative_error(y);
      refit_and_write(*work, experts, routed, reduced, y);
    }
    backend_.add(y.view(), hidden_.view());
    result_.layers.push_back(std::move(reduced));
  }

  // Tokens count by 1/|hidden state behind the dense layer|², as the next norm divides by it.
  void weigh_tokens(Layer& work, ExpertEvidence& evidence) {
    const Matrix& y = work.dense();
    std::vector<double> largest(at(y.rows()));
    work.weights().resize(at(y.rows()));
    parallel_for(y.rows(), kRowsATask, [&](std::int64_t first, std::int64_t last) {
      std::vector<float> row(at(y.cols()));
      for (std::int64_t t = first; t < last; ++t) {
        for (std::int64_t c = 0; c < y.cols(); ++c) {
          row[at(c)] = hidden_.at(t, c) + y.at(t, c);
          largest[at(t)] = std::max(largest[at(t)], std::abs(double{row[at(c)]}));
        }
        const double size = root_mean_square(row);
        work.weights()[at(t)] = 1.0 / (size * size);
      }
    });
    evidence.largest_residual = *std::max_element(largest.begin(), largest.end());
  }

  void choose(Layer& work, std::vector<std::int64_t> members, ReducedLayer& reduced) {
    ExpertEvidence& evidence = reduced.evidence;
    reduced.super = super_experts(evidence);
    for (std::int64_t j = 0; j < evidence.num_experts(); ++j) {
      if (evidence.tokens[at(j)] == 0) reduced.never.push_back(j);
    }
    const std::int64_t groups = model_.config().blocks[at(evidence.layer)].experts->router.num_groups;
    std::vector<std::int64_t> always = options_.keep_super ? reduced.super : std::vector<std::int64_t>();
    if (std::ssize(always) > options_.keep) always.resize(at(options_.keep));
    if (!options_.scorer->needs_changes) {
      reduced.kept =
          best_experts(options_.scorer->score(evidence, options_.seed), options_.keep, groups, always);
      return;
    }
    const auto total = std::ssize(members) - options_.keep;
    for (std::int64_t round = 1; round <= options_.rounds; ++round) {
      // As many of each group.
      const std::int64_t gone = total / groups * round / options_.rounds * groups;
      const std::int64_t left = evidence.num_experts() - (round == options_.rounds ? total : gone);
      if (left == std::ssize(members)) continue;
      const std::vector<double> changes = work.changes(work.route(members));
      if (evidence.changes.empty()) evidence.changes = changes;
      std::vector<std::int64_t> protected_members;
      for (std::size_t i = 0; i < members.size(); ++i) {
        if (std::find(always.begin(), always.end(), members[i]) != always.end())
          protected_members.push_back(static_cast<std::int64_t>(i));
      }
      std::vector<std::int64_t> next;
      for (const std::int64_t i : best_experts(changes, left, groups, protected_members))
        next.push_back(members[at(i)]);
      members = std::move(next);
    }
    reduced.kept = std::move(members);
  }

  void refit_and_write(Layer& work, const Experts& experts, const Routed& routed, ReducedLayer& reduced,
                       Matrix& y) {
    std::vector<bool> refitted(reduced.kept.size(), false);
    if (options_.refit && reduced.kept.size() < at(experts.count())) {
      for (std::size_t j = 0; j < reduced.kept.size(); ++j) {
        BlockLinear down = experts.tensors().load(reduced.kept[j], ExpertPart::kDown, WeightUse::kFloat);
        refitted[j] = work.refit(routed, j, down.dtype, down.weight, y);
        if (!refitted[j]) {
          reduced.not_refitted.push_back(reduced.kept[j]);
          continue;
        }
        const Stopwatch watch(result_.seconds.write);
        output_.write_down(reduced.evidence.layer, static_cast<std::int64_t>(j), down.weight.view());
      }
      reduced.change_refitted = work.relative_error(y);
    }
    const Stopwatch watch(result_.seconds.write);
    output_.keep(reduced.evidence.layer, reduced.kept, refitted);
  }

  const Model& model_;
  const Backend& backend_;
  const RemoveExpertsOptions& options_;
  ReducedExpertsOutput& output_;
  CpuStreamOps ops_;
  Matrix hidden_;  // [N, hidden]
  RemoveExpertsResult result_;
};

const ExpertsConfig& any_experts(const ModelConfig& model) {
  const ExpertsConfig* experts = experts_of(model);
  if (experts == nullptr) {
    bad_usage("--units: found experts, which a model of the family {} has none of", model.family);
  }
  return *experts;
}

}  // namespace

std::int64_t experts_for_ratio(const ModelConfig& model, double ratio) {
  if (!(ratio > 0.0 && ratio < 1.0))
    bad_usage("--ratio: found {}, expected more than 0 and less than 1", ratio);
  const ExpertsConfig& experts = any_experts(model);
  const std::int64_t groups = experts.router.num_groups;
  const double a_group = static_cast<double>(experts.count / groups);
  return std::llround((1.0 - ratio) * a_group) * groups;
}

void check_experts_left(const ModelConfig& model, std::int64_t keep, std::string_view flag) {
  const ExpertsConfig& experts = any_experts(model);
  if (keep < 1 || keep >= experts.count) {
    bad_usage("{}: found a request that leaves {} of {} experts, expected one that removes some", flag, keep,
              experts.count);
  }
  if (const auto problem = router_problem(experts.router, keep)) {
    bad_usage("{}: found a request that leaves {} of {} experts, for a router with {}", flag, keep,
              experts.count, *problem);
  }
}

void check_reducible(const Model& model) {
  any_experts(model.config());
  if (!has_packed_tensors(model.checkpoint())) return;
  bad_input("{}: a packed model cannot be shrunk; make it dense first: swiftprune unpack",
            model.checkpoint().folder().string());
}

bool can_refit_experts(const Model& model) {
  const ExpertsConfig& experts = any_experts(model.config());
  return ExpertTensors(model.checkpoint(), experts, model.config().hidden_size).form() != ExpertForm::kMxfp4;
}

RemoveExpertsResult remove_experts(const Model& model, const Backend& backend, const TokenWindows& windows,
                                   const RemoveExpertsOptions& options, ReducedExpertsOutput& output) {
  check_reducible(model);
  check_experts_left(model.config(), options.keep, "remove_experts");
  expect(windows.num_windows() > 0 && options.scorer != nullptr && options.rounds > 0,
         "remove_experts: text, a score, rounds");
  return Remover(model, backend, windows, options, output).run();
}

}  // namespace swiftprune
