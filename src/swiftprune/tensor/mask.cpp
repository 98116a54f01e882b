#include "swiftprune/tensor/mask.h"

#include <bit>

#include "swiftprune/core/checked_math.h"

namespace swiftprune {

Mask::Mask(std::int64_t rows, std::int64_t cols)
    : rows_(rows),
      cols_(cols),
      words_per_row_(ceil_div(cols, 64)),
      words_(static_cast<std::size_t>(rows * words_per_row_)) {}

std::int64_t Mask::num_kept(std::int64_t r) const {
  std::int64_t n = 0;
  for (std::int64_t w = 0; w < words_per_row_; ++w) n += std::popcount(row(r)[w]);
  return n;
}

std::int64_t Mask::num_kept() const {
  std::int64_t n = 0;
  for (std::uint64_t word : words_) n += std::popcount(word);
  return n;
}

}  // namespace swiftprune
