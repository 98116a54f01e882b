#include "swiftprune/text/token_windows.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "swiftprune/core/error.h"
#include "swiftprune/core/sha256.h"

namespace swiftprune {
namespace {

void check_shape(std::int64_t num_windows, std::int64_t seqlen) {
  if (seqlen < 2) bad_usage("--seqlen: found {}, expected at least 2", seqlen);
  if (num_windows < 1) bad_usage("--windows: found {}, expected at least 1", num_windows);
}

[[noreturn]] void too_short(const std::string& name, std::int64_t found, std::int64_t windows,
                            std::int64_t seqlen) {
  bad_input(
      "{}: found {} tokens{}, expected at least {} ({} windows of {}); use a longer text, fewer --windows or "
      "a "
      "shorter --seqlen",
      name, found, found <= 1 ? " (is the file empty?)" : "", windows * seqlen, windows, seqlen);  // one: BOS
}

// Fisher-Yates with a fixed generator, so that a seed means the same order everywhere.
std::vector<std::size_t> drawn_order(std::size_t n, std::uint64_t seed) {
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::mt19937_64 random(seed);
  for (std::size_t i = n; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  return order;
}

TokenWindows sample_of_one(const Tokenizer& tokenizer, const Corpus& corpus, std::int64_t num_windows,
                           std::int64_t seqlen, std::uint64_t seed, bool at_most) {
  std::vector<std::int32_t> ids;
  if (tokenizer.bos()) ids.push_back(*tokenizer.bos());
  const std::vector<std::int32_t> body = tokenizer.encode(corpus.documents[0], false);
  ids.insert(ids.end(), body.begin(), body.end());
  const auto found = static_cast<std::int64_t>(ids.size());
  if (at_most) num_windows = std::clamp<std::int64_t>(found / seqlen, 1, num_windows);
  if (found / seqlen < num_windows) too_short(corpus.name, found, num_windows, seqlen);
  std::vector<std::size_t> chosen = drawn_order(static_cast<std::size_t>(found / seqlen), seed);
  chosen.resize(static_cast<std::size_t>(num_windows));
  std::sort(chosen.begin(), chosen.end());
  TokenWindows windows{seqlen, {}};
  for (const std::size_t window : chosen) {
    const auto first = ids.begin() + static_cast<std::ptrdiff_t>(window) * seqlen;
    windows.ids.insert(windows.ids.end(), first, first + seqlen);
  }
  return windows;
}

}  // namespace

std::string TokenWindows::hash() const {
  Sha256 sha;
  std::string bytes;
  for (const std::int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      bytes += static_cast<char>((static_cast<std::uint32_t>(id) >> shift) & 0xFF);
    }
  }
  sha.update(bytes);
  return "sha256:" + sha.hex_digest();
}

TokenWindows windows_of_text(const Tokenizer& tokenizer, const Corpus& corpus, const WindowOptions& options) {
  if (options.bos_each_window && !tokenizer.bos()) {
    bad_input("{}: windows are to start with BOS, but the tokenizer has none", corpus.name);
  }
  std::string joined;
  for (const std::string& document : corpus.documents) {
    if (!joined.empty()) joined += "\n\n";
    joined += document;
  }
  return windows_of_ids(tokenizer.encode(joined, false), corpus.name, options, tokenizer.bos());
}

TokenWindows windows_of_ids(std::vector<std::int32_t> ids, const std::string& name,
                            const WindowOptions& options, std::optional<std::int32_t> bos) {
  check_shape(options.max_windows.value_or(1), options.seqlen);
  expect(!options.bos_each_window || bos.has_value(), "windows that start with BOS need its id");
  const std::int64_t text_tokens = options.seqlen - (options.bos_each_window ? 1 : 0);
  const auto found = static_cast<std::int64_t>(ids.size());
  const std::int64_t windows = options.max_windows.value_or(std::max<std::int64_t>(found / text_tokens, 1));
  if (found / text_tokens < windows) too_short(name, found, windows, text_tokens);
  ids.resize(static_cast<std::size_t>(windows * text_tokens));
  if (!options.bos_each_window) return {options.seqlen, std::move(ids)};
  TokenWindows result{options.seqlen, {}};
  for (auto first = ids.begin(); first != ids.end(); first += text_tokens) {
    result.ids.push_back(*bos);
    result.ids.insert(result.ids.end(), first, first + text_tokens);
  }
  return result;
}

TokenWindows sample_windows(const Tokenizer& tokenizer, const Corpus& corpus, std::int64_t num_windows,
                            std::int64_t seqlen, std::uint64_t seed, bool at_most) {
  check_shape(num_windows, seqlen);
  if (corpus.documents.size() == 1)
    return sample_of_one(tokenizer, corpus, num_windows, seqlen, seed, at_most);
  TokenWindows windows{seqlen, {}};
  auto wanted = static_cast<std::size_t>(num_windows * seqlen);
  for (const std::size_t document : drawn_order(corpus.documents.size(), seed)) {
    if (windows.ids.size() >= wanted) break;
    if (tokenizer.bos()) windows.ids.push_back(*tokenizer.bos());
    const std::vector<std::int32_t> body = tokenizer.encode(corpus.documents[document], false);
    windows.ids.insert(windows.ids.end(), body.begin(), body.end());
  }
  if (at_most && windows.ids.size() < wanted) {
    num_windows = std::max<std::int64_t>(1, static_cast<std::int64_t>(windows.ids.size()) / seqlen);
    wanted = static_cast<std::size_t>(num_windows * seqlen);
  }
  if (windows.ids.size() < wanted) {
    too_short(corpus.name, static_cast<std::int64_t>(windows.ids.size()), num_windows, seqlen);
  }
  windows.ids.resize(wanted);
  return windows;
}

}  // namespace swiftprune
