#include "swiftprune/calibration/stopping.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/model/forward.h"

namespace swiftprune {
namespace {

constexpr double kEwmaWeight = 0.25;

// How the energies of one input move.
class EnergySeries {
 public:
  // sums [I] behind the next segment; ½ Σ|p_t - p_(t-1)|, 0 for the first.
  double add(std::span<const double> sums) {
    const std::vector<double> before = std::exchange(sums_, std::vector<double>(sums.begin(), sums.end()));
    const double old_total = std::accumulate(before.begin(), before.end(), 0.0);
    const double total = std::accumulate(sums_.begin(), sums_.end(), 0.0);
    if (before.empty() || !(old_total > 0.0) || !(total > 0.0)) return 0.0;
    double change = 0.0;
    for (std::size_t j = 0; j < sums_.size(); ++j)
      change += std::abs(sums_[j] / total - before[j] / old_total);
    return 0.5 * change;
  }

 private:
  std::vector<double> sums_;  // [I]
};

class CpuInputEnergies final : public InputEnergies {
 public:
  CpuInputEnergies(const Model& model, const Backend& backend, const TokenWindows& windows,
                   ComputeType compute)
      : model_(model),
        backend_(backend),
        windows_(windows),
        compute_(compute),
        ropes_(model.rope_tables(windows.seqlen)),
        sums_(static_cast<std::size_t>(model.config().num_layers() * kNumLinearInputs)) {}

  void follow(std::int64_t first, std::int64_t count, const Consume& consume) override {
    Matrix hidden = model_.embed_windows(windows_, first, count);
    for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
      check_interrupt();
      DecoderBlock block = model_.load_block(layer);
      block.pack(backend_, compute_);
      for (std::int64_t window = 0; window < count; ++window) {
        const InputObserver observer = [&](LinearInput input, ConstMatrixView x) {
          std::vector<double>& sums =
              sums_[static_cast<std::size_t>(layer * kNumLinearInputs + static_cast<int>(input))];
          sums.resize(static_cast<std::size_t>(x.cols), 0.0);
          for (std::int64_t row = 0; row < x.rows; row += kStoppingSegment) {
            backend_.add_energy(x.row_block(row, std::min(kStoppingSegment, x.rows - row)), sums);
            consume(layer, input, window, row / kStoppingSegment, sums);
          }
        };
        BlockForwardOptions options;
        options.sequence_length = windows_.seqlen;
        options.observer = &observer;
        block.forward(backend_, ropes_, hidden.view().row_block(window * windows_.seqlen, windows_.seqlen),
                      options);
      }
      model_.release_block(layer);
    }
  }

 private:
  const Model& model_;
  const Backend& backend_;
  const TokenWindows& windows_;
  ComputeType compute_;
  std::vector<RopeTable> ropes_;
  std::vector<std::vector<double>> sums_;  // of each input of each layer
};

// Means over all inputs of all blocks.
class Follower {
 public:
  Follower(InputEnergies& energies, std::int64_t num_layers, std::int64_t seqlen)
      : energies_(energies),
        segments_((seqlen + kStoppingSegment - 1) / kStoppingSegment),
        series_(static_cast<std::size_t>(num_layers * kNumLinearInputs)) {}

  // The changes of each segment of the windows [first, first + count).
  std::vector<double> follow(std::int64_t first, std::int64_t count) {
    std::vector<double> changes(static_cast<std::size_t>(count * segments_), 0.0);
    energies_.follow(
        first, count,
        [&](std::int64_t layer, LinearInput input, std::int64_t window, std::int64_t segment,
            std::span<const double> sums) {
          EnergySeries& series =
              series_[static_cast<std::size_t>(layer * kNumLinearInputs + static_cast<int>(input))];
          changes[static_cast<std::size_t>(window * segments_ + segment)] +=
              series.add(sums) / static_cast<double>(series_.size());
        });
    return changes;
  }
  std::int64_t segments_per_window() const { return segments_; }

 private:
  InputEnergies& energies_;
  std::int64_t segments_;
  std::vector<EnergySeries> series_;
};

}  // namespace

std::unique_ptr<InputEnergies> make_cpu_input_energies(const Model& model, const Backend& backend,
                                                       const TokenWindows& windows, ComputeType compute) {
  return std::make_unique<CpuInputEnergies>(model, backend, windows, compute);
}

StableWindows windows_until_stable(const Model& model, InputEnergies& energies, const TokenWindows& windows,
                                   double tolerance, const ProgressFn& progress) {
  expect(windows.num_windows() > 0, "windows_until_stable: calibration windows");
  Follower follower(energies, model.config().num_layers(), windows.seqlen);
  StableWindows result;
  double ewma = 0.0;
  std::int64_t seen = 0;  // segments
  for (std::int64_t first = 0; first < windows.num_windows();) {
    const std::int64_t count = std::min(std::max<std::int64_t>(1, first), windows.num_windows() - first);
    for (const double change : follower.follow(first, count)) {
      ++seen;
      if (seen == 2) ewma = change;
      if (seen > 2) ewma += kEwmaWeight * (change - ewma);
      if (seen % follower.segments_per_window() != 0 || result.stable) continue;
      result.changes.push_back(ewma);
      result.stable = seen > 1 && ewma < tolerance;
      result.windows = static_cast<std::int64_t>(result.changes.size());
    }
    first += count;
    if (progress) progress("watching the calibration text", first, windows.num_windows());
    if (result.stable) break;
  }
  return result;
}

}  // namespace swiftprune
