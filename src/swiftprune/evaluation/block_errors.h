// Where a pruned model's error comes from: what each block and each linear adds by itself, and what they pass
// on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

struct LinearError {
  std::string name;
  double error = 0.0;  // |X (W - B)ᵀ|² / |X Wᵀ|² on the dense model's inputs X
};

struct BlockError {
  std::int64_t layer = 0;
  // |pruned(h) - dense(h)|² / |dense(h) - h|² on the dense model's hidden states h: this block's own doing,
  // relative to what the block contributes.
  double own = 0.0;
  // |h' - h|² / |h|² after the block, h' of the pruned model alone: everything up to here.
  double total = 0.0;
  std::vector<LinearError> linears;  // those of the same shape in both models
};

// On the first max_tokens tokens or so (whole windows, at least one). Nothing when the models differ in
// number of blocks or hidden size.
std::optional<std::vector<BlockError>> block_errors(const Model& dense, const Model& pruned,
                                                    const Backend& backend, const TokenWindows& windows,
                                                    std::int64_t max_tokens, ComputeType compute,
                                                    const ProgressFn& progress);

}  // namespace swiftprune
