// A text to evaluate on, as token ids of one model: own text through the model's tokenizer, or ids that were
// made elsewhere.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/text/tokenizer.h"

namespace swiftprune {

struct EvaluationText {
  std::string name;                       // the file
  std::vector<std::int32_t> ids;          // without special tokens
  std::optional<double> bytes_per_token;  // of UTF-8 text; nothing when there is no tokenizer to tell
  std::vector<std::string> notes = {};    // of its reading (corpus.h)
};

// .u16 and .u32 hold token ids, everything else text (corpus.h), whose documents are joined by blank lines.
bool holds_token_ids(const std::filesystem::path& file);
// tokenizer may be null for token ids. Throws Error{kBadInput} naming the file for an empty text, bytes that
// are not UTF-8, ids outside the vocabulary, and a line of .jsonl without the field.
EvaluationText read_evaluation_text(const std::filesystem::path& file, const std::string& field,
                                    const Tokenizer* tokenizer, std::int64_t vocab_size);

}  // namespace swiftprune
