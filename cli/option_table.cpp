#include "option_table.h"

#include "option_echo.h"
#include "shell_files.h"

namespace swiftprune::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string name_of(const CLI::Option& option) {
  if (option.get_positional()) return option.get_name(true);
  return option.get_lnames().empty() ? option.get_snames().front() : option.get_lnames().front();
}

Json describe(const CLI::Option& option, const Json& defaults) {
  const std::string name = name_of(option);
  return {{"name", name},
          {"positional", option.get_positional()},
          {"required", option.get_required()},
          {"type", type_of(option)},
          {"many", option.get_expected_max() > 1},
          {"values_each", option.get_type_size()},
          {"values", values_of(option)},
          {"default", defaults.at(name)},
          {"description", option.get_description()}};
}

}  // namespace

std::string_view type_of(const CLI::Option& option) {
  if (option.get_items_expected_max() == 0) return "flag";
  const std::string type = option.get_type_name();
  if (type.starts_with("INT") || type.starts_with("UINT")) return "int";
  return type.starts_with("FLOAT") ? "float" : "text";
}

Json option_table(const CLI::App& program) {
  Json table = Json::array();
  for (const CLI::App* command : commands_of(program)) {
    const Json defaults = option_values(*command);
    Json options = Json::array();
    for (const CLI::Option* option : command->get_options()) {
      if (option != command->get_help_ptr() && !option->get_group().empty())
        options.push_back(describe(*option, defaults));
    }
    table.push_back({{"name", command->get_name()},
                     {"description", command->get_description()},
                     {"notes", command->get_footer()},
                     {"options", options}});
  }
  return table;
}

}  // namespace swiftprune::cli
