// How far hidden states moved.
#pragma once

#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

// Mean over the rows of |y - x|² / |x|².
inline double relative_change(ConstMatrixView x, ConstMatrixView y) {
  double mean = 0.0;
  for (std::int64_t r = 0; r < x.rows; ++r) {
    double change = 0.0, size = 0.0;
    for (std::int64_t c = 0; c < x.cols; ++c) {
      const double d = double{y.at(r, c)} - double{x.at(r, c)};
      change += d * d;
      size += double{x.at(r, c)} * double{x.at(r, c)};
    }
    if (size > 0.0) mean += change / size;
  }
  return mean / static_cast<double>(x.rows);
}

}  // namespace swiftprune
