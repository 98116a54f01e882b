// The dense forward over many windows, block by block: each block's weights are loaded once for all windows.
#pragma once

#include <functional>
#include <span>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

struct ForwardOptions {
  ComputeType compute = ComputeType::kF32;
  std::int64_t hidden_bytes = std::int64_t{256}
                              << 20;  // windows are taken in groups whose hidden states fit in this
  ProgressFn progress;                // stage "forward", in windows·blocks
};

// Windows of one group share their rows: small windows are joined to about this many tokens a pass.
inline constexpr std::int64_t kTokensPerPass = 2048;

// Runs `body(first_window, count)` over groups of windows that make up about kTokensPerPass rows.
void for_window_groups(std::int64_t num_windows, std::int64_t seqlen,
                       const std::function<void(std::int64_t first_window, std::int64_t count)>& body);

// How many windows make a group whose hidden states fit in options.hidden_bytes.
std::int64_t windows_per_group(const Model& model, std::int64_t seqlen, const ForwardOptions& options);
// Windows [first, first + count) through all blocks, without the head -> [count·seqlen, hidden].
// step(windows) is called as each block ends.
Matrix forward_blocks(const Model& model, const Backend& backend, const TokenWindows& windows,
                      std::int64_t first, std::int64_t count, ComputeType compute,
                      const std::function<void(std::int64_t)>& step);

// Runs of tokens (decoder_block.h), given one after the other, through all blocks -> [|ids|, hidden]. step():
// as each block ends.
Matrix forward_segments(const Model& model, const Backend& backend, std::span<const std::int32_t> ids,
                        std::span<const Segment> segments, ComputeType compute,
                        const std::function<void()>& step);

inline constexpr std::int64_t kLogitRows = 256;  // rows of logits in memory at a time

// Hands over the logits [rows, vocab] of consecutive rows of each window: rows first_row .. first_row + rows
// of `window`.
using LogitsFn = std::function<void(std::int64_t window, std::int64_t first_row, ConstMatrixView logits)>;
void for_each_logits(const Model& model, const Backend& backend, const TokenWindows& windows,
                     const ForwardOptions& options, const LogitsFn& consume);

}  // namespace swiftprune
