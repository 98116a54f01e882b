#include "swiftprune/refinement/cholesky.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kCholeskyBlock = 128;

// The block on the diagonal, in double. Its upper triangle becomes zero.
bool factor_block(MatrixView a) {
  for (std::int64_t j = 0; j < a.rows; ++j) {
    for (std::int64_t i = j; i < a.rows; ++i) {
      double sum = double{a.at(i, j)};
      for (std::int64_t k = 0; k < j; ++k) sum -= double{a.at(i, k)} * double{a.at(j, k)};
      if (i == j) {
        if (!(sum > 0.0) || !std::isfinite(sum)) return false;
        a.at(j, j) = static_cast<float>(std::sqrt(sum));
      } else {
        a.at(i, j) = static_cast<float>(sum / double{a.at(j, j)});
      }
    }
    for (std::int64_t i = 0; i < j; ++i) a.at(i, j) = 0.0f;
  }
  return true;
}

}  // namespace

bool cholesky(MatrixView a, const Backend& backend) {
  for (std::int64_t first = 0; first < a.rows; first += kCholeskyBlock) {
    const std::int64_t size = std::min(kCholeskyBlock, a.rows - first);
    const std::int64_t below = a.rows - first - size;
    // What the columns to the left take away.
    const MatrixView panel = a.row_block(first, size + below).col_block(first, size);
    const MatrixView left = a.row_block(first, size + below).col_block(0, first);
    if (first > 0) backend.matmul_transposed(left, left.row_block(0, size), -1.0f, 1.0f, panel);
    const MatrixView diagonal = panel.row_block(0, size);
    if (!factor_block(diagonal)) return false;
    parallel_for(below, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        float* row = panel.row(size + r);
        for (std::int64_t j = 0; j < size; ++j) {
          double sum = double{row[j]};
          for (std::int64_t k = 0; k < j; ++k) sum -= double{row[k]} * double{diagonal.at(j, k)};
          row[j] = static_cast<float>(sum / double{diagonal.at(j, j)});
        }
      }
    });
    for (std::int64_t r = 0; r < first; ++r) std::fill_n(a.row(r) + first, size, 0.0f);
  }
  return true;
}

}  // namespace swiftprune
