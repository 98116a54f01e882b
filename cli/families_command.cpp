// swiftprune families: what is supported, as a table that docs/models.md repeats.
#include <algorithm>
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "command.h"
#include "swiftprune/checkpoint/gguf_architectures.h"
#include "swiftprune/checkpoint/text_tower.h"
#include "swiftprune/export/gguf_metadata.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_table.h"

namespace swiftprune::cli {
namespace {

// GGUF architectures that import as one of the family's types.
std::vector<std::string_view> imported_as(const ModelFamily& family) {
  // OLMo 3, Ministral 3 and DeepSeek-V2 share their architecture with a relative: what the file holds decides.
  constexpr std::pair<std::string_view, std::string_view> kShared[] = {
      {"olmo3", "olmo2"}, {"ministral3", "mistral3"}, {"deepseek_v2", "deepseek2"}};
  std::vector<std::string_view> names;
  for (const GgufArchitecture& architecture : gguf_architectures()) {
    const auto& types = family.model_types;
    const bool own = std::find(types.begin(), types.end(), architecture.model_type) != types.end();
    const bool shared = std::find(std::begin(kShared), std::end(kShared),
                                  std::pair(family.name, architecture.name)) != std::end(kShared);
    const bool known = std::find(names.begin(), names.end(), architecture.name) != names.end();
    if ((own || shared) && !known) names.push_back(architecture.name);
  }
  return names;
}

std::vector<std::string_view> words(std::string_view list) {
  std::vector<std::string_view> result;
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find(' ', at), list.size());
    result.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return result;
}

void print_table() {
  fmt::print(
      "| models | `model_type` | CPU | GPU | prune | shrink | GGUF in | GGUF out | chat | checked with "
      "|\n|---|---|---|---|---|---|---|---|---|---|\n");
  for (std::size_t i = 0; i < all_families().size(); ++i) {
    const ModelFamily& family = all_families()[i];
    const FamilyRow& row = family_rows()[i];
    // What is listed has a forward on the processor, linears to prune, and whatever template its folder brings.
    fmt::print("| {} | {} | yes | {} | yes | {} | {} | {} | yes | {} |\n", row.models,
               fmt::join(family.model_types, ", "), row.on_gpu ? "yes" : "no",
               fmt::join(words(row.units), ", "), fmt::join(imported_as(family), ", "),
               fmt::join(gguf_architecture_names(family.name), ", "),
               row.checked.empty() ? "tiny random models" : row.checked);
  }
  std::vector<std::string_view> towers;
  for (const TextTower& tower : text_towers()) towers.push_back(tower.model_type);
  fmt::print("\nText models of these families are found beside other parts in folders of the types {}.\n",
             fmt::join(towers, ", "));
}

nlohmann::ordered_json as_json() {
  nlohmann::ordered_json families = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < all_families().size(); ++i) {
    const ModelFamily& family = all_families()[i];
    const FamilyRow& row = family_rows()[i];
    families.push_back(
        {{"family", family.name},
         {"models", row.models},
         {"model_types", std::vector<std::string>(family.model_types.begin(), family.model_types.end())},
         {"cpu", true},
         {"gpu", row.on_gpu},
         {"prune", true},
         {"shrink", words(row.units)},
         {"gguf_in", imported_as(family)},
         {"gguf_out", gguf_architecture_names(family.name)},
         {"chat", true},
         {"checked", row.checked}});
  }
  return families;
}

}  // namespace

void declare_families(CLI::App& program) {
  auto options = std::make_shared<CommonOptions>();
  CLI::App* command = program.add_subcommand(
      "families", "The model families that are supported, and with what (docs/models.md)");
  add_common_options(*command, *options);
  command->footer("Example: swiftprune families");
  command->callback([options] {
    const RunScope job = apply(*options);
    if (options->json) {
      print_json(as_json());
    } else {
      print_table();
    }
  });
}

}  // namespace swiftprune::cli
