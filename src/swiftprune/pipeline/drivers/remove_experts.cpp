#include "swiftprune/pipeline/drivers/remove_experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/drivers/expert_shop.h"
#include "swiftprune/pipeline/root_mean_square.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kRowsATask = 16;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

RoutedExperts route_tokens(Router router, std::vector<std::int64_t> members, Matrix scores) {
  const auto k = at(router.config().top_k);
  const std::int64_t n = scores.rows();
  Routing routing{router.config().top_k, std::vector<std::int32_t>(at(n) * k), std::vector<float>(at(n) * k)};
  std::vector<std::int32_t> next(at(n));
  parallel_for(n, kRowsATask, [&](std::int64_t first, std::int64_t last) {
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

std::vector<double> gate_totals(const Routing& routing) {
  std::vector<double> totals;
  for (std::int64_t t = 0; t < routing.num_tokens(); ++t) {
    double total = 0.0;
    for (const float gate : routing.gates_of(t)) total += double{gate};
    totals.push_back(total);
  }
  return totals;
}

// Of token t, which uses member j. The others' weights all change by one factor, since they are renormalised or the
// softmax has one summand fewer:
//   y' − y = (a − 1)·y − a·g_j·f + g_next·f_next
// experts, weights: of the caller, for their memory.
OutputChange change_without(const RoutedExperts& now, std::size_t j, std::int64_t t,
                            std::vector<std::int32_t>& experts, std::vector<float>& weights) {
  const auto row = now.scores.view().row_span(t);
  const auto chosen = now.routing.experts_of(t);
  const auto gates = now.routing.gates_of(t);
  experts.clear();
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
  weights.resize(experts.size());
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
  return {stays ? a - 1.0 : -1.0, stays ? -g : 0.0, g_next};
}

// One layer with experts, in the shop.
class Layer {
 public:
  Layer(ExpertShop& shop, const Router& router)
      : shop_(shop),
        router_(router),
        hidden_size_(router.weight().cols),
        products_(shop.products(router.weight())) {}

  RoutedExperts route(std::vector<std::int64_t> members) const {
    Router router = router_.with(members);
    Matrix scores(products_.rows(), std::ssize(members));
    parallel_for(scores.rows(), kRowsATask, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        for (std::size_t j = 0; j < members.size(); ++j) scores.row(t)[j] = products_.at(t, members[j]);
      }
    });
    router.score(scores.view());
    return route_tokens(std::move(router), std::move(members), std::move(scores));
  }

  // All that scores read of the dense layer but the changes. Tokens count by 1/|hidden state behind it|², as the next
  // norm divides by it.
  ExpertEvidence observe(const RoutedExperts& all, std::int64_t layer) {
    const auto n = all.members.size();
    ExpertEvidence e;
    e.layer = layer;
    e.num_tokens = all.routing.num_tokens();
    e.tokens.resize(n);
    for (std::vector<double>* sums : {&e.shares, &e.norms, &e.share_norms, &e.largest}) sums->resize(n);
    const std::vector<double> totals = gate_totals(all.routing);
    shop_.sum_dense(all, [&](std::size_t j, std::int64_t first, const RowSizes& sizes) {
      const ExpertTokens& tokens = all.tokens[j];
      for (std::size_t i = 0; i < sizes.norms.size(); ++i) {
        const double gate = tokens.gates[at(first) + i];
        const double total = totals[at(tokens.rows[at(first) + i])];
        const double share = total > 0.0 ? gate / total : 0.0;
        e.shares[j] += share;
        e.norms[j] += sizes.norms[i];
        e.share_norms[j] += share * sizes.norms[i];
        e.largest[j] = std::max(e.largest[j], std::abs(gate) * sizes.largest[i]);
      }
    });
    for (std::size_t j = 0; j < n; ++j) e.tokens[j] = std::ssize(all.tokens[j].rows);
    for (const double norm : e.norms) {
      if (!std::isfinite(norm)) bad_input("layer {}: found experts whose outputs are not finite", layer);
    }
    const RowSizes sizes = shop_.residual_sizes();
    e.largest_residual = *std::max_element(sizes.largest.begin(), sizes.largest.end());
    for (const double norm : sizes.norms) {
      const double size = root_mean_square(norm * norm, hidden_size_);
      weights_.push_back(1.0 / (size * size));
    }
    shop_.set_token_weights(weights_);
    return e;
  }

  // What each member's removal changes of the outputs, beside the dense layer's: [members]
  //   Σ_t w_t (|y' − y_dense|² − |y − y_dense|²),
  // y the members' outputs, y' the same without the one and with the router's next choice in its place.
  std::vector<double> changes(const RoutedExperts& now) {
    const bool of_others = now.router.rescaled_without(0.5f) != 1.0;
    const RowSquares squares = shop_.start_changes(now, of_others);
    std::vector<double> result(now.members.size(), 0.0);
    if (of_others) add_changes_of_others(now, squares, result);
    std::vector<std::vector<OutputChange>> by(now.members.size());
    parallel_for(std::ssize(by), 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t j = first; j < last; ++j) {
        std::vector<std::int32_t> experts;
        std::vector<float> weights;
        by[at(j)].reserve(now.tokens[at(j)].rows.size());
        for (const std::int64_t t : now.tokens[at(j)].rows)
          by[at(j)].push_back(change_without(now, at(j), t, experts, weights));
      }
    });
    const std::vector<std::vector<double>> costs = shop_.changes(now, by);
    for (std::size_t j = 0; j < costs.size(); ++j) {
      for (std::size_t i = 0; i < costs[j].size(); ++i)
        result[j] += weights_[at(now.tokens[j].rows[i])] * costs[j][i];
    }
    return result;
  }

  // |y − y_dense|² of tokens by their weights, of |y_dense|².
  double relative_error() {
    const RowSquares squares = shop_.errors();
    double error = 0.0, size = 0.0;
    for (std::size_t t = 0; t < weights_.size(); ++t) {
      error += weights_[t] * squares.products[t];
      size += weights_[t] * squares.squares[t];
    }
    return size > 0.0 ? error / size : 0.0;
  }

 private:
  // Of the tokens that do not use a member: without it the softmax of those that they use is larger.
  void add_changes_of_others(const RoutedExperts& now, const RowSquares& of,
                             std::vector<double>& result) const {
    parallel_for(std::ssize(now.members), 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t j = first; j < last; ++j) {
        for (std::int64_t t = 0; t < now.routing.num_tokens(); ++t) {
          const auto chosen = now.routing.experts_of(t);
          if (std::find(chosen.begin(), chosen.end(), static_cast<std::int32_t>(j)) != chosen.end()) continue;
          const double more = now.router.rescaled_without(now.scores.at(t, j)) - 1.0;
          result[at(j)] += weights_[at(t)] * more * (more * of.squares[at(t)] + 2.0 * of.products[at(t)]);
        }
      }
    });
  }

  ExpertShop& shop_;
  const Router& router_;
  const std::int64_t hidden_size_;
  const Matrix products_;        // [N, E] x Wᵀ of the router's weight
  std::vector<double> weights_;  // [N] of tokens
};

class Remover {
 public:
  Remover(const ExpertShopMaker& make_shop, const Model& model, const TokenWindows& windows,
          const RemoveExpertsOptions& options, ReducedExpertsOutput& output)
      : model_(model), options_(options), output_(output) {
    shop_ = make_shop({model, windows, options, result_.seconds});
  }

  RemoveExpertsResult run() {
    {
      const Stopwatch total(result_.seconds.total);
      for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
        check_interrupt();
        shop_->start(layer);
        if (const auto& experts = model_.config().blocks[at(layer)].experts) {
          result_.layers.size() < options_.finished.size() ? pass_finished(layer, *experts)
                                                           : reduce(layer, *experts);
        }
        options_.progress("shrink", layer + 1, model_.config().num_layers());
      }
    }
    return std::move(result_);
  }

 private:
  void reduce(std::int64_t layer, const ExpertsConfig& experts) {
    const Router router(model_.checkpoint(), experts, model_.config().hidden_size);
    std::vector<std::int64_t> all(at(experts.count));
    std::iota(all.begin(), all.end(), 0);
    ReducedLayer reduced;
    Layer work(*shop_, router);
    {
      const Stopwatch watch(result_.seconds.forward);
      reduced.evidence = work.observe(work.route(all), layer);
    }
    {
      const Stopwatch watch(result_.seconds.solve);
      choose(work, std::move(all), reduced);
      const RoutedExperts routed = work.route(reduced.kept);
      shop_->sum(routed);
      reduced.change = reduced.change_refitted = work.relative_error();
      refit_and_write(work, experts, routed, reduced);
      shop_->finish_layer();
    }
    output_.finish_layer(reduced);
    result_.layers.push_back(std::move(reduced));
  }

  // Of a layer that an earlier run finished: the hidden states become what they became then.
  void pass_finished(std::int64_t layer, const ExpertsConfig& experts) {
    const Stopwatch watch(result_.seconds.forward);
    const ReducedLayer& finished = options_.finished[result_.layers.size()];
    expect(finished.evidence.layer == layer, "finished layers: those with experts, from the first on");
    const Router router(model_.checkpoint(), experts, model_.config().hidden_size);
    const Layer work(*shop_, router);
    const RoutedExperts routed = work.route(finished.kept);
    shop_->sum(routed);
    for (std::size_t j = 0; j < finished.kept.size(); ++j) {
      if (!finished.refitted[j]) continue;
      check_interrupt();
      shop_->use_down(routed, j, output_.read_down(layer, static_cast<std::int64_t>(j)).view());
    }
    shop_->finish_layer();
    result_.layers.push_back(finished);
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

  void refit_and_write(Layer& work, const ExpertsConfig& experts, const RoutedExperts& routed,
                       ReducedLayer& reduced) {
    std::vector<bool>& refitted = reduced.refitted;
    refitted.assign(reduced.kept.size(), false);
    if (options_.refit && reduced.kept.size() < at(experts.count)) {
      for (std::size_t j = 0; j < reduced.kept.size(); ++j) {
        if (std::ssize(routed.tokens[j].rows) < kMinRefitTokens) {
          reduced.not_refitted.push_back(reduced.kept[j]);
          continue;
        }
        check_interrupt();
        const Matrix down = shop_->refit(routed, j);
        refitted[j] = true;
        const Stopwatch watch(result_.seconds.write);
        output_.write_down(reduced.evidence.layer, static_cast<std::int64_t>(j), down.view());
      }
      reduced.change_refitted = work.relative_error();
    }
    const Stopwatch watch(result_.seconds.write);
    output_.keep(reduced.evidence.layer, reduced.kept, refitted);
  }

  const Model& model_;
  const RemoveExpertsOptions& options_;
  ReducedExpertsOutput& output_;
  RemoveExpertsResult result_;
  std::unique_ptr<ExpertShop> shop_;
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

RemoveExpertsResult remove_experts(const ExpertShopMaker& make_shop, const Model& model,
                                   const TokenWindows& windows, const RemoveExpertsOptions& options,
                                   ReducedExpertsOutput& output) {
  check_reducible(model);
  check_experts_left(model.config(), options.keep, "remove_experts");
  expect(windows.num_windows() > 0 && options.scorer != nullptr && options.rounds > 0,
         "remove_experts: text, a score, rounds");
  return Remover(make_shop, model, windows, options, output).run();
}

}  // namespace swiftprune
