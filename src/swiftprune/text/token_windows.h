// Token ids in windows of equal length: what calibration and evaluation run a model on.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/text/corpus.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

struct TokenWindows {
  std::int64_t seqlen = 0;
  std::vector<std::int32_t> ids;  // [num_windows, seqlen]

  std::int64_t num_windows() const { return seqlen > 0 ? static_cast<std::int64_t>(ids.size()) / seqlen : 0; }
  std::span<const std::int32_t> window(std::int64_t i) const {
    return std::span(ids).subspan(static_cast<std::size_t>(i * seqlen), static_cast<std::size_t>(seqlen));
  }
  // SHA-256 of the ids as little-endian 32-bit numbers, "sha256:<hex>"; for records.
  std::string hash() const;
};

struct WindowOptions {
  std::int64_t seqlen = 2048;
  std::optional<std::int64_t> max_windows = {};  // absent: as many as there are
  // Each window starts with BOS, which takes one of its places (models that were trained so, like Gemma).
  bool bos_each_window = false;
};

// For evaluation: the documents, joined by blank lines, are encoded as one text without special tokens and
// cut into windows that do not overlap; what does not fill a window is left over. Less than max_windows (or
// than one window): Error{kBadInput}.
TokenWindows windows_of_text(const Tokenizer& tokenizer, const Corpus& corpus, const WindowOptions& options);

// The same of ids that were made elsewhere. name: for messages.
TokenWindows windows_of_ids(std::vector<std::int32_t> ids, const std::string& name,
                            const WindowOptions& options, std::optional<std::int32_t> bos = std::nullopt);

// For calibration: documents in an order that the seed draws, BOS (where the tokenizer has one) before each,
// packed without padding into num_windows windows. Of a single document, num_windows of its windows are
// drawn, in the order of the text. Text too short: Error{kBadInput}; with at_most, only when it fills no
// window.
TokenWindows sample_windows(const Tokenizer& tokenizer, const Corpus& corpus, std::int64_t num_windows,
                            std::int64_t seqlen, std::uint64_t seed, bool at_most = false);

}  // namespace swiftprune
