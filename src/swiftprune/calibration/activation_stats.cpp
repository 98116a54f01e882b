#include "swiftprune/calibration/activation_stats.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {

namespace {

constexpr std::int64_t kColumnChunk = 128;  // columns whose sums one task holds

// [T, K]: (a_t - b_t)·√weights_t; no b: a_t·√weights_t.
Matrix weighted_difference(ConstMatrixView a, const ConstMatrixView* b, std::span<const float> roots) {
  Matrix result(a.rows, a.cols);
  parallel_for(a.rows, 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      const float root = roots.empty() ? 1.0f : roots[static_cast<std::size_t>(t)];
      const float* from = a.row(t);
      const float* less = b != nullptr ? b->row(t) : nullptr;
      float* to = result.row(t);
      for (std::int64_t k = 0; k < a.cols; ++k)
        to[k] = root * (less != nullptr ? from[k] - less[k] : from[k]);
    }
  });
  return result;
}

// x, or its weighted copy in `storage`.
ConstMatrixView weighted(ConstMatrixView x, std::span<const float> roots, Matrix& storage) {
  if (roots.empty()) return x;
  storage = weighted_difference(x, nullptr, roots);
  return std::as_const(storage).view();
}

}  // namespace

double ewma_window_weight(std::int64_t window) {
  return std::max(1.0 / 8.0, 1.0 / static_cast<double>(window + 1));
}

ActivationStats::ActivationStats(std::int64_t num_inputs, const StatNeeds& needs, std::int64_t residual_size,
                                 ComputeType compute)
    : needs_(needs), compute_(compute), energy_(static_cast<std::size_t>(num_inputs), 0.0) {
  if (needs.ewma_energy) ewma_energy_.assign(energy_.size(), 0.0);
  if (needs.sum) sum_.assign(energy_.size(), 0.0);
  if (needs.gram) gram_ = Matrix::zeros(num_inputs, num_inputs);
  if (needs.alignment) cross_ = Matrix::zeros(num_inputs, num_inputs);
  if (needs.alignment && residual_size > 0) residual_ = Matrix::zeros(residual_size, num_inputs);
}

void ActivationStats::add_window(const Backend& backend, const AlignedWindow& window) {
  expect(window.dense_x.rows == window.x.rows && window.dense_x.cols == window.x.cols,
         "add_window: the dense inputs of the same tokens");
  if (window.x.rows == 0) return add_window(backend, window.x);
  std::vector<float> roots(window.weights.begin(), window.weights.end());
  for (float& root : roots) root = std::sqrt(root);
  Matrix storage, dense_storage;
  const ConstMatrixView x = weighted(window.x, roots, storage);
  add_window(backend, x);
  if (!cross_.empty()) {
    backend.add_cross(weighted(window.dense_x, roots, dense_storage), x, cross_.view(), compute_);
  }
  if (!residual_.empty()) {
    const Matrix error = weighted_difference(window.dense_residual, &window.residual, roots);
    backend.add_cross(error.view(), x, residual_.view(), compute_);
  }
}

void ActivationStats::add_window(const Backend& backend, ConstMatrixView x, ConstMatrixView for_gram) {
  if (for_gram.data == nullptr) for_gram = x;
  std::vector<double> window_energy(energy_.size(), 0.0);
  if (x.rows > 0) backend.add_energy(x, window_energy);
  for (std::size_t i = 0; i < energy_.size(); ++i) energy_[i] += window_energy[i];
  if (needs_.ewma_energy) {
    const double weight = ewma_window_weight(num_windows_);
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
  if (needs_.gram && x.rows > 0) backend.add_gram(for_gram, gram_.view(), compute_);
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
  LayerStats stats;
  stats.num_tokens = num_tokens_;
  stats.energy = energy_;
  stats.ewma_energy = ewma_energy_;
  stats.sum = sum_;
  stats.gram = known(gram_);
  stats.sample = known(sample_);
  stats.compute = compute_;
  stats.cross = known(cross_);
  stats.residual = known(residual_);
  return stats;
}

}  // namespace swiftprune
