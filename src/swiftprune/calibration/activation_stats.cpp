#include "swiftprune/calibration/activation_stats.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/error.h"

namespace swiftprune {

ActivationStats::ActivationStats(std::int64_t num_inputs, const StatNeeds& needs)
    : needs_(needs), energy_(static_cast<std::size_t>(num_inputs), 0.0) {
  if (needs.ewma_energy) ewma_energy_.assign(energy_.size(), 0.0);
  if (needs.sum) sum_.assign(energy_.size(), 0.0);
  if (needs.gram) gram_ = Matrix::zeros(num_inputs, num_inputs);
}

void ActivationStats::add_window(const Backend& backend, ConstMatrixView x) {
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
    for (std::int64_t n = 0; n < x.rows; ++n) {
      for (std::int64_t i = 0; i < x.cols; ++i) sum_[static_cast<std::size_t>(i)] += double{x.at(n, i)};
    }
  }
  if (needs_.gram) backend.add_gram(x, gram_.view());
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
  return {num_tokens_, energy_, ewma_energy_, sum_, gram_.empty() ? nullptr : &gram_};
}

}  // namespace swiftprune
