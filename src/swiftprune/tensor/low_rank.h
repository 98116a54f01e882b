// A low-rank part that stands beside a weight: L [O, I] = left·right.
#pragma once

#include <cstdint>

#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

struct LowRank {
  Matrix left;   // [O, R]
  Matrix right;  // [R, I]
  std::int64_t rank() const { return right.rows(); }
  std::int64_t numel() const { return left.numel() + right.numel(); }
};

}  // namespace swiftprune
