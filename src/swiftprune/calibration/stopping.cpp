#include "swiftprune/calibration/stopping.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "swiftprune/core/error.h"
#include "swiftprune/model/forward.h"

namespace swiftprune {
namespace {

constexpr double kEwmaWeight = 0.25;

// Running energies of one input.
class EnergySeries {
 public:
  // x [T, I] of the next segment; ½ Σ|p_t - p_(t-1)|, 0 for the first.
  double add(const Backend& backend, ConstMatrixView x) {
    const bool first = sums_.empty();
    sums_.resize(static_cast<std::size_t>(x.cols), 0.0);
    std::vector<double> before = sums_;
    backend.add_energy(x, sums_);
    const double old_total = std::accumulate(before.begin(), before.end(), 0.0);
    const double total = std::accumulate(sums_.begin(), sums_.end(), 0.0);
    if (first || !(old_total > 0.0) || !(total > 0.0)) return 0.0;
    double change = 0.0;
    for (std::size_t j = 0; j < sums_.size(); ++j)
      change += std::abs(sums_[j] / total - before[j] / old_total);
    return 0.5 * change;
  }

 private:
  std::vector<double> sums_;  // [I]
};

class Follower {
 public:
  Follower(const Model& model, const Backend& backend, const TokenWindows& windows, ComputeType compute)
      : model_(model),
        backend_(backend),
        windows_(windows),
        compute_(compute),
        segments_((windows.seqlen + kStoppingSegment - 1) / kStoppingSegment),
        ropes_(model.rope_tables(windows.seqlen)),
        series_(static_cast<std::size_t>(model.config().num_layers() * kNumLinearInputs)) {}

  // The changes of each segment of the windows [first, first + count), mean over all inputs.
  std::vector<double> follow(std::int64_t first, std::int64_t count) {
    std::vector<double> changes(static_cast<std::size_t>(count * segments_), 0.0);
    Matrix hidden = model_.embed_windows(windows_, first, count);
    for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
      check_interrupt();
      DecoderBlock block = model_.load_block(layer);
      block.pack(backend_, compute_);
      for (std::int64_t window = 0; window < count; ++window) {
        const InputObserver observer = [&](LinearInput input, ConstMatrixView x) {
          EnergySeries& series =
              series_[static_cast<std::size_t>(layer * kNumLinearInputs + static_cast<int>(input))];
          for (std::int64_t s = 0; s < segments_; ++s) {
            const std::int64_t row = s * kStoppingSegment;
            changes[static_cast<std::size_t>(window * segments_ + s)] +=
                series.add(backend_, x.row_block(row, std::min(kStoppingSegment, x.rows - row))) /
                static_cast<double>(series_.size());
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
    return changes;
  }
  std::int64_t segments_per_window() const { return segments_; }

 private:
  const Model& model_;
  const Backend& backend_;
  const TokenWindows& windows_;
  ComputeType compute_;
  std::int64_t segments_;
  std::vector<RopeTable> ropes_;
  std::vector<EnergySeries> series_;
};

}  // namespace

StableWindows windows_until_stable(const Model& model, const Backend& backend, const TokenWindows& windows,
                                   ComputeType compute, double tolerance, const ProgressFn& progress) {
  expect(windows.num_windows() > 0, "windows_until_stable: calibration windows");
  Follower follower(model, backend, windows, compute);
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
