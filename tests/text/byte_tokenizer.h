// A tokenizer whose tokens can be told by hand.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/text/tokenizer.h"

namespace swiftprune::test {

// One token a byte, BOS 256.
class ByteTokenizer : public Tokenizer {
 public:
  explicit ByteTokenizer(bool has_bos = true) : has_bos_(has_bos) {}
  std::vector<std::int32_t> encode(std::string_view text, bool add_special) const override {
    std::vector<std::int32_t> ids;
    if (add_special && has_bos_) ids.push_back(256);
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(std::span<const std::int32_t>, bool) const override { return ""; }
  std::int64_t vocab_size() const override { return 257; }
  std::string token(std::int32_t) const override { return ""; }
  std::optional<std::int32_t> id_of(std::string_view) const override { return std::nullopt; }
  std::optional<std::int32_t> bos() const override { return has_bos_ ? std::optional(256) : std::nullopt; }
  std::optional<std::int32_t> eos() const override { return std::nullopt; }
  std::string fingerprint() const override { return ""; }

 private:
  bool has_bos_;
};

}  // namespace swiftprune::test
