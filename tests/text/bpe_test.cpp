#include "swiftprune/text/bpe.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <random>

#include "swiftprune/text/unicode.h"

namespace swiftprune::text {
namespace {

using Ids = std::vector<std::int32_t>;

// Letters a..d and merges drawn at random; every merged token is new, or (one time in four) made a second
// way.
struct RandomBpe {
  std::vector<std::string> tokens = {"a", "b", "c", "d"};
  std::vector<Merge> merges;

  explicit RandomBpe(unsigned seed, int num_merges) {
    std::mt19937 random(seed);
    std::map<std::string, std::int32_t> ids;
    for (std::size_t i = 0; i < tokens.size(); ++i) ids[tokens[i]] = static_cast<std::int32_t>(i);
    while (static_cast<int>(merges.size()) < num_merges) {
      const auto left = static_cast<std::int32_t>(random() % tokens.size());
      const auto right = static_cast<std::int32_t>(random() % tokens.size());
      const std::string joined =
          tokens[static_cast<std::size_t>(left)] + tokens[static_cast<std::size_t>(right)];
      if (joined.size() > 12) continue;
      const auto [entry, is_new] = ids.try_emplace(joined, static_cast<std::int32_t>(tokens.size()));
      if (!is_new && random() % 4 != 0) continue;
      if (is_new) tokens.push_back(joined);
      merges.push_back({left, right, entry->second, static_cast<std::int32_t>(merges.size())});
    }
  }
};

// The definition: merge the pair of the lowest rank, leftmost first, again and again.
Ids merged_by_definition(const RandomBpe& bpe, std::string_view text) {
  Ids ids;
  for (const char c : text) ids.push_back(c - 'a');
  std::map<std::pair<std::int32_t, std::int32_t>, Merge> table;
  for (const Merge& merge : bpe.merges) table[{merge.left, merge.right}] = merge;
  while (true) {
    const Merge* best = nullptr;
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto entry = table.find({ids[i], ids[i + 1]});
      if (entry != table.end() && (best == nullptr || entry->second.rank < best->rank)) {
        best = &entry->second;
        at = i;
      }
    }
    if (best == nullptr) return ids;
    ids[at] = best->merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

// Short pieces are scanned, long ones merged from a heap, and longer ones cut where no merge crosses.
TEST(Bpe, EveryLengthIsMergedByDefinition) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const RandomBpe random_bpe(seed, 3 + static_cast<int>(seed) * 2);
    const Bpe bpe(Vocabulary(random_bpe.tokens), random_bpe.merges, {}, "test");
    ModelScratch scratch;
    std::mt19937 random(seed);
    for (const std::size_t length : {1U, 2U, 3U, 7U, 47U, 48U, 49U, 50U, 127U, 128U, 129U, 700U}) {
      std::string text;
      for (std::size_t i = 0; i < length; ++i) text += static_cast<char>('a' + random() % 4);
      const Ids expected = merged_by_definition(random_bpe, text);
      for (int round = 0; round < 2; ++round) {  // the second from the cache
        Ids ids = {-7};
        bpe.encode(text, scratch, ids);
        ASSERT_EQ(ids.front(), -7) << "ids are appended";
        ids.erase(ids.begin());
        ASSERT_EQ(ids, expected) << "seed " << seed << ", length " << length;
      }
    }
  }
}

TEST(Bpe, TheLaterOfTwoEqualPairsCounts) {
  const std::vector<Merge> merges = {{0, 1, 2, 0}, {1, 0, 3, 1}, {0, 1, 2, 2}};
  const Bpe bpe(Vocabulary({"a", "b", "ab", "ba"}), merges, {}, "test");
  ModelScratch scratch;
  Ids ids;
  bpe.encode("aba", scratch, ids);
  EXPECT_EQ(ids, (Ids{0, 3}));  // "ba" (rank 1) before "ab" (now rank 2)
}

TEST(Bpe, IgnoreMergesTakesWholePiecesOnly) {
  std::vector<std::string> tokens = {"a", "b", "abab"};
  tokens.push_back(std::string(200, 'b'));
  const Bpe bpe(Vocabulary(tokens), {}, {.ignore_merges = true}, "test");
  ModelScratch scratch;
  Ids ids;
  bpe.encode("abab", scratch, ids);
  bpe.encode("abababa", scratch, ids);
  EXPECT_EQ(ids, (Ids{2, 0, 1, 0, 1, 0, 1, 0}));
  ids.clear();
  bpe.encode(std::string(200, 'b'), scratch, ids);
  EXPECT_EQ(ids, (Ids{3}));
  ids.clear();
  std::string longer = "abab";  // a long piece is cut after every letter here; its parts are no pieces
  while (longer.size() < 200) longer += "abab";
  bpe.encode(longer, scratch, ids);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 2), 0);
}

TEST(Bpe, UnknownCodePointsWithoutUnknownTokenVanish) {
  const Bpe bpe(Vocabulary({"a"}), {}, {}, "test");
  ModelScratch scratch;
  Ids ids;
  bpe.encode("xay", scratch, ids);
  EXPECT_EQ(ids, (Ids{0}));
}

// One piece of a million code points that merges cannot be cut in: n log n, not n squared (which would take
// hours).
TEST(Bpe, LongPiecesAreMergedInNLogN) {
  const RandomBpe random_bpe(5, 40);
  const Bpe bpe(Vocabulary(random_bpe.tokens), random_bpe.merges, {}, "test");
  ModelScratch scratch;
  std::mt19937 random(1);
  std::string text;
  for (int i = 0; i < 1'000'000; ++i) text += static_cast<char>('a' + random() % 4);
  Ids ids;
  const auto start = std::chrono::steady_clock::now();
  bpe.encode(text, scratch, ids);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  std::string back;
  for (const std::int32_t id : ids) back += random_bpe.tokens[static_cast<std::size_t>(id)];
  EXPECT_EQ(back, text);
}

}  // namespace
}  // namespace swiftprune::text
