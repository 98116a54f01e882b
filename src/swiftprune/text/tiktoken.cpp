#include "swiftprune/text/tiktoken.h"

#include <algorithm>
#include <charconv>

#include "swiftprune/core/error.h"
#include "swiftprune/core/read_file.h"
#include "swiftprune/text/bpe.h"
#include "swiftprune/text/byte_level.h"
#include "swiftprune/text/pipeline_tokenizer.h"
#include "swiftprune/text/precompiled_charsmap.h"
#include "swiftprune/text/tokenizer_config.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::text {
namespace {

// What a family's code knows and its rank file does not say.
struct Family {
  std::string_view name;
  std::int64_t num_ranks;
  std::string_view pattern;
  std::vector<std::string> (*special_tokens)();  // their ids follow the ranks
  std::string_view bos, eos;
};

// meta-llama/llama-models, models/llama3/tokenizer.py.
std::vector<std::string> llama3_special_tokens() {
  constexpr int kReserved = 256;
  std::vector<std::string> tokens = {"<|begin_of_text|>",
                                     "<|end_of_text|>",
                                     "<|reserved_special_token_0|>",
                                     "<|reserved_special_token_1|>",
                                     "<|finetune_right_pad_id|>",
                                     "<|step_id|>",
                                     "<|start_header_id|>",
                                     "<|end_header_id|>",
                                     "<|eom_id|>",
                                     "<|eot_id|>",
                                     "<|python_tag|>",
                                     "<|image|>"};
  for (int i = 2; tokens.size() < kReserved; ++i)
    tokens.push_back(fmt::format("<|reserved_special_token_{}|>", i));
  return tokens;
}

constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const Family kFamilies[] = {
    {"Llama-3", 128000, kLlama3Pattern, llama3_special_tokens, "<|begin_of_text|>", "<|end_of_text|>"},
};

const Family& family_of(std::int64_t num_ranks, const std::string& file) {
  std::string known;
  for (const Family& family : kFamilies) {
    if (family.num_ranks == num_ranks) return family;
    known += fmt::format("{}{} ({})", known.empty() ? "" : ", ", family.num_ranks, family.name);
  }
  bad_input("{}: found a rank file of {} tokens, expected one of {}; tokenizer.json works for any model",
            file, num_ranks, known);
}

// Spellings (in the byte alphabet) in the order of their ranks.
std::vector<std::string> read_ranks(std::string_view bytes, const std::string& file) {
  std::vector<std::string> tokens;
  std::vector<bool> used;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\n', begin), bytes.size());
    std::string_view line = bytes.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const std::size_t space = line.find(' ');
    const auto token = base64_decoded(line.substr(0, space));
    std::int64_t rank = -1;
    if (space != std::string_view::npos) {
      const char* last = line.data() + line.size();
      const auto [stop, error] = std::from_chars(line.data() + space + 1, last, rank);
      if (error != std::errc() || stop != last) rank = -1;
    }
    if (!token || token->empty() || rank < 0 || rank > Vocabulary::kMaxId) {
      bad_input("{}: line {}: found \"{}\", expected a token in base64 and its rank", file, number,
                replace_invalid_utf8(line.substr(0, 60)));
    }
    const auto at = static_cast<std::size_t>(rank);
    if (at >= tokens.size()) {
      tokens.resize(at + 1);
      used.resize(at + 1);
    }
    if (used[at]) bad_input("{}: line {}: found the rank {} a second time", file, number, rank);
    used[at] = true;
    append_byte_level(tokens[at], *token);
  }
  const auto gap = std::find(used.begin(), used.end(), false);
  if (gap != used.end())
    bad_input("{}: the rank {} is missing; the file is incomplete", file, gap - used.begin());
  return tokens;
}

// tiktoken merges the neighbours whose joint bytes have the lowest rank: every way to cut a token in two
// tokens is a merge with the token's rank.
std::vector<Merge> all_merges(const Vocabulary& vocabulary) {
  std::vector<Merge> merges;
  for (std::int32_t id = 0; id < vocabulary.id_end(); ++id) {
    const std::string_view token = vocabulary.token(id);
    for (std::size_t cut = utf8_length(token[0]); cut < token.size(); cut += utf8_length(token[cut])) {
      const auto left = vocabulary.find(token.substr(0, cut));
      const auto right = left ? vocabulary.find(token.substr(cut)) : std::nullopt;
      if (right) merges.push_back({*left, *right, id, id});
    }
  }
  return merges;
}

}  // namespace

bool looks_like_tiktoken(std::string_view bytes) {
  const std::string_view line = bytes.substr(0, std::min(bytes.find('\n'), bytes.size()));
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == line.size()) return false;
  const std::string_view rank = line.substr(space + 1);
  return base64_decoded(line.substr(0, space)).has_value() &&
         std::all_of(rank.begin(), rank.end(), [](char c) { return (c >= '0' && c <= '9') || c == '\r'; });
}

std::unique_ptr<Tokenizer> open_tiktoken(const std::filesystem::path& file) {
  const std::string bytes = file_bytes(file);
  Sha256 hash;
  hash.update(bytes);
  const TokenizerConfig config = read_tokenizer_config(file.parent_path(), hash);
  Vocabulary vocabulary(read_ranks(bytes, file.string()));
  const Family& family = family_of(vocabulary.id_end(), file.string());
  if (vocabulary.size() != vocabulary.id_end()) bad_input("{}: a token has two ranks", file.string());

  std::vector<AddedToken> special;
  if (config.added_tokens.empty()) {
    for (std::string& token : family.special_tokens()) {
      special.push_back({.content = std::move(token), .special = true, .normalized = false});
    }
  }
  for (const auto& [id, token] : config.added_tokens) special.push_back(token);

  TokenizerParts parts;
  parts.pre_tokenizer = make_tiktoken_pre_tokenizer(family.pattern);
  parts.decoder = make_byte_level_decoder();
  const std::vector<Merge> merges = all_merges(vocabulary);
  parts.model =
      std::make_unique<Bpe>(std::move(vocabulary), merges, BpeOptions{.ignore_merges = true}, file.string());
  parts.added = AddedTokens(special, parts.model->vocabulary(), nullptr);
  const auto id_of = [&](std::string_view token) { return parts.added.find(token); };
  parts.bos = special_id(config.bos_token.value_or(std::string(family.bos)), config.bos_id, id_of,
                         parts.added.id_end());
  parts.eos = special_id(config.eos_token.value_or(std::string(family.eos)), config.eos_id, id_of,
                         parts.added.id_end());
  if (parts.bos && config.add_bos_token.value_or(true)) parts.frame.before = {*parts.bos};
  if (parts.eos && config.add_eos_token.value_or(false)) parts.frame.after = {*parts.eos};
  parts.fingerprint = "sha256:" + hash.hex_digest();
  return std::make_unique<PipelineTokenizer>(std::move(parts));
}

}  // namespace swiftprune::text
