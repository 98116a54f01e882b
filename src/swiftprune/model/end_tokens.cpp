#include "swiftprune/model/end_tokens.h"

#include <algorithm>
#include <filesystem>
#include <string>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

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

std::vector<std::int32_t> named_ids(const Model& model) {
  const std::filesystem::path& folder = model.checkpoint().folder();
  const std::filesystem::path generation = folder / "generation_config.json";
  if (std::filesystem::is_regular_file(generation)) {
    auto ids = ids_of(read_json_file(generation), generation.string());
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

}  // namespace swiftprune
