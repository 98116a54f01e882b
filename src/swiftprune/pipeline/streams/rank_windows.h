// Which of a run's windows a rank has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/model/model_config.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

// A model's experts compute their tokens in so many parts, each of whole passes of windows, with any number of ranks: what
// a product is computed among does not depend on who computes it. More ranks than that have no windows.
inline constexpr int kTextParts = 8;

// Share `index` of `of` of the windows: whole passes of so many tokens (the processor's are those of
// for_window_groups()), so that each window is computed among the same others as in one process: the same bits.
inline Share passes_of(const TokenWindows& windows, int index, int of, std::int64_t tokens_per_pass) {
  const std::int64_t group = std::max<std::int64_t>(1, tokens_per_pass / windows.seqlen);
  const Share passes = share_of(ceil_div(windows.num_windows(), group), index, of);
  const std::int64_t first = std::min(passes.first * group, windows.num_windows());
  const std::int64_t last = std::min((passes.first + passes.count) * group, windows.num_windows());
  return {first, last - first};
}

// A rank's; it may have none.
inline Share rank_windows(const ModelConfig& model, const TokenWindows& windows, const Communicator& ranks,
                          std::int64_t tokens_per_pass = kTokensPerPass) {
  if (ranks.size() == 1 || windows.num_windows() == 0) return {0, windows.num_windows()};
  if (!model.has_experts()) return passes_of(windows, ranks.rank(), ranks.size(), tokens_per_pass);
  const Share parts = share_of(kTextParts, ranks.rank(), ranks.size());
  Share share{windows.num_windows(), 0};
  for (std::int64_t part = parts.first; part < parts.first + parts.count; ++part) {
    const Share of_part = passes_of(windows, static_cast<int>(part), kTextParts, tokens_per_pass);
    share.first = std::min(share.first, of_part.first);
    share.count += of_part.count;
  }
  return share;
}

// Where the experts' parts end among the tokens of a rank's windows, rising.
inline std::vector<std::int64_t> expert_part_ends(const TokenWindows& windows, const Share& share,
                                                  std::int64_t tokens_per_pass = kTokensPerPass) {
  std::vector<std::int64_t> ends;
  if (share.count == 0) return ends;  // a run without text has no length of windows either
  for (int part = 0; part < kTextParts; ++part) {
    const Share of_part = passes_of(windows, part, kTextParts, tokens_per_pass);
    const std::int64_t end = of_part.first + of_part.count - share.first;
    if (of_part.count > 0 && end > 0 && end <= share.count) ends.push_back(end * windows.seqlen);
  }
  return ends;
}

// All tokens in their order: `most` at a time at most, those of one part together.
inline std::vector<Share> token_chunks(std::int64_t num_tokens, std::int64_t most,
                                       std::span<const std::int64_t> part_ends) {
  std::vector<Share> chunks;
  for (std::int64_t first = 0; first < num_tokens;) {
    const auto part = std::upper_bound(part_ends.begin(), part_ends.end(), first);
    const std::int64_t end = std::min(part == part_ends.end() ? num_tokens : *part, num_tokens);
    chunks.push_back({first, std::min(most, end - first)});
    first += chunks.back().count;
  }
  return chunks;
}

// Of rising rows from place `first` on: the place behind those that are computed together, `most` at most and of one part.
inline std::int64_t end_in_part(std::span<const std::int64_t> rows, std::int64_t first, std::int64_t most,
                                std::span<const std::int64_t> part_ends) {
  const auto begin = rows.begin() + first;
  const auto end = std::upper_bound(part_ends.begin(), part_ends.end(), *begin);
  const auto last = end == part_ends.end() ? rows.end() : std::lower_bound(begin, rows.end(), *end);
  return first + std::min<std::int64_t>(most, last - begin);
}

inline TokenWindows windows_of_rank(const TokenWindows& windows, const Share& share) {
  TokenWindows result{windows.seqlen, {}};
  result.ids.assign(windows.ids.begin() + share.first * windows.seqlen,
                    windows.ids.begin() + (share.first + share.count) * windows.seqlen);
  return result;
}

}  // namespace swiftprune
