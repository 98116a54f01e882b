// Which of a text's windows a rank computes.
#pragma once

#include <cstdint>
#include <vector>

#include "swiftprune/model/text_forwards.h"
#include "swiftprune/ranks/communicator.h"

namespace swiftprune {

// Windows are computed in groups whose hidden states fit, and each group in passes (for_window_groups()). Ranks have whole
// passes, so that each window is computed among the same others as in one process: the same bits. What a rank does without
// a gap are windows [first, first + count), a rank's behind those of the ranks before.
class WindowRuns {
 public:
  // How many windows fit is the first rank's to say.
  WindowRuns(TextForwards& forwards, const TokenWindows& windows, Communicator& ranks);
  std::vector<Share> of_rank(int rank) const;

 private:
  std::int64_t num_windows_, seqlen_, group_ = 1;
  int size_;
};

}  // namespace swiftprune
