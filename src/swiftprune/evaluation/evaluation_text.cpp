#include "swiftprune/evaluation/evaluation_text.h"

#include "swiftprune/core/error.h"
#include "swiftprune/text/corpus.h"

namespace swiftprune {

bool holds_token_ids(const std::filesystem::path& file) {
  return file.extension() == ".u16" || file.extension() == ".u32";
}

EvaluationText read_evaluation_text(const std::filesystem::path& file, const std::string& field,
                                    const Tokenizer* tokenizer, std::int64_t vocab_size) {
  EvaluationText text{file.string(), {}, {}};
  std::size_t num_bytes = 0;
  if (holds_token_ids(file)) {
    text.ids = read_token_ids(file, vocab_size);
    if (tokenizer != nullptr) num_bytes = tokenizer->decode(text.ids, false).size();
  } else {
    expect(tokenizer != nullptr, "read_evaluation_text: text needs a tokenizer");
    std::string joined;
    Corpus corpus = read_corpus(file, field);
    text.notes = std::move(corpus.notes);
    for (const std::string& document : corpus.documents) {
      if (!joined.empty()) joined += "\n\n";
      joined += document;
    }
    text.ids = tokenizer->encode(joined, false);
    num_bytes = joined.size();
  }
  if (text.ids.empty()) bad_input("{}: the text is empty", text.name);
  if (num_bytes > 0)
    text.bytes_per_token = static_cast<double>(num_bytes) / static_cast<double>(text.ids.size());
  return text;
}

}  // namespace swiftprune
