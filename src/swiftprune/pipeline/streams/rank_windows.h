// Which of a run's windows a rank has.
#pragma once

#include <algorithm>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

// Whole passes of so many tokens (the processor's are those of for_window_groups()), so that each window is computed among
// the same others as in one process: the same bits. A rank may have none.
inline Share rank_windows(const TokenWindows& windows, const Communicator& ranks,
                          std::int64_t tokens_per_pass = kTokensPerPass) {
  if (ranks.size() == 1 || windows.num_windows() == 0) return {0, windows.num_windows()};
  const std::int64_t group = std::max<std::int64_t>(1, tokens_per_pass / windows.seqlen);
  const Share passes = share_of(ceil_div(windows.num_windows(), group), ranks.rank(), ranks.size());
  const std::int64_t first = std::min(passes.first * group, windows.num_windows());
  const std::int64_t last = std::min((passes.first + passes.count) * group, windows.num_windows());
  return {first, last - first};
}

inline TokenWindows windows_of_rank(const TokenWindows& windows, const Share& share) {
  TokenWindows result{windows.seqlen, {}};
  result.ids.assign(windows.ids.begin() + share.first * windows.seqlen,
                    windows.ids.begin() + (share.first + share.count) * windows.seqlen);
  return result;
}

}  // namespace swiftprune
