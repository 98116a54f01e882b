// Rows of a linear that are refined at a time, where rows do not depend on one another, and what ranks share out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/cuda/statistics/calibration.h"
#include "swiftprune/pipeline/drivers/shared_refinement.h"

namespace swiftprune::cuda {

class RefinedRows {
 public:
  // shared: null for one rank; outlives this.
  RefinedRows(const Communicator& ranks, StatisticsRanks* shared) : rank_(ranks.rank()), shared_(shared) {
    loads_.assign(static_cast<std::size_t>(ranks.size()), 0);
  }

  // Rows of a linear, and the rank that refines them.
  struct Part {
    std::int64_t first = 0, count = 0;
    int rank = 0;
  };
  bool is_own(const Part& part) const { return part.rank == rank_; }

  void start_input() { std::fill(loads_.begin(), loads_.end(), 0); }

  // All of them this rank's.
  std::vector<Part> own(const PlanEntry& entry, const PruneTarget& target, std::int64_t rows) const {
    const std::int64_t step = refines_by_rows(entry, target) ? kAtATime : rows;
    std::vector<Part> parts;
    for (std::int64_t first = 0; first < rows; first += step)
      parts.push_back({first, std::min(step, rows - first), rank_});
    return parts;
  }

  // Each to the rank that has least of the input in hand; all ranks find the same.
  std::vector<Part> shared_out(const PlanEntry& entry, const PruneTarget& target, std::int64_t rows) {
    std::vector<Part> parts = own(entry, target, rows);
    for (Part& part : parts) {
      const auto least = std::min_element(loads_.begin(), loads_.end());
      part.rank = static_cast<int>(least - loads_.begin());
      *least += part.count;
    }
    return parts;
  }

  // To all, beside what is refined next.
  void share(const std::vector<Part>& parts, DeviceView out, cudaStream_t stream) const {
    if (shared_ == nullptr) return;
    expect(out.stride == out.cols, "ranks: weights that are contiguous");
    shared_->hold_exchange(stream);
    for (const Part& part : parts) {
      const DeviceView rows = out.row_block(part.first, part.count);
      shared_->share(rows.data, static_cast<std::uint64_t>(rows.numel() * size_of(rows.dtype)), part.rank);
    }
  }

 private:
  // Enough for the GPU to be busy. With one rank they are cut alike, for the products' bits may depend on their sizes.
  static constexpr std::int64_t kAtATime = 1024;

  const int rank_;
  StatisticsRanks* shared_;
  std::vector<std::int64_t> loads_;  // rows of the input in hand that each rank refines
};

}  // namespace swiftprune::cuda
