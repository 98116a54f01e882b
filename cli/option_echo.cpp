#include "option_echo.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace swiftprune::cli {
namespace {

using Json = nlohmann::ordered_json;

bool is_flag(const CLI::Option& option) { return option.get_items_expected_max() == 0; }

bool takes_many(const CLI::Option& option) {
  return option.get_expected_max() == CLI::detail::expected_max_vector_size || option.get_expected_max() > 1;
}

// "--out"; "MODEL" of a positional argument.
std::string long_name(const CLI::Option& option) {
  if (option.get_positional()) return option.get_name(true);
  return option.get_lnames().empty() ? "-" + option.get_snames().front() : "--" + option.get_lnames().front();
}

// All but --help.
std::vector<const CLI::Option*> options_of(const CLI::App& command) {
  return command.get_options([&](const CLI::Option* option) { return option != command.get_help_ptr(); });
}

// What the parser takes from the flag's bare name; "false" of --no-tune.
std::string flag_result(const CLI::Option& option) { return option.get_flag_value(plain_name(option), "{}"); }

// A flag may be given a value (--json=false).
std::string flag_argument(const CLI::Option& option, const std::string& result) {
  const std::string name = long_name(option);
  if (flag_result(option) == result) return name;
  for (const char* value : {"true", "false"}) {
    if (option.get_flag_value(plain_name(option), value) == result) return name + "=" + value;
  }
  return name + "=" + result;
}

// Positional arguments are paths: ./-x is -x and cannot be taken for an option.
std::string positional_argument(const std::string& path) {
  return path.starts_with('-') ? "./" + path : path;
}

}  // namespace

std::string plain_name(const CLI::Option& option) {
  const std::string name = long_name(option);
  return name.substr(name.find_first_not_of('-'));
}

void append_option(const CLI::Option& option, const std::vector<std::string>& results,
                   std::vector<std::string>& arguments) {
  if (option.get_positional()) {
    for (const std::string& path : results) arguments.push_back(positional_argument(path));
    return;
  }
  if (is_flag(option)) {
    for (const std::string& result : results) arguments.push_back(flag_argument(option, result));
    return;
  }
  const std::string name = long_name(option);
  const auto size = static_cast<std::size_t>(std::max(1, option.get_type_size()));
  for (std::size_t i = 0; i < results.size(); i += size) {
    if (size == 1 && results[i].starts_with('-')) {
      arguments.push_back(name + "=" + results[i]);
      continue;
    }
    arguments.push_back(name);
    for (std::size_t k = i; k < std::min(i + size, results.size()); ++k) arguments.push_back(results[k]);
  }
}

namespace {

Json value_of(const CLI::Option& option, const std::string& text) {
  const std::string type = option.get_type_name();
  const bool number = type.starts_with("INT") || type.starts_with("UINT") || type.starts_with("FLOAT");
  const char* const end = text.data() + text.size();
  std::int64_t whole = 0;
  if (const auto read = std::from_chars(text.data(), end, whole);
      number && read.ec == std::errc() && read.ptr == end) {
    return type.starts_with("FLOAT") ? Json(static_cast<double>(whole)) : Json(whole);
  }
  double value = 0.0;
  if (const auto read = std::from_chars(text.data(), end, value);
      number && read.ec == std::errc() && read.ptr == end && std::isfinite(value)) {
    return value;
  }
  return text;
}

// "[a,b]", as the parser writes the default of a list.
std::vector<std::string> default_list(std::string text) {
  if (text.size() >= 2 && text.front() == '[' && text.back() == ']') text = text.substr(1, text.size() - 2);
  return text.empty() ? std::vector<std::string>{} : CLI::detail::split(text, ',');
}

Json value_of(const CLI::Option& option) {
  const bool given = option.count() > 0;
  if (is_flag(option)) return given && option.results().back() == flag_result(option);
  if (takes_many(option)) {
    Json list = Json::array();
    for (const std::string& text : given ? option.results() : default_list(option.get_default_str())) {
      list.push_back(value_of(option, text));
    }
    return list;
  }
  if (given) return value_of(option, option.results().back());
  return option.get_default_str().empty() ? Json() : value_of(option, option.get_default_str());
}

}  // namespace

std::vector<std::string> repeat_arguments(const CLI::App& command) {
  std::vector<std::string> arguments = {"swiftprune", command.get_name()};
  const std::vector<const CLI::Option*> options = options_of(command);
  for (const bool positional : {true, false}) {
    for (const CLI::Option* option : options) {
      const bool origin = std::ranges::find(kOriginOptions, long_name(*option)) != std::end(kOriginOptions);
      if (option->get_positional() == positional && !origin)
        append_option(*option, option->results(), arguments);
    }
  }
  return arguments;
}

std::vector<std::string> repeat_options(const CLI::App& command,
                                        std::initializer_list<std::string_view> names) {
  std::vector<std::string> arguments;
  for (const std::string_view name : names) {
    const CLI::Option& option = *command.get_option(std::string(name));
    append_option(option, option.results(), arguments);
  }
  return arguments;
}

Json option_values(const CLI::App& command) {
  Json values = Json::object();
  for (const CLI::Option* option : options_of(command)) values[plain_name(*option)] = value_of(*option);
  return values;
}

Json byte_options(const CLI::App& command) {
  Json values = option_values(command);
  for (const std::string_view name : kByteNeutralOptions) values.erase(std::string(name.substr(2)));
  return values;
}

Json command_record(const CLI::App& command) {
  return {{"arguments", repeat_arguments(command)}, {"options", option_values(command)}};
}

}  // namespace swiftprune::cli
