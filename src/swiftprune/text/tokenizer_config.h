// What stands beside a tokenizer's own file: tokenizer_config.json, special_tokens_map.json,
// added_tokens.json and generation_config.json, as far as they touch ids. Which of them counts follows
// transformers 5 (PreTrainedTokenizerBase._from_pretrained).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "swiftprune/core/sha256.h"
#include "swiftprune/text/added_tokens.h"

namespace swiftprune::text {

// A special token with a name, "bos_token", and how it is spelled.
struct NamedToken {
  std::string_view name;
  std::string_view content;
};

struct TokenizerConfig {
  bool present = false;                        // any of the files was there
  std::optional<std::string> tokenizer_class;  // without "Fast" at its end
  std::optional<std::string> bos_token, eos_token;
  std::optional<std::int32_t> bos_id, eos_id;  // of generation_config.json
  std::optional<bool> add_bos_token, add_eos_token, add_prefix_space, legacy;
  // The id the file gives (-1: none) and the token, in the order in which they get ids: added_tokens_decoder,
  // else those of added_tokens.json, by id; then the named special tokens, then the extra ones.
  std::vector<std::pair<std::int32_t, AddedToken>> added_tokens;
};

// Absent files are no error. What is read also goes into `fingerprint`. defaults: what a tokenizer's class
// names where the files do not. Throws Error{kBadInput} for a field that would change ids and is not
// followed.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder, Sha256& fingerprint,
                                      std::span<const NamedToken> defaults = {});

// The ids of the config's BOS and EOS: by token, else by id.
std::optional<std::int32_t> special_id(
    const std::optional<std::string>& token, std::optional<std::int32_t> id,
    const std::function<std::optional<std::int32_t>(std::string_view)>& id_of, std::int64_t id_end);

}  // namespace swiftprune::text
