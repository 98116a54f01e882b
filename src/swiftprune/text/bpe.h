// Byte-pair encoding (Sennrich, Haddow and Birch 2016, https://arxiv.org/abs/1508.07909): a piece starts as
// its code points, then the pair of neighbours with the lowest rank is merged, leftmost first, until none is
// left.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "swiftprune/text/model.h"

namespace swiftprune::text {

struct BpeOptions {
  std::optional<std::string> unknown_token = {};
  std::string continuing_subword_prefix = {};  // written before every code point but the first of a piece
  std::string end_of_word_suffix = {};         // written after the last one
  bool fuse_unknown = false;                   // neighbouring unknown code points are one token
  bool byte_fallback = false;                  // an unknown code point becomes its bytes' "<0xNN>" tokens
  bool ignore_merges = false;  // a piece that is a token is that token, whatever the merges say
};

// left, right -> merged (token ids); lower ranks go first.
struct Merge {
  std::int32_t left, right, merged, rank;
};

// Open addressing from a pair of ids to its rank and merged id.
class MergeTable {
 public:
  struct Entry {
    std::uint64_t key = kFree;
    std::int32_t rank = 0;
    std::int32_t merged = 0;
  };
  MergeTable() = default;
  explicit MergeTable(const std::vector<Merge>& merges);  // of a pair that comes twice, the later counts
  const Entry* find(std::int32_t left, std::int32_t right) const {
    const std::uint64_t key = make_key(left, right);
    for (std::size_t at = slot(key);; at = (at + 1) & mask_) {
      const Entry& entry = entries_[at];
      if (entry.key == key) return &entry;
      if (entry.key == kFree) return nullptr;
    }
  }

 private:
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};
  static std::uint64_t make_key(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }
  std::size_t slot(std::uint64_t key) const { return (key * 0x9E3779B97F4A7C15U) >> shift_; }
  std::vector<Entry> entries_;
  std::size_t mask_ = 0;
  int shift_ = 63;
};

class Bpe : public TokenModel {
 public:
  // where: for messages. The unknown token, if any, must be in the vocabulary.
  Bpe(Vocabulary vocabulary, const std::vector<Merge>& merges, BpeOptions options, std::string_view where);
  static std::unique_ptr<TokenModel> from_json(const JsonField& field);

  void encode(std::string_view piece, ModelScratch& scratch, std::vector<std::int32_t>& ids) const override;

 private:
  void encode_long(std::string_view piece, ModelScratch& scratch, std::vector<std::int32_t>& ids) const;
  void encode_segment(std::string_view segment, ModelScratch& scratch, std::vector<std::int32_t>& ids) const;
  void append_symbols(std::string_view piece, std::vector<std::int32_t>& symbols) const;
  std::int32_t code_point_id(std::string_view utf8) const;
  void merge_short(MergeScratch& scratch, std::vector<std::int32_t>& ids) const;
  void merge_long(MergeScratch& scratch, std::vector<std::int32_t>& ids) const;
  void find_low_ids();
  void mark_inner_pairs(const std::vector<Merge>& merges);
  bool may_join(char32_t left, char32_t right) const {
    const std::uint32_t bit = pair_bit(left, right);
    return (inner_pairs_[bit >> 6] >> (bit & 63) & 1) != 0;
  }
  static std::uint32_t pair_bit(char32_t left, char32_t right) {
    return (left * 0x9E3779B1U ^ right * 0x85EBCA77U) * 0xC2B2AE3DU >> 12;
  }

  BpeOptions options_;
  MergeTable merges_;
  std::int32_t unknown_id_ = -1;
  std::vector<std::int32_t> byte_ids_;      // of byte_fallback
  std::vector<std::int32_t> low_ids_;       // ids of the code points below kLowCodePoints; -1: unknown
  std::vector<std::uint64_t> inner_pairs_;  // hashed neighbours inside of merged tokens
};

}  // namespace swiftprune::text
