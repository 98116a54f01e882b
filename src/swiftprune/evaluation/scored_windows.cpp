#include "swiftprune/evaluation/scored_windows.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

constexpr std::array kNames = {std::string_view("windows"), std::string_view("llama.cpp"),
                               std::string_view("strided")};

// The text itself starts with BOS, and BOS stands in the place of each window's first token.
ScoredWindows second_halves(std::vector<std::int32_t> ids, const std::string& name,
                            const ConventionOptions& options) {
  if (options.bos) ids.insert(ids.begin(), *options.bos);
  WindowOptions window_options;
  window_options.seqlen = options.seqlen;
  if (options.max_windows > 0) window_options.max_windows = options.max_windows;
  ScoredWindows scored{windows_of_ids(std::move(ids), name, window_options), {}};
  for (std::int64_t w = 0; options.bos && w < scored.windows.num_windows(); ++w) {
    scored.windows.ids[static_cast<std::size_t>(w * options.seqlen)] = *options.bos;
  }
  scored.first_target.assign(static_cast<std::size_t>(scored.windows.num_windows()), options.seqlen / 2 + 1);
  return scored;
}

std::vector<ScoredWindows> overlapping(const std::vector<std::int32_t>& ids, const std::string& name,
                                       const ConventionOptions& options) {
  const std::int64_t prefix = options.bos ? 1 : 0;
  const std::int64_t length = options.seqlen - prefix;
  const std::int64_t stride = options.stride > 0 ? options.stride : std::max<std::int64_t>(1, length / 2);
  if (stride > length) {
    bad_usage("--stride: found {}, expected at most {} (--seqlen {}{}), for no token may be left out", stride,
              length, options.seqlen, prefix > 0 ? " with BOS" : "");
  }
  const auto total = static_cast<std::int64_t>(ids.size());
  if (total + prefix < 2) bad_input("{}: found {} tokens, expected at least 2", name, total);
  std::vector<ScoredWindows> parts;
  std::int64_t scored_up_to = options.bos ? 0 : 1;
  for (std::int64_t begin = 0, w = 0; scored_up_to < total; begin += stride, ++w) {
    if (options.max_windows > 0 && w == options.max_windows) break;
    const std::int64_t end = std::min(begin + length, total);
    // Nothing comes before a window's first token when windows do not overlap.
    const std::int64_t first_target = std::max<std::int64_t>(1, scored_up_to - begin + prefix);
    scored_up_to = end;
    if (first_target >= end - begin + prefix) continue;
    if (parts.empty() || parts.back().windows.seqlen != end - begin + prefix) {
      parts.push_back({TokenWindows{end - begin + prefix, {}}, {}});
    }
    ScoredWindows& part = parts.back();
    if (options.bos) part.windows.ids.push_back(*options.bos);
    part.windows.ids.insert(part.windows.ids.end(), ids.begin() + begin, ids.begin() + end);
    part.first_target.push_back(first_target);
  }
  return parts;
}

// Ids that were cut into windows elsewhere, each with its BOS already.
bool starts_windows(const std::vector<std::int32_t>& ids, std::int32_t bos, std::int64_t seqlen) {
  if (static_cast<std::int64_t>(ids.size()) < seqlen) return false;
  for (std::size_t first = 0; first + static_cast<std::size_t>(seqlen) <= ids.size();
       first += static_cast<std::size_t>(seqlen)) {
    if (ids[first] != bos) return false;
  }
  return true;
}

}  // namespace

std::string_view name_of(Convention convention) { return kNames[static_cast<std::size_t>(convention)]; }

Convention convention_by_name(std::string_view name) {
  const auto it = std::find(kNames.begin(), kNames.end(), name);
  if (it == kNames.end()) {
    bad_usage("--convention: found '{}', expected {}", name, fmt::join(kNames, ", "));
  }
  return static_cast<Convention>(it - kNames.begin());
}

namespace {

std::string label_of(Convention convention, std::int64_t seqlen, std::int64_t stride) {
  switch (convention) {
    case Convention::kWindows:
      return fmt::format("windows of {} tokens, tokens 2..{} scored (Hugging Face / GPTQ)", seqlen, seqlen);
    case Convention::kLlamaCpp:
      return fmt::format("windows of {} tokens, second half scored (llama.cpp)", seqlen);
    case Convention::kStrided:
      return fmt::format(
          "windows of {} tokens, {} apart, {} (strided)", seqlen, stride > 0 ? stride : seqlen / 2,
          stride < seqlen ? "every token scored once" : "every token but the first of each scored");
  }
  return "";
}

}  // namespace

std::string label_of(const ConventionOptions& options) {
  const std::string once = options.bos && options.bos_once ? ", one BOS before the text" : "";
  return label_of(options.convention, options.seqlen, options.stride) + once;
}

std::int64_t ScoredWindows::num_scored() const {
  return windows.num_windows() * windows.seqlen -
         std::accumulate(first_target.begin(), first_target.end(), std::int64_t{0});
}

std::vector<ScoredWindows> scored_windows(const std::vector<std::int32_t>& ids, const std::string& name,
                                          const ConventionOptions& options) {
  expect(options.seqlen >= 2, "scored_windows: windows of two tokens or more");
  if (ids.empty()) bad_input("{}: the text is empty", name);
  if (options.bos && options.bos_once) {
    ConventionOptions without = options;
    without.bos.reset();
    std::vector<std::int32_t> with_bos = ids;
    if (ids.front() != *options.bos) with_bos.insert(with_bos.begin(), *options.bos);
    return scored_windows(with_bos, name, without);
  }
  if (options.convention == Convention::kStrided) return overlapping(ids, name, options);
  std::vector<ScoredWindows> parts;
  if (options.convention == Convention::kLlamaCpp) {
    if (options.seqlen < 4) bad_usage("--seqlen: found {}, expected at least 4", options.seqlen);
    parts.push_back(second_halves(ids, name, options));
    return parts;
  }
  WindowOptions window_options;
  window_options.seqlen = options.seqlen;
  window_options.bos_each_window =
      options.bos.has_value() && !starts_windows(ids, *options.bos, options.seqlen);
  if (options.max_windows > 0) window_options.max_windows = options.max_windows;
  ScoredWindows scored{windows_of_ids(ids, name, window_options, options.bos), {}};
  scored.first_target.assign(static_cast<std::size_t>(scored.windows.num_windows()), 1);
  parts.push_back(std::move(scored));
  return parts;
}

}  // namespace swiftprune
