#include "swiftprune/model/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kTokensATask = 64;

void softmax(std::span<float> row) {
  const float top = *std::max_element(row.begin(), row.end());
  double total = 0.0;
  for (float& value : row) {
    value = std::exp(value - top);
    total += double{value};
  }
  for (float& value : row) value = static_cast<float>(double{value} / total);
}

// The indices of the `count` highest values by falling value; ties go to the lower index.
template <class Value>
std::vector<std::int32_t> highest(std::span<const Value> values, std::size_t count) {
  std::vector<std::int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [&](std::int32_t a, std::int32_t b) {
                      const Value x = values[static_cast<std::size_t>(a)];
                      const Value y = values[static_cast<std::size_t>(b)];
                      return x != y ? x > y : a < b;
                    });
  order.resize(count);
  return order;
}

}  // namespace

std::optional<std::string> router_problem(const RouterConfig& router, std::int64_t num_experts) {
  if (router.top_k > num_experts) {
    return fmt::format("{} experts a token, expected at most the {} that there are", router.top_k,
                       num_experts);
  }
  if (num_experts % router.num_groups != 0) {
    return fmt::format("{} groups, expected a divisor of the {} experts", router.num_groups, num_experts);
  }
  const std::int64_t a_group = num_experts / router.num_groups;
  if (router.top_groups > router.num_groups || router.top_groups * a_group < router.top_k) {
    return fmt::format("{} of {} groups of {} experts, expected groups that hold the {} experts a token",
                       router.top_groups, router.num_groups, a_group, router.top_k);
  }
  if (router.num_groups > 1 && router.group_score == GroupScore::kBestTwo && a_group < 2) {
    return fmt::format("{} groups of one expert, expected two or more, whose scores rank a group",
                       router.num_groups);
  }
  return std::nullopt;
}

Router::Router(const Checkpoint& checkpoint, const ExpertsConfig& experts, std::int64_t hidden_size)
    : config_(experts.router), weight_(checkpoint.load_matrix(config_.weight, experts.count, hidden_size)) {
  if (!config_.bias.empty()) bias_ = checkpoint.load_vector(config_.bias, experts.count);
  if (!config_.correction_bias.empty()) {
    correction_ = checkpoint.load_vector(config_.correction_bias, experts.count);
  }
}

Router Router::with(std::span<const std::int64_t> kept) const {
  Router router;
  router.config_ = config_;
  router.weight_ = Matrix(std::ssize(kept), weight_.cols());
  for (std::size_t i = 0; i < kept.size(); ++i) {
    std::copy_n(weight_.row(kept[i]), weight_.cols(), router.weight_.row(static_cast<std::int64_t>(i)));
    if (!bias_.empty()) router.bias_.push_back(bias_[static_cast<std::size_t>(kept[i])]);
    if (!correction_.empty()) router.correction_.push_back(correction_[static_cast<std::size_t>(kept[i])]);
  }
  return router;
}

Matrix Router::scores(const Backend& backend, ConstMatrixView x) const {
  Matrix scores(x.rows, num_experts());
  backend.matmul_transposed(x, weight_.view(), 1.0f, 0.0f, scores.view());
  score(scores.view());
  return scores;
}

void Router::score(MatrixView products) const {
  parallel_for(products.rows, kTokensATask, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      const std::span<float> row = products.row_span(t);
      for (std::size_t e = 0; e < bias_.size(); ++e) row[e] += bias_[e];
      if (config_.score == RouterScore::kSoftmax) {
        softmax(row);
      } else {
        for (float& value : row) value = 1.0f / (1.0f + std::exp(-value));
      }
    }
  });
}

std::vector<bool> Router::chosen_groups(std::span<const float> scores) const {
  const auto groups = static_cast<std::size_t>(config_.num_groups);
  std::vector<bool> chosen(groups, config_.top_groups == config_.num_groups);
  if (config_.top_groups == config_.num_groups) return chosen;
  const std::int64_t a_group = num_experts() / config_.num_groups;
  std::vector<double> ranks;
  for (std::int64_t g = 0; g < config_.num_groups; ++g) {
    double best = -std::numeric_limits<double>::infinity(), second = best;
    for (std::int64_t e = g * a_group; e < (g + 1) * a_group; ++e) {
      const double value = rank(scores, e);
      second = std::max(second, std::min(best, value));
      best = std::max(best, value);
    }
    ranks.push_back(config_.group_score == GroupScore::kBest ? best : best + second);
  }
  for (const std::int32_t g : highest<double>(ranks, static_cast<std::size_t>(config_.top_groups))) {
    chosen[static_cast<std::size_t>(g)] = true;
  }
  return chosen;
}

void Router::choose(std::span<const float> scores, std::span<std::int32_t> experts) const {
  const std::vector<bool> groups = chosen_groups(scores);
  const std::int64_t a_group = num_experts() / config_.num_groups;
  std::vector<float> ranks(scores.size(), -std::numeric_limits<float>::infinity());
  std::int64_t candidates = 0;
  for (std::int64_t e = 0; e < num_experts(); ++e) {
    if (!groups[static_cast<std::size_t>(e / a_group)]) continue;
    ranks[static_cast<std::size_t>(e)] = rank(scores, e);
    ++candidates;
  }
  const auto count = static_cast<std::size_t>(std::min(candidates, std::ssize(experts)));
  const std::vector<std::int32_t> best = highest<float>(ranks, count);
  std::copy(best.begin(), best.end(), experts.begin());
  std::fill(experts.begin() + static_cast<std::ptrdiff_t>(count), experts.end(), -1);
}

void Router::weigh(std::span<const float> scores, std::span<const std::int32_t> experts,
                   std::span<float> gates) const {
  double total = 0.0;
  for (const std::int32_t e : experts) total += double{scores[static_cast<std::size_t>(e)]};
  // What transformers adds to the sum of sigmoids, which may be nothing.
  const double divisor = config_.renormalised ? std::max(total, 1e-20) : 1.0;
  for (std::size_t i = 0; i < experts.size(); ++i) {
    const double score = scores[static_cast<std::size_t>(experts[i])];
    gates[i] = static_cast<float>(score / divisor * double{config_.scale});
  }
}

double Router::rescaled_without(float score) const {
  if (config_.renormalised || config_.score != RouterScore::kSoftmax) return 1.0;
  return 1.0 / std::max(1.0 - double{score}, 1e-6);
}

Routing Router::route(ConstMatrixView scores) const {
  const auto k = static_cast<std::size_t>(config_.top_k);
  Routing routing{config_.top_k, {}, {}};
  routing.experts.resize(static_cast<std::size_t>(scores.rows) * k);
  routing.gates.resize(routing.experts.size());
  parallel_for(scores.rows, kTokensATask, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      const auto begin = static_cast<std::size_t>(t) * k;
      const std::span<std::int32_t> experts = std::span(routing.experts).subspan(begin, k);
      choose(scores.row_span(t), experts);
      weigh(scores.row_span(t), experts, std::span(routing.gates).subspan(begin, k));
    }
  });
  return routing;
}

}  // namespace swiftprune
