#include "swiftprune/evaluation/window_runs.h"

#include <algorithm>

namespace swiftprune {

WindowRuns::WindowRuns(TextForwards& forwards, const TokenWindows& windows, Communicator& ranks)
    : num_windows_(windows.num_windows()), seqlen_(windows.seqlen), size_(ranks.size()) {
  group_ = std::max<std::int64_t>(1, forwards.prepare(seqlen_) / seqlen_);
  ranks.broadcast(0, std::as_writable_bytes(std::span(&group_, 1)));
}

std::vector<Share> WindowRuns::of_rank(int rank) const {
  const std::int64_t pass = std::max<std::int64_t>(1, kTokensPerPass / seqlen_);
  struct Pass {
    Share windows;
    std::int64_t group;
  };
  std::vector<Pass> passes;
  for (std::int64_t first = 0; first < num_windows_; first += group_) {
    const std::int64_t end = std::min(first + group_, num_windows_);
    for (std::int64_t w = first; w < end; w += pass) passes.push_back({{w, std::min(pass, end - w)}, first});
  }
  const Share mine = share_of(std::ssize(passes), rank, size_);
  std::vector<Share> runs;
  for (std::int64_t p = mine.first; p < mine.first + mine.count; ++p) {
    const auto& [windows, of_group] = passes[static_cast<std::size_t>(p)];
    const bool goes_on = p > mine.first && passes[static_cast<std::size_t>(p - 1)].group == of_group;
    goes_on ? void(runs.back().count += windows.count) : runs.push_back(windows);
  }
  return runs;
}

}  // namespace swiftprune
