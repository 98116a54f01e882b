#include "help_format.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace swiftprune::cli {
namespace {

constexpr std::size_t kWidth = 100, kColumn = 30;

// "  name      text", the text wrapped in a column of its own, below a long name.
std::string entry(const std::string& name, const std::string& text) {
  std::string line = "  " + name, result;
  if (line.size() + 2 > kColumn) {
    result = line + "\n";
    line.clear();
  }
  line.resize(kColumn, ' ');
  std::istringstream words(text);
  bool first = true;
  for (std::string word; words >> word; first = false) {
    if (!first && line.size() + 1 + word.size() > kWidth) {
      result += line + "\n";
      line.assign(kColumn, ' ');
      first = true;
    }
    line += (first ? "" : " ") + word;
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return result + line + "\n";
}

// The parser's "INT:INT in [0 - 4096]" in parts: "INT", "INT in [0 - 4096]".
std::pair<std::string, std::string> type_and_check(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  const std::size_t colon = type.find(':');
  if (colon == std::string::npos) return {type, ""};
  return {type.substr(0, colon), type.substr(colon + 1)};
}

}  // namespace

HelpFormat::HelpFormat() { column_width(kColumn); }

std::string HelpFormat::make_option(const CLI::Option* option, bool is_positional) const {
  std::string name = option->get_name(is_positional);
  if (!is_positional) {
    std::vector<std::string> names;
    for (const std::string& short_name : option->get_snames()) names.push_back("-" + short_name);
    if (!option->get_lnames().empty())
      names.push_back("--" + option->get_lnames().front());  // others: aliases
    name = fmt::format("{}", fmt::join(names, ","));
  }
  return entry(name + make_option_opts(option), make_option_desc(option));
}

// " INT=8 (0 - 4096)", " {auto,f32,bf16}=auto", " TEXT ..."
std::string HelpFormat::make_option_opts(const CLI::Option* option) const {
  if (option->get_items_expected_max() == 0) return "";
  const auto [type, check] = type_and_check(*option);
  const bool is_set = check.starts_with('{');
  std::string text = " " + (is_set ? check : type);
  if (!option->get_default_str().empty()) text += "=" + option->get_default_str();
  if (option->get_expected_max() > 1) text += " ...";
  if (option->get_required() && !option->get_positional()) text += " (required)";
  if (is_set || check.empty()) return text;
  const std::size_t open = check.find('['), close = check.find(']');
  const bool is_range = open != std::string::npos && close != std::string::npos;
  return text + " (" + (is_range ? check.substr(open + 1, close - open - 1) : check) + ")";
}

std::string HelpFormat::make_option_usage(const CLI::Option* option) const {
  const std::string name = option->get_name(true) + (option->get_expected_max() > 1 ? "..." : "");
  return option->get_required() ? name : "[" + name + "]";
}

std::string HelpFormat::make_subcommand(const CLI::App* command) const {
  return entry(command->get_display_name(true), command->get_description());
}

}  // namespace swiftprune::cli
