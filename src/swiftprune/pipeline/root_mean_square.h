// The size by which tokens are weighed.
#pragma once

#include <cmath>
#include <span>

namespace swiftprune {

inline double root_mean_square(std::span<const float> token) {
  constexpr double kTiny = 1e-12;  // keeps tokens that are zero finite
  double sum = 0.0;
  for (const float value : token) sum += double{value} * double{value};
  return std::sqrt(sum / static_cast<double>(token.size()) + kTiny);
}

}  // namespace swiftprune
