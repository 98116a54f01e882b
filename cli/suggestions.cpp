#include "suggestions.h"

#include <algorithm>

#include <fmt/format.h>

namespace swiftprune::cli {
namespace {

std::vector<std::string> command_names(const CLI::App& program) {
  std::vector<std::string> names;
  for (const CLI::App* command : program.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  return names;
}

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_group().empty()) continue;
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::string question(const std::string& name) {
  return name.empty() ? "" : fmt::format("did you mean {}?", name);
}

}  // namespace

int edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the table are enough for swaps of two letters.
  std::vector<int> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    before = last;
    last = row;
    row[0] = static_cast<int>(i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const int differs = a[i - 1] == b[j - 1] ? 0 : 1;
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + differs});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

std::string nearest(std::string_view name, const std::vector<std::string>& names) {
  const auto distance = [name](const std::string& other) { return edit_distance(name, other); };
  const auto best = std::ranges::min_element(names, {}, distance);
  if (best == names.end() || 3 * distance(*best) > static_cast<int>(name.size())) return "";
  return *best;
}

std::string did_you_mean(const CLI::App& program, const std::vector<std::string>& arguments) {
  if (arguments.empty()) return "";
  const std::vector<std::string> commands = command_names(program);
  if (std::ranges::find(commands, arguments.front()) == commands.end()) {
    return question(
        nearest(arguments.front(), arguments.front().starts_with('-') ? option_names(program) : commands));
  }
  const CLI::App* command = program.get_subcommand(arguments.front());
  const std::vector<std::string> options = option_names(*command);
  for (const std::string& argument : arguments) {
    const std::string name = argument.substr(0, argument.find('='));
    if (name.starts_with("--") && name.size() > 2 && std::ranges::find(options, name) == options.end()) {
      return question(nearest(name, options));
    }
  }
  return "";
}

}  // namespace swiftprune::cli
