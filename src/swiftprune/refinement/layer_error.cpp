#include "swiftprune/refinement/layer_error.h"

#include <algorithm>
#include <numeric>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {

std::vector<double> row_energies(ConstMatrixView weight, ConstMatrixView gram, const Backend& backend) {
  Matrix product(weight.rows, weight.cols);
  backend.matmul(weight, gram, 1.0f, 0.0f, product.view());
  std::vector<double> energies(static_cast<std::size_t>(weight.rows), 0.0);
  parallel_for(weight.rows, 32, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      double& energy = energies[static_cast<std::size_t>(r)];
      for (std::int64_t j = 0; j < weight.cols; ++j) {
        energy += double{weight.at(r, j)} * double{product.at(r, j)};
      }
    }
  });
  return energies;
}

std::vector<double> row_energies(ConstMatrixView weight, const LayerStats& stats, const Backend& backend) {
  if (stats.gram != nullptr) return row_energies(weight, stats.gram->view(), backend);
  std::vector<double> energies(static_cast<std::size_t>(weight.rows), 0.0);
  for (std::int64_t r = 0; r < weight.rows; ++r) {
    double& energy = energies[static_cast<std::size_t>(r)];
    for (std::int64_t j = 0; j < weight.cols; ++j) {
      energy += double{weight.at(r, j)} * double{weight.at(r, j)} * stats.energy[static_cast<std::size_t>(j)];
    }
  }
  return energies;
}

double layer_error(ConstMatrixView change, ConstMatrixView gram, const Backend& backend) {
  const std::vector<double> energies = row_energies(change, gram, backend);
  return std::accumulate(energies.begin(), energies.end(), 0.0);
}

std::optional<double> output_error(ConstMatrixView dense, ConstMatrixView pruned, const LayerStats& stats,
                                   const Backend& backend) {
  if (stats.num_tokens == 0) return std::nullopt;
  const std::int64_t step = output_error_step(dense.rows);
  const Matrix change = sampled_difference(dense, pruned, step);
  const Matrix whole = sampled_difference(dense, {}, step);
  const auto error = [&](const Matrix& w) {
    const std::vector<double> energies = row_energies(w.view(), stats, backend);
    return std::accumulate(energies.begin(), energies.end(), 0.0);
  };
  return relative_error(error(change), error(whole));
}

std::int64_t output_error_step(std::int64_t rows) {
  constexpr std::int64_t kSampledRows = 256;
  return std::max<std::int64_t>(1, rows / kSampledRows);
}

double relative_error(double change, double whole) {
  return whole > 0.0 ? std::max(0.0, change / whole) : 0.0;
}

Matrix sum_of(ConstMatrixView weight, const LowRank& low_rank, const Backend& backend) {
  Matrix sum = copy_of(weight);
  backend.matmul(low_rank.left.view(), low_rank.right.view(), 1.0f, 1.0f, sum.view());
  return sum;
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
