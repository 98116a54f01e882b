#include "swiftprune/text/word_cache.h"

#include <gtest/gtest.h>

#include "swiftprune/text/byte_trie.h"

namespace swiftprune::text {
namespace {

using Ids = std::vector<std::int32_t>;

TEST(WordCache, RemembersAndForgets) {
  WordCache cache;
  Ids ids;
  EXPECT_FALSE(cache.append_ids("word", ids));
  cache.insert("word", Ids{1, 2});
  cache.insert("", Ids{});
  cache.insert("word", Ids{9});  // known: kept
  ids = {7};
  EXPECT_TRUE(cache.append_ids("word", ids));
  EXPECT_TRUE(cache.append_ids("", ids));
  EXPECT_EQ(ids, (Ids{7, 1, 2}));
  EXPECT_FALSE(cache.append_ids("wor", ids));
  const std::string longest(WordCache::kMaxWordBytes, 'x');
  cache.insert(longest, Ids{3});
  EXPECT_TRUE(cache.append_ids(longest, ids));
  cache.insert(longest + "x", Ids{4});
  EXPECT_FALSE(cache.append_ids(longest + "x", ids));
}

TEST(WordCache, KnowsAllThatItHoldsWhileItGrows) {
  WordCache cache;
  constexpr std::int32_t kWords = 60'000;
  for (std::int32_t i = 0; i < kWords; ++i) cache.insert(std::to_string(i), Ids{i, -i});
  for (std::int32_t i = 0; i < kWords; ++i) {
    Ids ids;
    ASSERT_TRUE(cache.append_ids(std::to_string(i), ids)) << i;
    ASSERT_EQ(ids, (Ids{i, -i}));
  }
}

// More words than it holds: it starts anew, and what it answers stays right.
TEST(WordCache, NeverAnswersWrongly) {
  WordCache cache;
  int known = 0;
  for (std::int32_t i = 0; i < 200'000; ++i) {
    cache.insert(std::to_string(i), Ids{i, -i});
    if (i % 3 != 0) continue;
    Ids ids;
    const std::int32_t asked = i / 2;
    if (cache.append_ids(std::to_string(asked), ids)) {
      EXPECT_EQ(ids, (Ids{asked, -asked}));
      ++known;
    }
    ids.clear();
    EXPECT_TRUE(cache.append_ids(std::to_string(i), ids));
    EXPECT_EQ(ids, (Ids{i, -i}));
  }
  EXPECT_GT(known, 1000);
}

std::vector<std::pair<std::size_t, std::int32_t>> prefixes(const ByteTrie& trie, std::string_view text) {
  std::vector<std::pair<std::size_t, std::int32_t>> found;
  trie.for_each_prefix(text,
                       [&](std::size_t length, std::int32_t value) { found.emplace_back(length, value); });
  return found;
}

TEST(ByteTrie, FindsEveryPrefixShortestFirst) {
  using Found = std::vector<std::pair<std::size_t, std::int32_t>>;
  const ByteTrie trie({{"a", 0}, {"abc", 1}, {"b", 2}, {"\xFF\x80", 3}, {"abd", 4}, {"", 5}, {"a", 6}});
  EXPECT_EQ(prefixes(trie, "abcd"), (Found{{1, 6}, {3, 1}}));
  EXPECT_EQ(prefixes(trie, "abd"), (Found{{1, 6}, {3, 4}}));
  EXPECT_EQ(prefixes(trie, "ab"), (Found{{1, 6}}));
  EXPECT_EQ(prefixes(trie, "\xFF\x80"), (Found{{2, 3}}));
  EXPECT_EQ(prefixes(trie, "c"), (Found{}));
  EXPECT_EQ(prefixes(trie, ""), (Found{}));
  EXPECT_FALSE(trie.empty());
  EXPECT_TRUE(ByteTrie().empty());
  EXPECT_TRUE(ByteTrie({{"", 1}}).empty());
  std::vector<std::string> bytes;
  std::vector<std::pair<std::string_view, std::int32_t>> entries;
  for (int b = 0; b < 256; ++b) bytes.emplace_back(1, static_cast<char>(b));
  for (int b = 0; b < 256; ++b) entries.emplace_back(bytes[static_cast<std::size_t>(b)], b);
  const ByteTrie all(entries);
  for (int b = 0; b < 256; ++b) EXPECT_EQ(prefixes(all, bytes[static_cast<std::size_t>(b)]), (Found{{1, b}}));
}

}  // namespace
}  // namespace swiftprune::text
