#include "swiftprune/text/unigram.h"

#include <algorithm>
#include <limits>

#include "swiftprune/core/error.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::text {
namespace {

constexpr double kUnknownPenalty = 10.0;  // below the lowest score, as in SentencePiece

}  // namespace

Unigram::Unigram(Vocabulary vocabulary, std::vector<double> scores, std::optional<std::int32_t> unknown_id,
                 bool byte_fallback)
    : TokenModel(std::move(vocabulary)), scores_(std::move(scores)), unknown_id_(unknown_id.value_or(-1)) {
  double lowest = std::numeric_limits<double>::infinity();
  for (const double score : scores_) lowest = std::min(lowest, score);
  unknown_score_ = lowest - kUnknownPenalty;
  if (byte_fallback) byte_ids_ = vocabulary_.byte_tokens();
  std::vector<std::pair<std::string_view, std::int32_t>> entries;
  for (const std::string& token : vocabulary_.tokens()) {
    entries.emplace_back(token, static_cast<std::int32_t>(entries.size()));
  }
  trie_ = ByteTrie(std::move(entries));
}

std::unique_ptr<TokenModel> Unigram::from_json(const JsonField& field) {
  const JsonField list = field.at("vocab");
  if (!list.json().is_array() || list.json().empty())
    list.unexpected("a list of [token, score] that is not empty");
  std::vector<std::string> tokens;
  std::vector<double> scores;
  for (const auto& item : list.json()) {
    if (!item.is_array() || item.size() != 2 || !item[0].is_string() || !item[1].is_number()) {
      JsonField(item, field.file(), fmt::format("model.vocab[{}]", tokens.size()))
          .unexpected("[token, score]");
    }
    tokens.push_back(item[0].get<std::string>());
    scores.push_back(item[1].get<double>());
  }
  std::optional<std::int32_t> unknown;
  if (const auto id = field.find("unk_id")) {
    unknown = static_cast<std::int32_t>(id->integer(0, static_cast<std::int64_t>(tokens.size()) - 1));
  }
  return std::make_unique<Unigram>(Vocabulary(std::move(tokens)), std::move(scores), unknown,
                                   field.boolean_or("byte_fallback", false));
}

void Unigram::encode(std::string_view piece, ModelScratch& scratch, std::vector<std::int32_t>& ids) const {
  if (piece.size() > WordCache::kMaxWordBytes) return encode_best(piece, ids);
  if (scratch.cache.append_ids(piece, ids)) return;
  scratch.ids.clear();
  encode_best(piece, scratch.ids);
  scratch.cache.insert(piece, scratch.ids);
  ids.insert(ids.end(), scratch.ids.begin(), scratch.ids.end());
}

// Viterbi over byte positions; a position's best way in is final when it is reached.
void Unigram::encode_best(std::string_view piece, std::vector<std::int32_t>& ids) const {
  struct Node {
    double score = 0.0;
    std::int32_t id = -1;
    std::int64_t start = -1;  // -1: not reached
  };
  std::vector<Node> best(piece.size() + 1);
  const auto offer = [&best](std::size_t start, std::size_t end, double score, std::int32_t id) {
    const double total = best[start].score + score;
    if (best[end].start < 0 || total > best[end].score) {
      best[end] = {total, id, static_cast<std::int64_t>(start)};
    }
  };
  for (std::size_t start = 0; start < piece.size();) {
    const std::size_t bytes = utf8_length(piece[start]);
    bool has_single = false;
    trie_.for_each_prefix(piece.substr(start), [&](std::size_t length, std::int32_t id) {
      offer(start, start + length, scores_[static_cast<std::size_t>(id)], id);
      has_single = has_single || length == bytes;
    });
    if (!has_single) {
      if (unknown_id_ < 0) {
        bad_input("text holds \"{}\", which the tokenizer's vocabulary lacks, and it has no unk_id",
                  piece.substr(start, bytes));
      }
      offer(start, start + bytes, unknown_score_, unknown_id_);
    }
    start += bytes;
  }
  // Neighbouring unknown tokens are one.
  std::vector<std::string_view> parts;
  bool previous_unknown = false;
  for (std::size_t end = piece.size(); end > 0;) {
    const Node& node = best[end];
    const auto start = static_cast<std::size_t>(node.start);
    const bool unknown = node.id == unknown_id_;
    if (unknown && previous_unknown)
      parts.back() = piece.substr(start, parts.back().size() + end - start);
    else
      parts.push_back(piece.substr(start, end - start));
    previous_unknown = unknown;
    end = start;
  }
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) append_token(*part, ids);
}

void Unigram::append_token(std::string_view text, std::vector<std::int32_t>& ids) const {
  if (const auto id = vocabulary_.find(text)) return ids.push_back(*id);
  const auto byte_id = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
  if (!byte_ids_.empty() && std::all_of(text.begin(), text.end(), [&](char c) { return byte_id(c) >= 0; })) {
    for (const char c : text) ids.push_back(byte_id(c));
    return;
  }
  ids.push_back(unknown_id_);
}

}  // namespace swiftprune::text
