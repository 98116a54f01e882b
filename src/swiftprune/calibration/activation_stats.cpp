#include "swiftprune/calibration/activation_stats.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "swiftprune/backend/rounded_gram.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {

namespace {

constexpr std::int64_t kSampledTokens = 1024;
constexpr std::int64_t kColumnChunk = 128;  // columns whose sums one task holds

// x [T, K] -> [K, T], token t multiplied by √weights_t.
Matrix weighted_transpose(ConstMatrixView x, std::span<const float> roots) {
  Matrix result(x.cols, x.rows);
  parallel_for(x.cols, 16, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = 0; t < x.rows; ++t) {
      const float root = roots.empty() ? 1.0f : roots[static_cast<std::size_t>(t)];
      for (std::int64_t k = first; k < last; ++k) result.at(k, t) = root * x.at(t, k);
    }
  });
  return result;
}

Matrix difference(ConstMatrixView a, ConstMatrixView b) {
  Matrix result(a.rows, a.cols);
  for (std::int64_t t = 0; t < a.rows; ++t) {
    for (std::int64_t k = 0; k < a.cols; ++k) result.at(t, k) = a.at(t, k) - b.at(t, k);
  }
  return result;
}

}  // namespace

ActivationStats::ActivationStats(std::int64_t num_inputs, const StatNeeds& needs, std::int64_t residual_size,
                                 ComputeType gram_of)
    : needs_(needs), gram_of_(gram_of), energy_(static_cast<std::size_t>(num_inputs), 0.0) {
  if (needs.ewma_energy) ewma_energy_.assign(energy_.size(), 0.0);
  if (needs.sum) sum_.assign(energy_.size(), 0.0);
  if (needs.gram) gram_ = Matrix::zeros(num_inputs, num_inputs);
  if (needs.alignment) cross_ = Matrix::zeros(num_inputs, num_inputs);
  if (needs.alignment && residual_size > 0) residual_ = Matrix::zeros(residual_size, num_inputs);
}

void ActivationStats::add_window(const Backend& backend, const AlignedWindow& window) {
  expect(window.dense_x.rows == window.x.rows && window.dense_x.cols == window.x.cols,
         "add_window: the dense inputs of the same tokens");
  std::vector<float> roots(window.weights.begin(), window.weights.end());
  for (float& root : roots) root = std::sqrt(root);
  Matrix weighted;
  ConstMatrixView x = window.x;
  if (!roots.empty()) {
    weighted = Matrix(x.rows, x.cols);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t k = 0; k < x.cols; ++k) {
        weighted.at(t, k) = roots[static_cast<std::size_t>(t)] * x.at(t, k);
      }
    }
    x = std::as_const(weighted).view();
  }
  add_window(backend, x);
  if (!cross_.empty()) {
    const Matrix dense = weighted_transpose(window.dense_x, roots);
    backend.matmul(dense.view(), x, 1.0f, 1.0f, cross_.view());
  }
  if (!residual_.empty()) {
    const Matrix error = weighted_transpose(difference(window.dense_residual, window.residual).view(), roots);
    backend.matmul(error.view(), x, 1.0f, 1.0f, residual_.view());
  }
}

void ActivationStats::add_window(const Backend& backend, ConstMatrixView x, ConstMatrixView for_gram) {
  if (for_gram.data == nullptr) for_gram = x;
  std::vector<double> window_energy(energy_.size(), 0.0);
  backend.add_energy(x, window_energy);
  for (std::size_t i = 0; i < energy_.size(); ++i) energy_[i] += window_energy[i];
  if (needs_.ewma_energy) {
    // The mean of the first eight windows, then a memory of about eight.
    const double weight = std::max(1.0 / 8.0, 1.0 / static_cast<double>(num_windows_ + 1));
    for (std::size_t i = 0; i < energy_.size(); ++i)
      ewma_energy_[i] += weight * (window_energy[i] - ewma_energy_[i]);
  }
  if (needs_.sum) {
    parallel_for(x.cols, kColumnChunk, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t n = 0; n < x.rows; ++n) {
        for (std::int64_t i = first; i < last; ++i) sum_[static_cast<std::size_t>(i)] += double{x.at(n, i)};
      }
    });
  }
  if (needs_.gram && gram_of_ == ComputeType::kBF16) {
    add_rounded_gram(backend, for_gram, gram_.view());
  } else if (needs_.gram) {
    backend.add_gram(for_gram, gram_.view());
  }
  if (needs_.sample && num_windows_ == 0) sample_ = copy_of(x.row_block(0, std::min(x.rows, kSampledTokens)));
  num_tokens_ += x.rows;
  ++num_windows_;
}

void ActivationStats::finish(std::string_view input) {
  for (std::size_t i = 0; i < energy_.size(); ++i) {
    if (!std::isfinite(energy_[i])) {
      bad_input(
          "{}: input channel {} is not finite on the calibration text, expected finite activations; "
          "is a weight NaN or infinite? (swiftprune inspect shows it), or try --compute f32",
          input, i);
    }
  }
  if (needs_.gram) Backend::symmetrize(gram_.view());
}

LayerStats ActivationStats::view() const {
  const auto known = [](const Matrix& m) { return m.empty() ? nullptr : &m; };
  return {num_tokens_,  energy_,        ewma_energy_,  sum_,
          known(gram_), known(sample_), known(cross_), known(residual_)};
}

}  // namespace swiftprune
