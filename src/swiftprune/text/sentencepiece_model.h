// What a SentencePiece model file (a protocol buffer, sentencepiece_model.proto) says beside its pieces. The
// library itself does not tell, and takes a truncated file for a shorter one in places.
#pragma once

#include <string>
#include <string_view>

namespace swiftprune::text {

struct SentencePieceSpec {
  enum class ModelType { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };
  ModelType model_type = ModelType::kUnigram;
  bool treat_whitespace_as_suffix = false;
  std::string precompiled_charsmap;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

// Error{kBadInput} when the wire format is broken or its normalisation rules are.
SentencePieceSpec read_sentencepiece_spec(std::string_view model, std::string_view file);

// The same model that puts no space before a text: a protocol buffer that states a message twice merges both.
std::string without_dummy_prefix(std::string_view model);

}  // namespace swiftprune::text
