// (|w|/Σ_i |w_ij| + |w|/Σ_j |w_ij|)·(e_j/N)^(a/2): relative importance and activations (Zhang et al.,
// Plug-and-Play, ICLR 2024); published with a = 0.5.
#include <algorithm>
#include <array>
#include <cmath>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/scoring/ria.h"
#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kRowsPerChunk = 64;

struct AbsSums {
  std::vector<double> column;  // [I] Σ_i |w_ij|
  std::vector<double> row;     // [O] Σ_j |w_ij|
};

// A row's sum runs in 16 interleaved lanes and a column's in chunks of rows: a fixed order that vectorises.
AbsSums abs_sums(WeightView weight) {
  constexpr std::int64_t kLanes = 16;
  const std::int64_t num_chunks = ceil_div(weight.rows, kRowsPerChunk);
  Matrix chunk_columns = Matrix::zeros(num_chunks, weight.cols);
  AbsSums sums{std::vector<double>(static_cast<std::size_t>(weight.cols)),
               std::vector<double>(static_cast<std::size_t>(weight.rows))};
  parallel_for(weight.rows, kRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    Matrix values = Matrix::zeros(1, round_up(weight.cols, kLanes));
    float* columns = chunk_columns.row(first / kRowsPerChunk);
    for (std::int64_t r = first; r < last; ++r) {
      convert_to_f32({weight.row(r), static_cast<std::size_t>(weight.cols * size_of(weight.dtype))},
                     weight.dtype, values.values().first(static_cast<std::size_t>(weight.cols)));
      std::array<float, kLanes> lanes{};
      for (std::int64_t j = 0; j < values.cols(); j += kLanes) {
        for (std::int64_t l = 0; l < kLanes; ++l) {
          lanes[static_cast<std::size_t>(l)] += std::abs(values.data()[j + l]);
        }
      }
      for (float lane : lanes) sums.row[static_cast<std::size_t>(r)] += double{lane};
      for (std::int64_t j = 0; j < weight.cols; ++j) columns[j] += std::abs(values.data()[j]);
    }
  });
  for (std::int64_t c = 0; c < num_chunks; ++c) {
    for (std::int64_t j = 0; j < weight.cols; ++j) {
      sums.column[static_cast<std::size_t>(j)] += double{chunk_columns.at(c, j)};
    }
  }
  return sums;
}

// All weights of a row or column without size are zero, so any factor serves.
double inverse_or_zero(double x) { return x > 0.0 ? 1.0 / x : 0.0; }

Scores ria(WeightView weight, const ScoreInput& input) {
  const AbsSums sums = abs_sums(weight);
  return ria_scores(input.parameter, sums.column, sums.row, input.stats);
}

}  // namespace

Scores ria_scores(double exponent, std::span<const double> column_sums, std::span<const double> row_sums,
                  const LayerStats& stats) {
  const auto n = static_cast<double>(std::max<std::int64_t>(1, stats.num_tokens));
  const auto num_inputs = static_cast<std::int64_t>(column_sums.size());
  const auto activation = [&](std::size_t j) { return std::pow(stats.energy[j] / n, exponent / 2.0); };
  Scores scores;
  scores.column = column_factors(
      num_inputs, [&](std::size_t j) { return activation(j) * inverse_or_zero(column_sums[j]); });
  scores.slope = column_factors(num_inputs, activation);
  scores.row = column_factors(static_cast<std::int64_t>(row_sums.size()),
                              [&](std::size_t i) { return inverse_or_zero(row_sums[i]); });
  return scores;
}

constinit const ScoreKind kRiaScore{.name = "ria",
                                    .summary = "(|w|/column sum + |w|/row sum)·(e_j/N)^(a/2)",
                                    .source = "Zhang et al., ICLR 2024",
                                    .needs = {.energy = true},
                                    .parameter = {.meaning = "exponent a (published: 0.5)",
                                                  .fallback = 0.7,
                                                  .range = {.min = 0.0, .max = 4.0}},
                                    .from_weights = ria};

}  // namespace swiftprune
