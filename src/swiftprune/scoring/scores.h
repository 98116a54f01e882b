// The scores of one linear's weights in the form that selection fuses with its pass over the weights:
//   key(o, j) = |values(o, j)| · (column[j] + row[o]·slope[j])   in float, the bracket with one rounding
//   (fma) score     = key^power                                        (power 1 or 2)
// The lowest scores are pruned, and key orders like score, so selection reads keys only: w² would underflow.
#pragma once

#include <span>
#include <vector>

#include "swiftprune/tensor/matrix.h"
#include "swiftprune/tensor/weight_view.h"

namespace swiftprune {

// What selection reads. An empty `column` counts as ones; `row` and `slope` are both given or both empty.
struct ScoreView {
  WeightView values{};              // [O, I]
  std::span<const float> column{};  // [I], >= 0
  std::span<const float> row{};     // [O], >= 0
  std::span<const float> slope{};   // [I], >= 0
  int power = 1;

  ScoreView row_block(std::int64_t first, std::int64_t count) const {
    return {values.row_block(first, count), column,
            row.empty() ? row : row.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
            slope, power};
  }
};

// What a Scorer gives. Scores that are no function of |w| and such factors fill `plain`, which then stands in
// for the weights.
struct Scores {
  int power = 1;
  std::vector<float> column{};
  std::vector<float> row{};
  std::vector<float> slope{};
  Matrix plain{};  // [O, I] or empty

  ScoreView view(WeightView weight) const {
    return {plain.empty() ? weight : weight_view(plain.view()), column, row, slope, power};
  }
};

// values [O, I] without factors: key = |value|
inline ScoreView plain_scores(ConstMatrixView values, int power = 1) {
  return {weight_view(values), {}, {}, {}, power};
}

// One key, from the definition above; what every kernel must give to the bit.
float score_key(const ScoreView& scores, std::int64_t o, std::int64_t j);

}  // namespace swiftprune
