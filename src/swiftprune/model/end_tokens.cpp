#include "swiftprune/model/end_tokens.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/config_fields.h"

namespace swiftprune {
namespace {

constexpr const char* kField = "eos_token_id";

void add_id(const nlohmann::json& id, const std::string& file, std::vector<std::int32_t>& ids) {
  if (!id.is_number_integer() || id < 0 || id > INT32_MAX) {
    bad_input("{}: {}: found {}, expected a token's id or a list of them", file, kField,
              id.dump().substr(0, 64));
  }
  ids.push_back(id.get<std::int32_t>());
}

// One id or a list of them; nothing when absent or null.
std::vector<std::int32_t> ids_of(const nlohmann::json& document, const std::string& file) {
  std::vector<std::int32_t> ids;
  const auto found = document.is_object() ? document.find(kField) : document.end();
  if (!document.is_object() || found == document.end() || found->is_null()) return ids;
  if (!found->is_array()) {
    add_id(*found, file, ids);
  } else {
    for (const nlohmann::json& id : *found) add_id(id, file, ids);
  }
  return ids;
}

std::filesystem::path generation_file(const Model& model) {
  return model.checkpoint().folder() / "generation_config.json";
}
std::optional<nlohmann::json> generation_config(const Model& model) {
  const std::filesystem::path file = generation_file(model);
  return std::filesystem::is_regular_file(file) ? std::optional(read_json_file(file)) : std::nullopt;
}

// What changes the text when it holds none of these values (as JSON, separated by spaces).
constexpr NeutralField kAlways[] = {{"repetition_penalty", "1 1.0"},
                                    {"encoder_repetition_penalty", "1 1.0"},
                                    {"no_repeat_ngram_size", "0"},
                                    {"bad_words_ids", "[]"},
                                    {"force_words_ids", "[]"},
                                    {"sequence_bias", "{} []"},
                                    {"suppress_tokens", "[]"},
                                    {"begin_suppress_tokens", "[]"},
                                    {"forced_bos_token_id", ""},
                                    {"forced_eos_token_id", ""},
                                    {"forced_decoder_ids", "[]"},
                                    {"exponential_decay_length_penalty", ""},
                                    {"min_length", "0"},
                                    {"min_new_tokens", "0"},
                                    {"num_beams", "1"},
                                    {"guidance_scale", "1 1.0"},
                                    {"penalty_alpha", "0 0.0"},
                                    {"stop_strings", "[]"}};
constexpr NeutralField kSampling[] = {{"temperature", "1 1.0"}, {"top_k", "0"},
                                      {"top_p", "1 1.0"},       {"min_p", "0 0.0"},
                                      {"typical_p", "1 1.0"},   {"epsilon_cutoff", "0 0.0"},
                                      {"eta_cutoff", "0 0.0"},  {"top_h", "1 1.0"}};

std::string fields_note(const Model& model) {
  const auto generation = generation_config(model);
  const nlohmann::json& document = generation ? *generation : model.checkpoint().config();
  if (!document.is_object()) return "";
  std::vector<std::string> found;
  const auto look = [&](const NeutralField& field) {
    const auto at = document.find(field.name);
    if (at != document.end() && !at->is_null() && !is_in_list(at->dump(), field.values))
      found.push_back(fmt::format("{} {}", field.name, json_excerpt(*at, 40)));
  };
  for (const NeutralField& field : kAlways) look(field);
  if (document.value("do_sample", nlohmann::json()) == true) {
    for (const NeutralField& field : kSampling) look(field);
  }
  if (found.empty()) return "";
  return fmt::format("{}: left aside: {}; texts are written as options and requests say",
                     generation ? "generation_config.json" : "config.json", fmt::join(found, ", "));
}

std::vector<std::int32_t> named_ids(const Model& model) {
  const std::filesystem::path& folder = model.checkpoint().folder();
  if (const auto generation = generation_config(model)) {
    auto ids = ids_of(*generation, generation_file(model).string());
    if (!ids.empty()) return ids;
  }
  const std::string config = (folder / "config.json").string();
  const nlohmann::json& document = model.checkpoint().config();
  auto ids = ids_of(document, config);
  if (ids.empty() && document.contains("text_config")) ids = ids_of(document["text_config"], config);
  return ids;
}

}  // namespace

std::vector<std::int32_t> end_tokens(const Model& model, const Tokenizer& tokenizer) {
  std::vector<std::int32_t> ids = named_ids(model);
  if (ids.empty() && tokenizer.eos()) ids.push_back(*tokenizer.eos());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

std::vector<std::string> generation_notes(const Model& model, std::int64_t positions) {
  std::vector<std::string> notes;
  if (std::string note = fields_note(model); !note.empty()) notes.push_back(std::move(note));
  for (const RopeConfig& rope : model.config().ropes) {
    if (rope.long_inverse_frequency.empty() || positions <= rope.long_from) continue;
    notes.push_back(
        fmt::format("rope_scaling: with up to {} positions the long factors count for every text; "
                    "transformers takes them for texts "
                    "beyond {} tokens alone, and so does this with limits of {} together",
                    positions, rope.long_from, rope.long_from));
  }
  return notes;
}

}  // namespace swiftprune
