#include "swiftprune/calibration/stats_part.h"

#include <algorithm>

namespace swiftprune {

StatsPart::StatsPart(const LayerStats& stats, std::int64_t first, std::int64_t count) : stats_(stats) {
  const std::int64_t width = !stats.energy.empty() ? std::ssize(stats.energy)
                             : stats.gram != nullptr
                                 ? stats.gram->cols()
                                 : std::max(std::ssize(stats.ewma_energy), std::ssize(stats.sum));
  if (count >= width) return;
  for (std::span<const double>* sums : {&stats_.energy, &stats_.ewma_energy, &stats_.sum}) {
    if (!sums->empty())
      *sums = sums->subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
  }
  const auto take = [&](const Matrix*& of, bool square, Matrix& own) {
    if (of == nullptr) return;
    const ConstMatrixView rows = square ? of->view().row_block(first, count) : of->view();
    own = copy_of(rows.col_block(first, count));
    of = &own;
  };
  take(stats_.gram, true, gram_);
  take(stats_.cross, true, cross_);
  take(stats_.residual, false, residual_);
  take(stats_.sample, false, sample_);
}

}  // namespace swiftprune
