#include "swiftprune/text/bpe.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "swiftprune/core/error.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::text {
namespace {

constexpr char32_t kLowCodePoints = 0x3000;
constexpr std::int32_t kNoRank = std::numeric_limits<std::int32_t>::max();
// Up to this many symbols a scan for the lowest rank beats a heap.
constexpr std::size_t kMaxScanned = 48;
constexpr std::size_t kPairBits = std::size_t{1} << 20;

std::vector<Merge> merges_of(const JsonField& field, const Vocabulary& vocabulary, std::size_t prefix_bytes) {
  if (!field.json().is_array()) field.unexpected("a list of pairs");
  std::vector<Merge> merges;
  merges.reserve(field.json().size());
  const auto id_of = [&](std::string_view token, std::size_t index) {
    if (const auto id = vocabulary.find(token)) return *id;
    bad_input("{}[{}]: found the token \"{}\", expected one that model.vocab holds", field.where(), index,
              token);
  };
  for (const auto& item : field.json()) {
    const std::size_t index = merges.size();
    const auto malformed = [&] {
      JsonField(item, field.file(), fmt::format("model.merges[{}]", index))
          .unexpected("\"left right\" or [\"left\", \"right\"]");
    };
    std::string left;
    std::string right;
    if (item.is_string()) {  // the form of older files
      const std::string& text = item.get_ref<const std::string&>();
      const std::size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) malformed();
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      left = item[0].get<std::string>();
      right = item[1].get<std::string>();
    } else {
      malformed();
    }
    if (right.size() < prefix_bytes) malformed();
    const std::int32_t left_id = id_of(left, index);
    const std::int32_t right_id = id_of(right, index);
    const std::int32_t merged = id_of(left + right.substr(prefix_bytes), index);
    merges.push_back({left_id, right_id, merged, static_cast<std::int32_t>(index)});
  }
  return merges;
}

}  // namespace

MergeTable::MergeTable(const std::vector<Merge>& merges) {
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(2 * merges.size(), 2));
  entries_.resize(slots);
  mask_ = slots - 1;
  shift_ = 64 - std::countr_zero(slots);
  for (const Merge& merge : merges) {
    const std::uint64_t key = make_key(merge.left, merge.right);
    std::size_t at = slot(key);
    while (entries_[at].key != kFree && entries_[at].key != key) at = (at + 1) & mask_;
    entries_[at] = {key, merge.rank, merge.merged};
  }
}

Bpe::Bpe(Vocabulary vocabulary, const std::vector<Merge>& merges, BpeOptions options, std::string_view where)
    : TokenModel(std::move(vocabulary)), options_(std::move(options)), merges_(merges) {
  if (options_.unknown_token) {
    const auto id = vocabulary_.find(*options_.unknown_token);
    if (!id) {
      bad_input("{}: unk_token: found \"{}\", expected a token of the vocabulary", where,
                *options_.unknown_token);
    }
    unknown_id_ = *id;
  }
  if (options_.byte_fallback) byte_ids_ = vocabulary_.byte_tokens();
  find_low_ids();
  mark_inner_pairs(merges);
}

// By the tokens, of which most are seen to be longer: a small vocabulary is not searched for every code point.
void Bpe::find_low_ids() {
  low_ids_.assign(kLowCodePoints, -1);
  for (const std::string& token : vocabulary_.tokens()) {
    if (token.empty() || token.size() > 3 || utf8_length(token.front()) != token.size()) continue;
    if (invalid_utf8_position(token)) continue;
    const char32_t c = code_point_at(token, 0).value;
    if (c < kLowCodePoints) low_ids_[c] = vocabulary_.find(token).value_or(-1);
  }
}

std::unique_ptr<TokenModel> Bpe::from_json(const JsonField& field) {
  if (const auto dropout = field.find("dropout"); dropout && dropout->number() != 0.0) {
    dropout->unexpected("no dropout: it makes ids random and is meant for training");
  }
  BpeOptions options{.unknown_token = field.string_if("unk_token"),
                     .continuing_subword_prefix = field.string_if("continuing_subword_prefix").value_or(""),
                     .end_of_word_suffix = field.string_if("end_of_word_suffix").value_or(""),
                     .fuse_unknown = field.boolean_or("fuse_unk", false),
                     .byte_fallback = field.boolean_or("byte_fallback", false),
                     .ignore_merges = field.boolean_or("ignore_merges", false)};
  Vocabulary vocabulary(field.at("vocab"));
  const std::vector<Merge> merges =
      merges_of(field.at("merges"), vocabulary, options.continuing_subword_prefix.size());
  return std::make_unique<Bpe>(std::move(vocabulary), merges, std::move(options), field.where());
}

// Two neighbours of the text that stand side by side in no merged token can never end up in one token, so a
// long piece may be cut between them without changing its ids. Hash collisions only forgo a cut.
void Bpe::mark_inner_pairs(const std::vector<Merge>& merges) {
  inner_pairs_.assign(kPairBits / 64, 0);
  for (const Merge& merge : merges) {
    const std::string& token = vocabulary_.token(merge.merged);
    if (token.empty()) continue;
    CodePoint left = code_point_at(token, 0);
    for (std::size_t i = left.bytes; i < token.size();) {
      const CodePoint right = code_point_at(token, i);
      const std::uint32_t bit = pair_bit(left.value, right.value);
      inner_pairs_[bit >> 6] |= std::uint64_t{1} << (bit & 63);
      left = right;
      i += right.bytes;
    }
  }
}

void Bpe::encode(std::string_view piece, ModelScratch& scratch, std::vector<std::int32_t>& ids) const {
  if (piece.size() > WordCache::kMaxWordBytes) {
    if (options_.ignore_merges) {
      if (const auto id = vocabulary_.find(piece)) return ids.push_back(*id);
    }
    return encode_long(piece, scratch, ids);
  }
  if (scratch.cache.append_ids(piece, ids)) return;
  scratch.ids.clear();
  const auto id = options_.ignore_merges ? vocabulary_.find(piece) : std::nullopt;
  if (id)
    scratch.ids.push_back(*id);
  else
    encode_segment(piece, scratch, scratch.ids);
  scratch.cache.insert(piece, scratch.ids);
  ids.insert(ids.end(), scratch.ids.begin(), scratch.ids.end());
}

void Bpe::encode_long(std::string_view piece, ModelScratch& scratch, std::vector<std::int32_t>& ids) const {
  if (!options_.continuing_subword_prefix.empty() || !options_.end_of_word_suffix.empty()) {
    return encode_segment(piece, scratch, ids);
  }
  const auto known = [this](CodePoint c, std::size_t at, std::string_view text) {
    return c.value < kLowCodePoints ? low_ids_[c.value] >= 0 : code_point_id(text.substr(at, c.bytes)) >= 0;
  };
  const auto encode_part = [&](std::string_view part) {
    // ignore_merges looks at whole pieces only, so parts must not share the cache with them.
    if (options_.ignore_merges || part.size() > WordCache::kMaxWordBytes)
      return encode_segment(part, scratch, ids);
    if (scratch.cache.append_ids(part, ids)) return;
    scratch.ids.clear();
    encode_segment(part, scratch, scratch.ids);
    scratch.cache.insert(part, scratch.ids);
    ids.insert(ids.end(), scratch.ids.begin(), scratch.ids.end());
  };
  std::size_t begin = 0;
  CodePoint left = code_point_at(piece, 0);
  for (std::size_t at = left.bytes; at < piece.size();) {
    const CodePoint right = code_point_at(piece, at);
    // Unknown code points may be fused with their neighbours.
    if (!may_join(left.value, right.value) && known(left, at - left.bytes, piece) &&
        known(right, at, piece)) {
      encode_part(piece.substr(begin, at - begin));
      begin = at;
    }
    left = right;
    at += right.bytes;
  }
  encode_part(piece.substr(begin));
}

void Bpe::encode_segment(std::string_view segment, ModelScratch& scratch,
                         std::vector<std::int32_t>& ids) const {
  MergeScratch& merge = scratch.merge;
  merge.ids.clear();
  append_symbols(segment, merge.ids);
  if (merge.ids.size() <= kMaxScanned)
    merge_short(merge, ids);
  else
    merge_long(merge, ids);
}

std::int32_t Bpe::code_point_id(std::string_view utf8) const {
  const char32_t c = code_point_at(utf8, 0).value;
  return c < kLowCodePoints ? low_ids_[c] : vocabulary_.find(utf8).value_or(-1);
}

void Bpe::append_symbols(std::string_view piece, std::vector<std::int32_t>& symbols) const {
  const bool affixes = !options_.continuing_subword_prefix.empty() || !options_.end_of_word_suffix.empty();
  bool unknown_open = false;  // an unknown token that later unknown code points may still join
  const auto close_unknown = [&] {
    if (unknown_open) symbols.push_back(unknown_id_);
    unknown_open = false;
  };
  std::string spelled;
  for (std::size_t i = 0; i < piece.size();) {
    const std::size_t bytes = utf8_length(piece[i]);
    std::string_view text = piece.substr(i, bytes);
    std::int32_t id = -1;
    if (affixes) {
      spelled = i > 0 ? options_.continuing_subword_prefix : "";
      spelled += text;
      if (i + bytes == piece.size()) spelled += options_.end_of_word_suffix;
      text = spelled;
      id = vocabulary_.find(text).value_or(-1);
    } else {
      id = code_point_id(text);
    }
    i += bytes;
    const auto byte_id = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    if (id >= 0) {
      close_unknown();
      symbols.push_back(id);
    } else if (options_.byte_fallback &&
               std::all_of(text.begin(), text.end(), [&](char c) { return byte_id(c) >= 0; })) {
      // The library leaves an open unknown token open here.
      for (const char c : text) symbols.push_back(byte_id(c));
    } else if (unknown_id_ >= 0) {
      if (!options_.fuse_unknown) close_unknown();
      unknown_open = true;
    }
  }
  close_unknown();
}

void Bpe::merge_short(MergeScratch& scratch, std::vector<std::int32_t>& ids) const {
  auto& symbols = scratch.ids;
  auto& ranks = scratch.ranks;    // of the pair that starts here
  auto& merged = scratch.merged;  // what it becomes
  std::size_t n = symbols.size();
  ranks.assign(n, kNoRank);
  merged.assign(n, -1);
  const auto rank_pair = [&](std::size_t at) {
    ranks[at] = kNoRank;
    if (at + 1 >= n) return;
    if (const auto* entry = merges_.find(symbols[at], symbols[at + 1])) {
      ranks[at] = entry->rank;
      merged[at] = entry->merged;
    }
  };
  for (std::size_t i = 0; i + 1 < n; ++i) rank_pair(i);
  while (n > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < n; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == kNoRank) break;
    symbols[best] = merged[best];
    const auto gone = static_cast<std::ptrdiff_t>(best + 1);
    std::copy(symbols.begin() + gone + 1, symbols.begin() + static_cast<std::ptrdiff_t>(n),
              symbols.begin() + gone);
    std::copy(ranks.begin() + gone + 1, ranks.begin() + static_cast<std::ptrdiff_t>(n), ranks.begin() + gone);
    std::copy(merged.begin() + gone + 1, merged.begin() + static_cast<std::ptrdiff_t>(n),
              merged.begin() + gone);
    --n;
    rank_pair(best);
    if (best > 0) rank_pair(best - 1);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.begin() + static_cast<std::ptrdiff_t>(n));
}

void Bpe::merge_long(MergeScratch& scratch, std::vector<std::int32_t>& ids) const {
  constexpr std::int32_t kGone = -2;
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto n = static_cast<std::int32_t>(scratch.ids.size());
  symbols.clear();
  heap.clear();
  for (std::int32_t i = 0; i < n; ++i) {
    symbols.push_back({scratch.ids[static_cast<std::size_t>(i)], i - 1, i + 1 < n ? i + 1 : -1});
  }
  const auto symbol = [&](std::int32_t i) -> MergeScratch::Symbol& {
    return symbols[static_cast<std::size_t>(i)];
  };
  using Candidate = MergeScratch::Candidate;
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  const auto candidate = [&](std::int32_t left) -> std::optional<Candidate> {
    if (left < 0 || symbol(left).next < 0) return std::nullopt;
    const auto* entry = merges_.find(symbol(left).id, symbol(symbol(left).next).id);
    if (entry == nullptr) return std::nullopt;
    return Candidate{entry->rank, left, entry->merged};
  };
  for (std::int32_t i = 0; i + 1 < n; ++i) {
    if (const auto c = candidate(i)) heap.push_back(*c);
  }
  std::make_heap(heap.begin(), heap.end(), later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate top = heap.back();
    heap.pop_back();
    MergeScratch::Symbol& left = symbol(top.position);
    if (left.previous == kGone || left.next < 0) continue;
    MergeScratch::Symbol& right = symbol(left.next);
    const auto* entry = merges_.find(left.id, right.id);
    if (entry == nullptr || entry->merged != top.merged) continue;  // the pair has changed since
    left.id = top.merged;
    left.next = right.next;
    right.previous = kGone;
    if (left.next >= 0) symbol(left.next).previous = top.position;
    for (const std::int32_t at : {left.previous, top.position}) {
      if (const auto c = candidate(at)) {
        heap.push_back(*c);
        std::push_heap(heap.begin(), heap.end(), later);
      }
    }
  }
  for (std::int32_t i = 0; i >= 0; i = symbol(i).next) ids.push_back(symbol(i).id);
}

}  // namespace swiftprune::text
