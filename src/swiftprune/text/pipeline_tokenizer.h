// A tokenizer as a chain of parts, as tokenizer.json describes it: added tokens, normalizer, pre-tokenizer,
// model, special tokens around; and a decoder for the way back.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "swiftprune/text/added_tokens.h"
#include "swiftprune/text/decoders.h"
#include "swiftprune/text/model.h"
#include "swiftprune/text/normalizers.h"
#include "swiftprune/text/post_processors.h"
#include "swiftprune/text/pre_tokenizers.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune::text {

struct TokenizerParts {
  std::unique_ptr<Normalizer> normalizer;       // may be null
  std::unique_ptr<PreTokenizer> pre_tokenizer;  // may be null
  std::unique_ptr<TokenModel> model;
  std::unique_ptr<Decoder> decoder;  // null: spellings with spaces between them
  AddedTokens added;
  SpecialFrame frame;
  std::optional<std::int32_t> bos, eos;
  std::string fingerprint;
};

// Safe to use from several threads at once.
class PipelineTokenizer : public Tokenizer {
 public:
  explicit PipelineTokenizer(TokenizerParts parts) : parts_(std::move(parts)) {}

  std::vector<std::int32_t> encode(std::string_view text, bool add_special) const override;
  std::string decode(std::span<const std::int32_t> ids, bool skip_special) const override;
  std::int64_t vocab_size() const override;
  std::string token(std::int32_t id) const override;
  std::optional<std::int32_t> id_of(std::string_view token) const override;
  std::optional<std::int32_t> bos() const override { return parts_.bos; }
  std::optional<std::int32_t> eos() const override { return parts_.eos; }
  std::string fingerprint() const override { return parts_.fingerprint; }

 private:
  struct Scratch {
    MatchScratch match;
    ModelScratch model;
  };
  class Lease;  // takes a Scratch that no other thread uses and gives it back

  TokenizerParts parts_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> free_;
};

// Error{kBadInput} with the position when text is not UTF-8 or too long to handle.
void check_text(std::string_view text);

}  // namespace swiftprune::text
