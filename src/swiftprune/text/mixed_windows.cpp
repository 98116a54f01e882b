#include "swiftprune/text/mixed_windows.h"

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

// Which text each window is of: the one whose next window is most due, by (2 n + 1) / weight of those that have n
// (Webster's method of dividing seats), the first of equal ones. A shorter run is the first part of a longer one.
std::vector<std::size_t> turns(std::span<const double> weights, std::int64_t num_windows) {
  std::vector<double> due(weights.size(), 1.0);
  std::vector<std::size_t> result;
  for (std::int64_t k = 0; k < num_windows; ++k) {
    std::size_t next = 0;
    for (std::size_t i = 1; i < weights.size(); ++i) {
      if (due[i] * weights[next] < due[next] * weights[i]) next = i;
    }
    due[next] += 2.0;
    result.push_back(next);
  }
  return result;
}

}  // namespace

std::vector<std::int64_t> windows_by_weight(std::span<const double> weights, std::int64_t num_windows) {
  std::vector<std::int64_t> counts(weights.size(), 0);
  for (const std::size_t text : turns(weights, num_windows)) ++counts[text];
  return counts;
}

TokenWindows mixed_windows(const Tokenizer& tokenizer, std::span<const WeightedText> texts,
                           std::int64_t num_windows, std::int64_t seqlen, std::uint64_t seed, bool at_most) {
  std::vector<double> weights;
  for (const WeightedText& text : texts) weights.push_back(text.weight);
  std::vector<std::int64_t> counts = windows_by_weight(weights, num_windows);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (counts[i] > 0) continue;
    bad_usage(
        "{}: found the weight {}, whose share of {} windows is none; expected more windows or a larger "
        "weight",
        texts[i].corpus.name, texts[i].weight, num_windows);
  }
  std::vector<TokenWindows> parts;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    parts.push_back(sample_windows(tokenizer, texts[i].corpus, counts[i], seqlen, seed, at_most));
  }
  TokenWindows result{seqlen, {}};
  std::vector<std::int64_t> taken(texts.size(), 0);
  for (const std::size_t text : turns(weights, num_windows)) {
    // One text that is short makes all shorter, for the shares are what was asked for.
    if (taken[text] == parts[text].num_windows()) break;
    const auto window = parts[text].window(taken[text]++);
    result.ids.insert(result.ids.end(), window.begin(), window.end());
  }
  return result;
}

}  // namespace swiftprune
