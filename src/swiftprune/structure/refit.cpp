#include "swiftprune/structure/refit.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kRowsAChunk = 64;

// n_j of all columns.
std::vector<double> norms_of(const Matrix& gram) {
  const double floor = kRefitEnergyFloor * damping_unit(gram.view());
  std::vector<double> norms(static_cast<std::size_t>(gram.rows()));
  for (std::int64_t j = 0; j < gram.rows(); ++j) {
    norms[static_cast<std::size_t>(j)] = std::sqrt(double{gram.at(j, j)} + floor) + 1e-8;
  }
  return norms;
}

// [|kept|] 1/n_k
std::vector<double> reciprocals(const std::vector<double>& norms, std::span<const std::int64_t> kept) {
  std::vector<double> result;
  for (const std::int64_t j : kept) result.push_back(1.0 / norms[static_cast<std::size_t>(j)]);
  return result;
}

// [I, |kept|] ((1 - α)G + αC)/n_k
Matrix moments_of(const LayerStats& stats, std::span<const std::int64_t> kept,
                  const std::vector<double>& norms, double alpha) {
  const Matrix& gram = *stats.gram;
  if (stats.cross == nullptr) alpha = 0.0;
  const std::vector<double> scale = reciprocals(norms, kept);
  Matrix moments(gram.rows(), std::ssize(kept));
  parallel_for(gram.rows(), kRowsAChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const float* own = gram.row(i);
      const float* cross = alpha > 0.0 ? stats.cross->row(i) : own;
      for (std::size_t k = 0; k < kept.size(); ++k) {
        const std::int64_t j = kept[k];
        const double moment = (1.0 - alpha) * double{own[j]} + alpha * double{cross[j]};
        moments.at(i, static_cast<std::int64_t>(k)) = static_cast<float>(moment * scale[k]);
      }
    }
  });
  return moments;
}

DampedInverse inverse_of(const Matrix& gram, std::span<const std::int64_t> kept,
                         const std::vector<double>& norms, double damping, const Backend& backend,
                         std::string_view tensor) {
  const std::int64_t n = std::ssize(kept);
  const std::vector<double> scale = reciprocals(norms, kept);
  Matrix a(n, n);
  parallel_for(n, kRowsAChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t p = first; p < last; ++p) {
      const float* row = gram.row(kept[static_cast<std::size_t>(p)]);
      for (std::int64_t q = 0; q < n; ++q) {
        const auto k = static_cast<std::size_t>(q);
        a.at(p, q) = static_cast<float>(double{row[kept[k]]} * scale[static_cast<std::size_t>(p)] * scale[k]);
      }
    }
  });
  return damped_inverse(a.view(), {.relative = damping, .unit = 1.0, .shift = 0.0}, backend, tensor);
}

}  // namespace

ColumnFit fit_columns(ConstMatrixView weight, const LayerStats& stats, std::span<const std::int64_t> kept,
                      const RefitOptions& options, const Backend& backend, std::string_view tensor) {
  expect(stats.gram != nullptr && stats.gram->rows() == weight.cols, "fit_columns: a Gram matrix [I, I]");
  const std::vector<double> norms = norms_of(*stats.gram);
  DampedInverse inverse = inverse_of(*stats.gram, kept, norms, options.damping, backend, tensor);
  const Matrix* residual = options.beta > 0.0 ? stats.residual : nullptr;
  const std::int64_t n = std::ssize(kept);
  ColumnFit fit;
  for (const std::int64_t j : kept) fit.norms.push_back(norms[static_cast<std::size_t>(j)]);
  Matrix right(weight.rows, n);  // βR/n + δW'
  for (std::int64_t o = 0; o < weight.rows; ++o) {
    for (std::int64_t k = 0; k < n; ++k) {
      const std::int64_t j = kept[static_cast<std::size_t>(k)];
      const double norm = fit.norms[static_cast<std::size_t>(k)];
      const double moved = residual != nullptr ? options.beta * double{residual->at(o, j)} / norm : 0.0;
      right.at(o, k) = static_cast<float>(inverse.damping * double{weight.at(o, j)} * norm + moved);
    }
  }
  backend.matmul(weight, moments_of(stats, kept, norms, options.alpha).view(), 1.0f, 1.0f, right.view());
  fit.scaled = Matrix(weight.rows, n);
  backend.matmul(right.view(), inverse.inverse.view(), 1.0f, 0.0f, fit.scaled.view());
  fit.inverse = std::move(inverse.inverse);
  return fit;
}

Matrix refit_columns(ConstMatrixView weight, const LayerStats& stats, std::span<const std::int64_t> kept,
                     const RefitOptions& options, const Backend& backend, std::string_view tensor) {
  ColumnFit fit = fit_columns(weight, stats, kept, options, backend, tensor);
  for (std::int64_t o = 0; o < weight.rows; ++o) {
    for (std::size_t k = 0; k < kept.size(); ++k) {
      float& value = fit.scaled.at(o, static_cast<std::int64_t>(k));
      value = static_cast<float>(double{value} / fit.norms[k]);
    }
  }
  return std::move(fit.scaled);
}

std::vector<float> mean_error(ConstMatrixView weight, ConstMatrixView shrunk, const LayerStats& stats) {
  const auto tokens = static_cast<double>(std::max<std::int64_t>(1, stats.num_tokens));
  std::vector<float> result(static_cast<std::size_t>(weight.rows));
  for (std::int64_t o = 0; o < weight.rows; ++o) {
    double sum = 0.0;
    for (std::int64_t j = 0; j < weight.cols; ++j) {
      sum += (double{weight.at(o, j)} - double{shrunk.at(o, j)}) * stats.sum[static_cast<std::size_t>(j)];
    }
    result[static_cast<std::size_t>(o)] = static_cast<float>(sum / tokens);
  }
  return result;
}

namespace {

bool all_below(std::span<const std::int64_t> indices, std::int64_t end) {
  return std::all_of(indices.begin(), indices.end(), [&](std::int64_t i) { return i >= 0 && i < end; });
}

}  // namespace

Matrix take_columns(ConstMatrixView m, std::span<const std::int64_t> columns) {
  expect(all_below(columns, m.cols), "take_columns: columns of the matrix");
  Matrix result(m.rows, std::ssize(columns));
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t c = 0; c < std::ssize(columns); ++c) {
      result.at(r, c) = m.at(r, columns[static_cast<std::size_t>(c)]);
    }
  }
  return result;
}

Matrix take_rows(ConstMatrixView m, std::span<const std::int64_t> rows) {
  expect(all_below(rows, m.rows), "take_rows: rows of the matrix");
  Matrix result(std::ssize(rows), m.cols);
  for (std::int64_t r = 0; r < std::ssize(rows); ++r) {
    std::copy_n(m.row(rows[static_cast<std::size_t>(r)]), m.cols, result.row(r));
  }
  return result;
}

}  // namespace swiftprune
