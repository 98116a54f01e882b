// Calibration windows of several texts, each with its share of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/text/token_windows.h"

namespace swiftprune {

struct WeightedText {
  Corpus corpus;
  double weight = 1.0;  // > 0; only ratios count
};

// How many of num_windows each text has: within one of its share (Webster's method of dividing seats).
std::vector<std::int64_t> windows_by_weight(std::span<const double> weights, std::int64_t num_windows);

// Windows of each text as sample_windows() draws them from it alone, with the seed, in turn, so that
// the first n of them are divided as windows_by_weight() divides n. Throws Error{kUsage} when a text's share is no window, Error{kBadInput} naming the text
// that is too short; with at_most there are fewer windows of all then.
TokenWindows mixed_windows(const Tokenizer& tokenizer, std::span<const WeightedText> texts,
                           std::int64_t num_windows, std::int64_t seqlen, std::uint64_t seed,
                           bool at_most = false);

}  // namespace swiftprune
