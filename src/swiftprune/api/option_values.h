// What options may hold that the command line's parser reads and a program's job fills in: every bound and every list of
// words stands here once, and both refuse by it, in the same words.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "swiftprune/core/error.h"

namespace swiftprune {

// Numbers from least to most, both included. NaN is in no range.
struct OptionRange {
  double least = 0.0;
  double most = std::numeric_limits<double>::infinity();
  bool above = false;  // `least` itself is none of them

  constexpr bool holds(double value) const {
    return (above ? value > least : value >= least) && value <= most;
  }
  constexpr bool is_bounded() const { return most < std::numeric_limits<double>::infinity(); }
  std::string text() const;  // "1 to 64", "0 or more", "more than 0"
};
using OptionWords = std::span<const std::string_view>;

namespace option_values {

inline constexpr OptionRange kZeroOrMore = {};
inline constexpr OptionRange kMoreThanZero = {.above = true};
inline constexpr OptionRange kShare = {0.0, 1.0};

// Texts (EvaluationTexts, CalibrationText).
inline constexpr OptionRange kSeqlen = {2, 1 << 24};
inline constexpr std::string_view kBos[] = {"auto", "each", "once", "none"};
inline constexpr OptionRange kWindows = kZeroOrMore;
inline constexpr OptionRange kStride = kZeroOrMore;

// EvalJob, CompareJob
inline constexpr OptionRange kTaskLimit = kZeroOrMore;
inline constexpr OptionRange kAnswerTokens = {1, 1 << 20};
inline constexpr OptionRange kErrorTokens = kZeroOrMore;
inline constexpr OptionRange kMaxPerplexityRatio = kMoreThanZero;
inline constexpr OptionRange kMinTop1 = kShare;
inline constexpr OptionRange kMaxKl = kZeroOrMore;
inline constexpr OptionRange kMaxLoops = kShare;
inline constexpr OptionRange kMaxLengthChange = kZeroOrMore;
inline constexpr OptionRange kMinExact = kShare;

// PruneJob, QuantizeJob
inline constexpr std::string_view kPropagate[] = {"pruned", "dense"};
inline constexpr std::string_view kAllocate[] = {"none", "sensitivity"};
inline constexpr std::string_view kStore[] = {"packed", "dense"};
inline constexpr std::string_view kTables[] = {"int8", "int4"};
inline constexpr std::string_view kGroup[] = {"32", "64", "128", "row"};
inline constexpr OptionRange kMinExpertTokens = {1, 1LL << 40};
inline constexpr OptionRange kLowRank = {0, 1 << 20};
inline constexpr OptionRange kBits = kMoreThanZero;

// ShrinkJob
inline constexpr std::string_view kWidthsBy[] = {"change", "score"};
inline constexpr std::string_view kLayersBy[] = {"greedy", "influence", "search"};
inline constexpr OptionRange kExperts = {1, 1 << 16};
inline constexpr OptionRange kRounds = {1, 1 << 10};
inline constexpr OptionRange kAlign = {1, 1 << 20};
inline constexpr OptionRange kShrinkWindows = {1, 1 << 20};
inline constexpr OptionRange kDamping = kMoreThanZero;
inline constexpr OptionRange kMadeUpFor = kShare;  // --alpha, --beta

// Texts that a model writes (WritingOptions, SamplerOptions)
inline constexpr OptionRange kNewTokens = {1, 1 << 24};
inline constexpr OptionRange kTemperature = {0.0, 100.0};
inline constexpr OptionRange kTopP = {1e-6, 1.0};
inline constexpr OptionRange kTopK = kZeroOrMore;
inline constexpr OptionRange kMinP = kShare;

}  // namespace option_values

// Throw Error{kUsage} that names the option.
template <class Number>
void check_value(std::string_view option, Number found, const OptionRange& range) {
  if (!range.holds(static_cast<double>(found)))
    bad_usage("{}: found {}, expected {}", option, found, range.text());
}
void check_value(std::string_view option, const std::string& found, OptionWords words);
// The same where empty means that the option was not given.
void check_if_given(std::string_view option, const std::string& found, OptionWords words);

}  // namespace swiftprune
