#include "swiftprune/text/word_cache.h"

#include <algorithm>
#include <cstring>

namespace swiftprune::text {
namespace {

constexpr std::size_t kFirstSlots = std::size_t{1} << 9;  // a short text pays for no more
constexpr std::size_t kMaxSlots = std::size_t{1} << 17;
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 22;

}  // namespace

WordCache::WordCache() : entries_(kFirstSlots) {}

std::uint64_t WordCache::hash(std::string_view word) {
  constexpr std::uint64_t kMultiplier = 0x9E3779B97F4A7C15U;  // 2^64 / golden ratio
  std::uint64_t h = word.size() * kMultiplier;
  const char* p = word.data();
  std::size_t left = word.size();
  const auto mix = [&](std::uint64_t block) {
    h = (h ^ block) * kMultiplier;
    h ^= h >> 32;
  };
  for (; left >= 8; left -= 8, p += 8) {
    std::uint64_t block = 0;
    std::memcpy(&block, p, 8);
    mix(block);
  }
  if (left > 0) {
    std::uint64_t block = 0;
    std::memcpy(&block, p, left);
    mix(block);
  }
  return h;
}

std::size_t WordCache::slot(std::string_view word, std::uint64_t hash) const {
  const std::size_t mask = entries_.size() - 1;
  std::size_t at = hash & mask;
  const auto check = static_cast<std::uint32_t>(hash >> 32);
  for (;; at = (at + 1) & mask) {
    const Entry& entry = entries_[at];
    if (entry.num_ids == kFree) return at;
    if (entry.hash == check && entry.bytes == word.size() &&
        std::memcmp(text_.data() + entry.text, word.data(), word.size()) == 0) {
      return at;
    }
  }
}

void WordCache::insert(std::string_view word, std::span<const std::int32_t> ids) {
  if (word.size() > kMaxWordBytes) return;
  if (text_.size() + word.size() > kMaxTextBytes) clear();
  if (2 * num_words_ == entries_.size()) entries_.size() < kMaxSlots ? grow() : clear();
  const std::uint64_t h = hash(word);
  Entry& entry = entries_[slot(word, h)];
  if (entry.num_ids != kFree) return;
  entry = {static_cast<std::uint32_t>(h >> 32), static_cast<std::uint32_t>(text_.size()),
           static_cast<std::uint32_t>(word.size()), static_cast<std::uint32_t>(ids_.size()),
           static_cast<std::uint32_t>(ids.size())};
  text_.append(word);
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  ++num_words_;
}

void WordCache::grow() {
  std::vector<Entry> old(4 * entries_.size());
  old.swap(entries_);
  for (const Entry& entry : old) {
    if (entry.num_ids == kFree) continue;
    const std::string_view word = std::string_view(text_).substr(entry.text, entry.bytes);
    entries_[slot(word, hash(word))] = entry;
  }
}

void WordCache::clear() {
  std::fill(entries_.begin(), entries_.end(), Entry{});
  text_.clear();
  ids_.clear();
  num_words_ = 0;
}

}  // namespace swiftprune::text
