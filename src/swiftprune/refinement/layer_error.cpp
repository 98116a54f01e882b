#include "swiftprune/refinement/layer_error.h"

#include "swiftprune/core/checked_math.h"

namespace swiftprune {

double layer_error(ConstMatrixView change, ConstMatrixView gram, const Backend& backend) {
  Matrix product(change.rows, change.cols);
  backend.matmul(change, gram, 1.0f, 0.0f, product.view());
  double error = 0.0;
  for (std::int64_t r = 0; r < change.rows; ++r) {
    double row = 0.0;
    for (std::int64_t c = 0; c < change.cols; ++c) row += double{change.at(r, c)} * double{product.at(r, c)};
    error += row;
  }
  return error;
}

Matrix sampled_difference(ConstMatrixView a, ConstMatrixView b, std::int64_t step) {
  Matrix difference(ceil_div(a.rows, step), a.cols);
  for (std::int64_t r = 0; r < difference.rows(); ++r) {
    for (std::int64_t c = 0; c < a.cols; ++c) {
      difference.at(r, c) = a.at(r * step, c) - (b.data == nullptr ? 0.0f : b.at(r * step, c));
    }
  }
  return difference;
}

}  // namespace swiftprune
