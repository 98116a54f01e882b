#include "swiftprune/text/added_tokens.h"

#include <algorithm>

#include "swiftprune/text/unicode.h"

namespace swiftprune::text {
namespace {

std::size_t skip_whitespace_back(std::string_view text, std::size_t end) {
  while (end > 0) {
    const std::size_t last = previous_boundary(text, end);
    if (!is_whitespace(code_point_at(text, last).value)) break;
    end = last;
  }
  return end;
}

std::size_t skip_whitespace(std::string_view text, std::size_t begin) {
  while (begin < text.size()) {
    const CodePoint c = code_point_at(text, begin);
    if (!is_whitespace(c.value)) break;
    begin += c.bytes;
  }
  return begin;
}

}  // namespace

AddedToken AddedToken::from_json(const JsonField& field) {
  const bool special = field.boolean_or("special", false);
  return {.content = field.at("content").string(),
          .special = special,
          .single_word = field.boolean_or("single_word", false),
          .lstrip = field.boolean_or("lstrip", false),
          .rstrip = field.boolean_or("rstrip", false),
          .normalized = field.boolean_or("normalized", !special)};
}

AddedTokens::AddedTokens(const std::vector<AddedToken>& tokens, const Vocabulary& model,
                         const Normalizer* normalizer) {
  MatchScratch scratch;
  // As in the library, the number of spellings and not the highest id.
  auto next_id = static_cast<std::int32_t>(model.size());
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) continue;
    auto id = find(token.content);
    if (!id) id = model.find(token.content);
    if (!id) id = next_id++;
    ids_[token.content] = *id;
    if (token.special) special_[token.content] = true;
    Entry entry{token, token.content};
    if (token.normalized && normalizer != nullptr) normalizer->apply(entry.normalized, scratch);
    entries_[*id] = std::move(entry);
    id_end_ = std::max<std::int64_t>(id_end_, *id + 1);
  }
  std::vector<std::pair<std::string_view, std::int32_t>> plain;
  std::vector<std::pair<std::string_view, std::int32_t>> normalized;
  for (const auto& [id, entry] : entries_) {
    (entry.token.normalized ? normalized : plain).emplace_back(entry.normalized, id);
    if (entry.token.single_word && !word_)
      word_.emplace(R"(\A[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d}])", "single_word");
  }
  plain_ = ByteTrie(std::move(plain));
  normalized_ = ByteTrie(std::move(normalized));
}

SplitText AddedTokens::split(std::string_view text, const Normalizer* normalizer,
                             MatchScratch& scratch) const {
  std::vector<Piece> raw;
  find(text, plain_, 0, scratch, raw);
  SplitText split;
  for (const Piece& piece : raw) {
    if (!piece.is_text()) {
      split.pieces.push_back({split.text.size(), split.text.size(), piece.token});
      continue;
    }
    std::string part(text.substr(piece.begin, piece.end - piece.begin));
    const bool first_stays = normalizer == nullptr || normalizer->apply(part, scratch);
    const std::size_t first = split.pieces.size();
    find(part, normalized_, split.text.size(), scratch, split.pieces);
    if (piece.begin == 0 && first_stays && first < split.pieces.size()) {
      Piece& start = split.pieces[first];
      start.at_text_start = start.begin == split.text.size();
    }
    split.text += part;
  }
  return split;
}

void AddedTokens::find(std::string_view text, const ByteTrie& trie, std::size_t base, MatchScratch& scratch,
                       std::vector<Piece>& pieces) const {
  const auto append = [&](std::size_t begin, std::size_t end, std::int32_t token) {
    pieces.push_back({base + begin, base + end, token});
  };
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size() && !trie.empty();) {
    std::size_t length = 0;
    std::int32_t id = -1;
    trie.for_each_prefix(text.substr(at), [&](std::size_t bytes, std::int32_t value) {
      length = bytes;
      id = value;
    });
    if (length == 0) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at += length;
    const AddedToken& token = entries_.at(id).token;
    if (token.single_word) {
      const auto word_at = [&](std::size_t position) {
        return word_->matches_at_start(text.substr(position, utf8_length(text[position])), scratch);
      };
      if (begin > 0 && word_at(previous_boundary(text, begin))) continue;
      if (end < text.size() && word_at(end)) continue;
    }
    if (token.lstrip) begin = std::max(skip_whitespace_back(text, begin), done);
    if (token.rstrip) end = skip_whitespace(text, end);
    if (done < begin) append(done, begin, -1);
    append(begin, end, id);
    done = end;
  }
  if (done < text.size()) append(done, text.size(), -1);
}

std::optional<std::int32_t> AddedTokens::find(std::string_view content) const {
  const auto entry = ids_.find(std::string(content));
  return entry == ids_.end() ? std::nullopt : std::optional(entry->second);
}

const AddedToken* AddedTokens::token(std::int32_t id) const {
  const auto entry = entries_.find(id);
  return entry == entries_.end() ? nullptr : &entry->second.token;
}

const std::string* AddedTokens::decoder_spelling(std::int32_t id) const {
  const auto entry = entries_.find(id);
  return entry == entries_.end() ? nullptr : &entry->second.normalized;
}

bool AddedTokens::is_special(std::string_view spelling) const {
  return special_.contains(std::string(spelling));
}

}  // namespace swiftprune::text
