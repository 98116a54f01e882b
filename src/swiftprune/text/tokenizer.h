// Text to token ids and back, from the files of a Hugging Face folder (tokenizer.json, SentencePiece's
// tokenizer.model, or vocab.json with merges.txt). Ids are those of the `tokenizers` / `sentencepiece`
// libraries.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace swiftprune {

class Tokenizer {
 public:
  // folder: holds one of these (the first that is there) and, where present, the files that
  // tokenizer_config.h names; a path of a tokenizer.json or tokenizer.model works too. Throws
  // Error{kBadInput} naming the file and the field.
  static std::unique_ptr<Tokenizer> open(const std::filesystem::path& folder);
  static bool is_in(const std::filesystem::path& folder);  // whether open() would find files
  virtual ~Tokenizer() = default;

  // text: UTF-8 (invalid bytes: Error{kBadInput}). add_special: what the files' post-processor adds
  // (BOS/EOS). Special tokens written in the text are recognised, as by the library.
  virtual std::vector<std::int32_t> encode(std::string_view text, bool add_special = true) const = 0;
  virtual std::string decode(std::span<const std::int32_t> ids, bool skip_special = true) const = 0;
  virtual std::int64_t vocab_size() const = 0;           // with added tokens: highest id + 1
  virtual std::string token(std::int32_t id) const = 0;  // the token's own spelling, "" when unknown
  virtual std::optional<std::int32_t> id_of(std::string_view token) const = 0;
  virtual std::optional<std::int32_t> bos() const = 0;
  virtual std::optional<std::int32_t> eos() const = 0;
  // Hash of the files that were read, for records.
  virtual std::string fingerprint() const = 0;
};

}  // namespace swiftprune
