// Which tokens of a text are scored, and after how much context: the conventions of perplexity. Numbers of
// different conventions cannot be compared, so every result carries its convention's label.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/text/token_windows.h"

namespace swiftprune {

enum class Convention {
  kWindows,   // windows that do not overlap, tokens 2..seqlen of each (Hugging Face / GPTQ)
  kLlamaCpp,  // windows that do not overlap, the second half of each; where the tokenizer adds BOS, it
              // replaces the first token of each window (llama.cpp's perplexity tool)
  kStrided,   // windows that start `stride` tokens apart, only tokens that no earlier window scored: every
              // token of the text but the first once, after at least seqlen - stride others (Hugging Face's
  // "Perplexity of fixed-length models"); with a stride of a whole window nothing comes before the
  // first token of a window, which is then not scored
};
std::string_view name_of(Convention convention);       // "windows", "llama.cpp", "strided"
Convention convention_by_name(std::string_view name);  // Error{kUsage} naming --convention

struct ScoredWindows {
  TokenWindows windows;
  // Tokens [first_target[w], seqlen) of window w are scored, each from the row before it; >= 1.
  std::vector<std::int64_t> first_target;  // [num_windows]

  std::int64_t num_scored() const;
};

struct ConventionOptions {
  Convention convention = Convention::kWindows;
  std::int64_t seqlen = 2048;
  std::int64_t stride = 0;       // of kStrided; 0: half of seqlen
  std::int64_t max_windows = 0;  // 0: all
  // Each window starts with it; kWindows: added unless all have it already.
  std::optional<std::int32_t> bos = {};
  bool bos_once = false;  // the text starts with it instead, unless it does already
};
std::string label_of(const ConventionOptions& options);  // for people

// ids: a whole text without special tokens. kStrided gives a second part when the last window is shorter.
// Throws Error{kBadInput} naming `name` when the text does not fill the windows that were asked for, and
// Error{kUsage} for a stride that leaves gaps.
std::vector<ScoredWindows> scored_windows(const std::vector<std::int32_t>& ids, const std::string& name,
                                          const ConventionOptions& options);

}  // namespace swiftprune
