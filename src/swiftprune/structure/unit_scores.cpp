#include "swiftprune/structure/unit_scores.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "swiftprune/core/error.h"
#include "swiftprune/structure/refit.h"

namespace swiftprune {
namespace {

// [I] Σ_o f(w_oj)
template <class F>
std::vector<double> column_sums(ConstMatrixView weight, F f) {
  std::vector<double> sums(static_cast<std::size_t>(weight.cols), 0.0);
  for (std::int64_t o = 0; o < weight.rows; ++o) {
    for (std::int64_t j = 0; j < weight.cols; ++j) sums[static_cast<std::size_t>(j)] += f(weight.at(o, j));
  }
  return sums;
}

std::vector<double> squared_norms(ConstMatrixView weight) {
  return column_sums(weight, [](float w) { return double{w} * double{w}; });
}

std::vector<double> absolute_sums(ConstMatrixView weight) {
  return column_sums(weight, [](float w) { return std::abs(double{w}); });
}

std::vector<double> contribution(const UnitEvidence& evidence) {
  std::vector<double> scores = evidence.squared();
  for (std::size_t j = 0; j < scores.size(); ++j) scores[j] *= evidence.stats.ewma_energy[j];
  return scores;
}

std::vector<double> wanda_sp(const UnitEvidence& evidence) {
  std::vector<double> scores = evidence.absolute();
  for (std::size_t j = 0; j < scores.size(); ++j) scores[j] *= std::sqrt(evidence.stats.energy[j]);
  return scores;
}

std::vector<double> flap(const UnitEvidence& evidence) {
  std::vector<double> scores = evidence.squared();
  const LayerStats& stats = evidence.stats;
  const auto n = static_cast<double>(stats.num_tokens);
  for (std::size_t j = 0; j < scores.size(); ++j) {
    const double mean = stats.sum[j] / n;
    scores[j] *= std::max(0.0, stats.energy[j] / n - mean * mean);
  }
  return scores;
}

std::vector<double> magnitude(const UnitEvidence& evidence) { return evidence.squared(); }

// Optimal Brain Surgeon for whole columns, in rounds, each on what the last one left, since columns that can
// stand in for each other must not both go.
std::vector<double> obs(const UnitEvidence& evidence) {
  constexpr int kRounds = 4;
  constexpr double kDamping = 0.03;
  const auto num_columns = std::ssize(evidence.stats.energy);
  std::vector<std::int64_t> left(evidence.stats.energy.size());
  std::iota(left.begin(), left.end(), 0);
  std::vector<double> scores(left.size(), 0.0);
  for (int round = 1; round <= kRounds; ++round) {
    const std::vector<double> costs = evidence.refit_costs(left, kDamping);
    // Later rounds outrank earlier ones: what was removed stays removed.
    for (std::size_t k = 0; k < left.size(); ++k) scores[static_cast<std::size_t>(left[k])] = costs[k];
    if (evidence.num_kept == num_columns) break;
    const std::int64_t keep = num_columns - (num_columns - evidence.num_kept) * round / kRounds;
    const std::vector<std::int64_t> best = best_units(costs, 1, keep);
    std::vector<std::int64_t> next;
    std::size_t b = 0;
    for (std::size_t k = 0; k < left.size(); ++k) {
      if (b < best.size() && best[b] == static_cast<std::int64_t>(k)) {
        next.push_back(left[k]);
        ++b;
      } else {
        scores[static_cast<std::size_t>(left[k])] = -1.0;
      }
    }
    left = std::move(next);
  }
  return scores;
}

// |b_j|² / [(G/(n nᵀ) + δI)⁻¹]_jj in units of n.
std::vector<double> refit_costs_of(const ColumnFit& fit) {
  std::vector<double> costs = squared_norms(fit.scaled.view());
  for (std::size_t k = 0; k < costs.size(); ++k) {
    const auto i = static_cast<std::int64_t>(k);
    costs[k] /= double{fit.inverse.at(i, i)};
  }
  return costs;
}

constexpr std::array kUnitScorers = {
    UnitScorer{"contribution",
               {.energy = true, .ewma_energy = true},
               contribution,
               "energy of what the unit adds to the output, EWMA over the windows",
               "this project"},
    UnitScorer{"wanda-sp",
               {.energy = true},
               wanda_sp,
               "sum of |w| times the root of the input's energy",
               "An et al., AAAI 2024, after arXiv 2306.11695"},
    UnitScorer{"flap",
               {.energy = true, .sum = true},
               flap,
               "variance of the input times the column's squared norm (WIFV)",
               "arXiv 2312.11983"},
    UnitScorer{"obs",
               {.energy = true, .gram = true},
               obs,
               "rise of the output's error when the column goes and the others are refitted",
               "Hassibi and Stork 1993"},
    UnitScorer{"magnitude", {}, magnitude, "the column's squared norm", ""},
};

}  // namespace

std::span<const UnitScorer> unit_scorers() { return kUnitScorers; }

const UnitScorer& unit_scorer(std::string_view name) {
  std::vector<std::string_view> known;
  for (const UnitScorer& scorer : kUnitScorers) {
    if (scorer.name == name) return scorer;
    known.push_back(scorer.name);
  }
  bad_usage("--score: found '{}', expected one of {}", name, fmt::join(known, ", "));
}

std::vector<double> score_columns(const UnitScorer& scorer, ConstMatrixView weight, const LayerStats& stats,
                                  std::int64_t num_kept, const Backend& backend) {
  return scorer.score(
      {[&] { return squared_norms(weight); }, [&] { return absolute_sums(weight); }, stats, num_kept,
       [&](std::span<const std::int64_t> left, double damping) {
         return refit_costs_of(fit_columns(weight, stats, left, {.damping = damping}, backend, scorer.name));
       }});
}

std::vector<double> unit_sums(std::span<const double> column_scores, std::int64_t columns_a_unit) {
  std::vector<double> sums(column_scores.size() / static_cast<std::size_t>(columns_a_unit), 0.0);
  for (std::size_t j = 0; j < column_scores.size(); ++j) {
    sums[j / static_cast<std::size_t>(columns_a_unit)] += column_scores[j];
  }
  return sums;
}

std::vector<std::int64_t> best_units(std::span<const double> column_scores, std::int64_t columns_a_unit,
                                     std::int64_t count) {
  const auto num_units = static_cast<std::int64_t>(column_scores.size()) / columns_a_unit;
  expect(count >= 0 && count <= num_units && num_units * columns_a_unit == std::ssize(column_scores),
         "best_units: whole units");
  const std::vector<double> scores = unit_sums(column_scores, columns_a_unit);
  std::vector<std::int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
  order.resize(static_cast<std::size_t>(count));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace swiftprune
