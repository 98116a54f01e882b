// What stands beside a tokenizer's own file: tokenizer_config.json, special_tokens_map.json and
// generation_config.json, as far as they touch ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "swiftprune/core/sha256.h"
#include "swiftprune/text/added_tokens.h"

namespace swiftprune::text {

struct TokenizerConfig {
  bool present = false;  // any of the files was there
  std::optional<std::string> bos_token, eos_token;
  std::optional<std::int32_t> bos_id, eos_id;  // of generation_config.json
  std::optional<bool> add_bos_token, add_eos_token, legacy;
  // added_tokens_decoder and the named special tokens: the id the file gives (-1: none) and the token, by id.
  std::vector<std::pair<std::int32_t, AddedToken>> added_tokens;
};

// Absent files are no error. What is read also goes into `fingerprint`.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder, Sha256& fingerprint);

// The ids of the config's BOS and EOS: by token, else by id.
std::optional<std::int32_t> special_id(
    const std::optional<std::string>& token, std::optional<std::int32_t> id,
    const std::function<std::optional<std::int32_t>(std::string_view)>& id_of, std::int64_t id_end);

}  // namespace swiftprune::text
