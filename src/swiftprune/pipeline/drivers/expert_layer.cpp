#include "swiftprune/pipeline/drivers/expert_layer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/pipeline/root_mean_square.h"
#include "swiftprune/structure/expert_bias.h"

namespace swiftprune {
namespace {

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
  return {{std::move(members), std::move(tokens), std::move(next)},
          std::move(router),
          std::move(scores),
          std::move(routing)};
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

}  // namespace

ExpertLayer::ExpertLayer(ExpertShop& shop, const Router& router)
    : shop_(shop),
      router_(router),
      hidden_size_(router.weight().cols),
      products_(shop.products(router.weight())) {}

RoutedExperts ExpertLayer::route(std::vector<std::int64_t> members) const {
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

ExpertEvidence ExpertLayer::observe(const RoutedExperts& all, std::int64_t layer) {
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
    e.mean_residual += norm / static_cast<double>(sizes.norms.size());
    const double size = root_mean_square(norm * norm, hidden_size_);
    weights_.push_back(1.0 / (size * size));
  }
  shop_.set_token_weights(weights_);
  return e;
}

std::vector<double> ExpertLayer::changes(const RoutedExperts& now) {
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

Matrix ExpertLayer::bias_changes(const RoutedExperts& now, const std::vector<bool>& fitted, double damping) {
  Matrix gates = gate_moments(now.routing, weights_, std::ssize(now.members));
  Matrix lacking = shop_.lacking_by_member(now);
  for (std::int64_t j = 0; j < gates.rows(); ++j) {
    if (fitted[at(j)]) continue;
    for (std::int64_t other = 0; other < gates.cols(); ++other)
      gates.at(j, other) = gates.at(other, j) = 0.0f;
    for (float& value : lacking.view().row_span(j)) value = 0.0f;
  }
  return fit_expert_biases(std::move(gates), std::move(lacking), damping);
}

double ExpertLayer::relative_error() {
  const RowSquares squares = shop_.errors();
  double error = 0.0, size = 0.0;
  for (std::size_t t = 0; t < weights_.size(); ++t) {
    error += weights_[t] * squares.products[t];
    size += weights_[t] * squares.squares[t];
  }
  return size > 0.0 ? error / size : 0.0;
}

// Of the tokens that do not use a member: without it the softmax of those that they use is larger.
void ExpertLayer::add_changes_of_others(const RoutedExperts& now, const RowSquares& of,
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

}  // namespace swiftprune
