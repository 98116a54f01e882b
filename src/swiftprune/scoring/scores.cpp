#include "swiftprune/scoring/scores.h"

#include <cmath>
#include <cstring>

namespace swiftprune {
namespace {

float load(WeightView values, std::int64_t o, std::int64_t j) {
  const std::byte* p = values.row(o) + j * size_of(values.dtype);
  if (values.dtype == DType::kF32) {
    float value = 0.0f;
    std::memcpy(&value, p, sizeof(value));
    return value;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, p, sizeof(bits));
  return values.dtype == DType::kF16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

}  // namespace

float score_key(const ScoreView& scores, std::int64_t o, std::int64_t j) {
  const auto row = static_cast<std::size_t>(o);
  const auto column = static_cast<std::size_t>(j);
  float factor = scores.column.empty() ? 1.0f : scores.column[column];
  if (!scores.slope.empty()) factor = std::fma(scores.row[row], scores.slope[column], factor);
  return std::abs(load(scores.values, o, j) * factor);
}

}  // namespace swiftprune
