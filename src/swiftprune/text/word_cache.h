// Ids of pieces that were encoded before: natural text repeats its words. Grows to a bound; emptied when full.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace swiftprune::text {

class WordCache {
 public:
  static constexpr std::size_t kMaxWordBytes = 128;  // longer pieces seldom repeat

  WordCache();
  // Appends the ids of the word and answers true when it is known. word: at most kMaxWordBytes.
  bool append_ids(std::string_view word, std::vector<std::int32_t>& ids) const {
    const Entry& entry = entries_[slot(word, hash(word))];
    if (entry.num_ids == kFree) return false;
    const std::int32_t* first = ids_.data() + entry.ids;
    ids.insert(ids.end(), first, first + entry.num_ids);
    return true;
  }
  void insert(std::string_view word, std::span<const std::int32_t> ids);

 private:
  static constexpr std::uint32_t kFree = 0xFFFFFFFF;
  struct Entry {
    std::uint32_t hash = 0;
    std::uint32_t text = 0;  // offset in text_
    std::uint32_t bytes = 0;
    std::uint32_t ids = 0;  // offset in ids_
    std::uint32_t num_ids = kFree;
  };
  static std::uint64_t hash(std::string_view word);
  // Where the word stands or would stand.
  std::size_t slot(std::string_view word, std::uint64_t hash) const;
  void grow();
  void clear();

  std::vector<Entry> entries_;  // a power of two
  std::size_t num_words_ = 0;
  std::string text_;
  std::vector<std::int32_t> ids_;
};

}  // namespace swiftprune::text
