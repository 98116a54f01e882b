#include "swiftprune/selection/channel_order.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

using Order = std::vector<std::int64_t>;

// Groups that exchange inputs with each other at a time: bounds the cost of a large layer, I·kExchanged·O a step.
constexpr std::int64_t kExchanged = 64;
constexpr int kRounds = 6;  // at most; each offers every input a change of its group

Matrix transposed(ConstMatrixView m) {
  Matrix t(m.cols, m.rows);
  parallel_for(m.cols, 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = 0; r < m.rows; ++r) {
      for (std::int64_t c = first; c < last; ++c) t.at(c, r) = m.at(r, c);
    }
  });
  return t;
}

// Σ_r max(0, a_r - b_r). Sixteen sums side by side, so that compilers make vectors of them.
double sum_above(const float* a, const float* b, std::int64_t n) {
  constexpr std::int64_t kLanes = 16;
  float sums[kLanes] = {};
  std::int64_t r = 0;
  for (; r + kLanes <= n; r += kLanes) {
    for (std::int64_t l = 0; l < kLanes; ++l) sums[l] += std::max(0.0f, a[r + l] - b[r + l]);
  }
  double total = 0.0;
  for (; r < n; ++r) total += std::max(0.0f, a[r] - b[r]);
  for (const float sum : sums) total += sum;
  return total;
}

// The n-th highest score of each row among `inputs`: what another input must exceed to be kept beside them. highest
// [n, O]: room for the n highest of each row, of which the last row is the answer.
void thresholds(const Matrix& by_input, std::span<const std::int64_t> inputs, Matrix& highest) {
  std::fill(highest.values().begin(), highest.values().end(), 0.0f);  // scores are positive
  std::vector<float> rest(static_cast<std::size_t>(highest.cols()));
  for (const std::int64_t input : inputs) {
    std::copy_n(by_input.row(input), rest.size(), rest.begin());
    for (std::int64_t k = 0; k < highest.rows(); ++k) {
      float* high = highest.row(k);
      for (std::size_t r = 0; r < rest.size(); ++r) {
        const float larger = std::max(high[r], rest[r]);
        rest[r] = std::min(high[r], rest[r]);
        high[r] = larger;
      }
    }
  }
}

// Each of these groups gives away the input in its slot and takes one of those that were given, so that most is kept.
void exchange(const Matrix& by_input, const Pattern& pattern, std::span<const std::int64_t> groups,
              std::int64_t slot, Order& order) {
  const auto place = [&](std::int64_t group, std::int64_t at) -> std::int64_t& {
    return order[static_cast<std::size_t>(groups[static_cast<std::size_t>(group)] * pattern.m + at)];
  };
  const auto k = std::ssize(groups);
  const std::int64_t rows = by_input.cols();
  Order offered;
  for (std::int64_t g = 0; g < k; ++g) offered.push_back(place(g, slot));
  Matrix gains(k, k), highest(pattern.n, rows);
  for (std::int64_t g = 0; g < k; ++g) {
    Order others;
    for (std::int64_t i = 0; i < pattern.m; ++i) {
      if (i != slot) others.push_back(place(g, i));
    }
    thresholds(by_input, others, highest);
    const float* limits = highest.row(pattern.n - 1);
    for (std::int64_t j = 0; j < k; ++j) {
      const float* scores = by_input.row(offered[static_cast<std::size_t>(j)]);
      gains.at(g, j) = static_cast<float>(sum_above(scores, limits, rows));
    }
  }
  const Order taken = best_assignment(gains.view());
  double before = 0.0, after = 0.0;
  for (std::int64_t g = 0; g < k; ++g) {
    before += gains.at(g, g);
    after += gains.at(g, taken[static_cast<std::size_t>(g)]);
  }
  if (!(after > before)) return;
  for (std::int64_t g = 0; g < k; ++g)
    place(g, slot) = offered[static_cast<std::size_t>(taken[static_cast<std::size_t>(g)])];
}

// Inputs by falling sum of scores, dealt out to the groups in turn: none gets all the important ones.
Order dealt(const Matrix& by_input, std::int64_t m) {
  const std::int64_t inputs = by_input.rows(), groups = inputs / m;
  std::vector<double> sums(static_cast<std::size_t>(inputs));
  for (std::int64_t i = 0; i < inputs; ++i)
    sums[static_cast<std::size_t>(i)] =
        std::accumulate(by_input.row(i), by_input.row(i) + by_input.cols(), 0.0);
  Order ranked(static_cast<std::size_t>(inputs)), order(static_cast<std::size_t>(inputs));
  std::iota(ranked.begin(), ranked.end(), 0);
  std::stable_sort(ranked.begin(), ranked.end(), [&](std::int64_t a, std::int64_t b) {
    return sums[static_cast<std::size_t>(a)] > sums[static_cast<std::size_t>(b)];
  });
  for (std::int64_t i = 0; i < inputs; ++i) {
    const std::int64_t turn = i / groups, at = i % groups;
    const std::int64_t group = turn % 2 == 0 ? at : groups - 1 - at;
    order[static_cast<std::size_t>(group * m + turn)] = ranked[static_cast<std::size_t>(i)];
  }
  return order;
}

// Fisher and Yates, with numbers that every standard library gives alike.
void shuffle(std::mt19937_64& random, std::span<std::int64_t> values) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random() % i]);
}

void improve(const Matrix& by_input, const Pattern& pattern, std::mt19937_64& random, Order& order) {
  const std::int64_t groups = std::ssize(order) / pattern.m;
  Order mixed(static_cast<std::size_t>(groups));
  std::iota(mixed.begin(), mixed.end(), 0);
  shuffle(random, mixed);
  const auto m = static_cast<std::size_t>(pattern.m);
  for (std::size_t first = 0; first < order.size(); first += m)
    shuffle(random, std::span(order).subspan(first, m));
  for (std::int64_t slot = 0; slot < pattern.m; ++slot) {
    parallel_for(groups, kExchanged, [&](std::int64_t first, std::int64_t last) {
      const auto some =
          std::span(mixed).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
      exchange(by_input, pattern, some, slot, order);
    });
  }
}

}  // namespace

double kept_score(ConstMatrixView scores, std::span<const std::int64_t> order, const Pattern& pattern) {
  expect(pattern.kind == Pattern::Kind::kNofM && std::ssize(order) == scores.cols &&
             scores.cols % pattern.m == 0,
         "kept_score: groups of M inputs");
  std::vector<double> of_rows(static_cast<std::size_t>(scores.rows));
  parallel_for(scores.rows, 16, [&](std::int64_t first, std::int64_t last) {
    std::vector<float> group(static_cast<std::size_t>(pattern.m));
    for (std::int64_t r = first; r < last; ++r) {
      double kept = 0.0;
      for (std::size_t p = 0; p < order.size(); p += group.size()) {
        for (std::size_t i = 0; i < group.size(); ++i) group[i] = scores.at(r, order[p + i]);
        std::nth_element(group.begin(), group.begin() + (pattern.n - 1), group.end(), std::greater<>());
        kept = std::accumulate(group.begin(), group.begin() + pattern.n, kept);
      }
      of_rows[static_cast<std::size_t>(r)] = kept;
    }
  });
  return std::accumulate(of_rows.begin(), of_rows.end(), 0.0);
}

std::vector<std::int64_t> grouped_order(ConstMatrixView scores, const Pattern& pattern) {
  Order given(static_cast<std::size_t>(scores.cols));
  std::iota(given.begin(), given.end(), 0);
  const double kept_as_given = kept_score(scores, given, pattern);
  if (scores.cols == pattern.m) return given;
  const Matrix by_input = transposed(scores);
  Order order = dealt(by_input, pattern.m);
  std::mt19937_64 random(1);
  double kept = kept_score(scores, order, pattern);
  for (int round = 0; round < kRounds; ++round) {
    constexpr double kWorthwhile = 1e-4;  // of what is kept
    improve(by_input, pattern, random, order);
    const double before = std::exchange(kept, kept_score(scores, order, pattern));
    if (kept - before <= kWorthwhile * before) break;
  }
  return kept > kept_as_given ? order : given;
}

// Shortest augmenting paths with potentials (Jonker and Volgenant 1987), of the negated gains. Row and column 0 are the
// start of each path.
std::vector<std::int64_t> best_assignment(ConstMatrixView gains) {
  expect(gains.rows == gains.cols, "best_assignment: a square");
  const auto n = static_cast<std::size_t>(gains.rows);
  constexpr double kFar = std::numeric_limits<double>::infinity();
  std::vector<double> of_row(n + 1), of_column(n + 1);
  std::vector<std::size_t> row_at(n + 1), from(n + 1);
  for (std::size_t row = 1; row <= n; ++row) {
    row_at[0] = row;
    std::size_t column = 0;
    std::vector<double> distance(n + 1, kFar);
    std::vector<char> reached(n + 1);
    do {
      reached[column] = 1;
      const std::size_t r = row_at[column];
      std::size_t next = 0;
      double step = kFar;
      for (std::size_t c = 1; c <= n; ++c) {
        if (reached[c]) continue;
        const double gain = gains.at(static_cast<std::int64_t>(r - 1), static_cast<std::int64_t>(c - 1));
        const double reduced = -gain - of_row[r] - of_column[c];
        if (reduced < distance[c]) {
          distance[c] = reduced;
          from[c] = column;
        }
        if (distance[c] < step) {
          step = distance[c];
          next = c;
        }
      }
      for (std::size_t c = 0; c <= n; ++c) {
        if (reached[c]) {
          of_row[row_at[c]] += step;
          of_column[c] -= step;
        } else {
          distance[c] -= step;
        }
      }
      column = next;
    } while (row_at[column] != 0);
    for (; column != 0; column = from[column]) row_at[column] = row_at[from[column]];
  }
  std::vector<std::int64_t> result(n);
  for (std::size_t c = 1; c <= n; ++c) result[row_at[c] - 1] = static_cast<std::int64_t>(c - 1);
  return result;
}

}  // namespace swiftprune
