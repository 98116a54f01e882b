// The logits of every token of windows.
#pragma once

#include <algorithm>

#include "swiftprune/model/forward.h"

namespace swiftprune::test {

// [windows * seqlen, vocabulary]
inline Matrix logits_of(const Model& model, const Backend& backend, const TokenWindows& windows,
                        ComputeType compute = ComputeType::kF32) {
  Matrix logits(windows.num_windows() * windows.seqlen, model.config().vocab_size);
  ForwardOptions options;
  options.compute = compute;
  for_each_logits(model, backend, windows, options,
                  [&](std::int64_t window, std::int64_t first, ConstMatrixView part) {
                    for (std::int64_t r = 0; r < part.rows; ++r)
                      std::copy_n(part.row(r), part.cols, logits.row(window * windows.seqlen + first + r));
                  });
  return logits;
}

}  // namespace swiftprune::test
