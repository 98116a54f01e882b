// The size by which tokens are weighed.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

namespace swiftprune {

// squares: Σ x² of the token's `size` numbers.
inline double root_mean_square(double squares, std::int64_t size) {
  constexpr double kTiny = 1e-12;  // keeps tokens that are zero finite
  return std::sqrt(squares / static_cast<double>(size) + kTiny);
}

inline double root_mean_square(std::span<const float> token) {
  double sum = 0.0;
  for (const float value : token) sum += double{value} * double{value};
  return root_mean_square(sum, std::ssize(token));
}

}  // namespace swiftprune
