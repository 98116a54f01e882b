#include "swiftprune/text/word_models.h"

#include <algorithm>

#include "swiftprune/text/unicode.h"

namespace swiftprune::text {
namespace {

std::int32_t unknown_id(const JsonField& field, const Vocabulary& vocabulary) {
  const JsonField token = field.at("unk_token");
  const auto id = vocabulary.find(token.string());
  if (!id) token.unexpected("a token that model.vocab holds");
  return *id;
}

}  // namespace

WordLevel::WordLevel(const JsonField& field)
    : TokenModel(Vocabulary(field.at("vocab"))), unknown_id_(unknown_id(field, vocabulary_)) {}

std::unique_ptr<TokenModel> WordLevel::from_json(const JsonField& field) {
  return std::unique_ptr<TokenModel>(new WordLevel(field));
}

void WordLevel::encode(std::string_view piece, ModelScratch&, std::vector<std::int32_t>& ids) const {
  ids.push_back(vocabulary_.find(piece).value_or(unknown_id_));
}

WordPiece::WordPiece(const JsonField& field)
    : TokenModel(Vocabulary(field.at("vocab"))),
      unknown_id_(unknown_id(field, vocabulary_)),
      prefix_(field.at("continuing_subword_prefix").string()),
      max_code_points_(field.at("max_input_chars_per_word").integer(0, INT32_MAX)) {}

std::unique_ptr<TokenModel> WordPiece::from_json(const JsonField& field) {
  return std::unique_ptr<TokenModel>(new WordPiece(field));
}

void WordPiece::encode(std::string_view piece, ModelScratch&, std::vector<std::int32_t>& ids) const {
  const auto code_points = std::count_if(
      piece.begin(), piece.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
  if (code_points > max_code_points_) return ids.push_back(unknown_id_);
  const std::size_t before = ids.size();
  for (std::size_t begin = 0; begin < piece.size();) {
    std::size_t end = piece.size();
    std::optional<std::int32_t> id;
    while (end > begin) {
      const std::string_view part = piece.substr(begin, end - begin);
      id = begin == 0 ? vocabulary_.find(part) : vocabulary_.find(prefix_ + std::string(part));
      if (id) break;
      end = previous_boundary(piece, end);
    }
    if (!id) {  // one unknown part makes the whole word unknown
      ids.resize(before);
      return ids.push_back(unknown_id_);
    }
    ids.push_back(*id);
    begin = end;
  }
}

}  // namespace swiftprune::text
