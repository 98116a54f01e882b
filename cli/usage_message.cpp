#include "usage_message.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "option_table.h"
#include "shell_files.h"
#include "suggestions.h"

namespace swiftprune::cli {
namespace {

// What other programs call it.
constexpr std::array kOtherNames = {std::pair{"run", "generate"},    std::pair{"convert", "export"},
                                    std::pair{"info", "inspect"},    std::pair{"perplexity", "eval"},
                                    std::pair{"sparsify", "prune"},  std::pair{"merge", "unpack"},
                                    std::pair{"distill", "recover"}, std::pair{"finetune", "recover"}};

std::vector<std::string> long_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_group().empty()) continue;
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

bool has_name(const CLI::App& command, const std::string& name) {
  return command.get_option_no_throw(name) != nullptr;
}

// The end of a message: "; did you mean prune? `swiftprune help` lists them", without a question where nothing is near.
std::string question(const std::string& name, const std::string& then) {
  return name.empty() ? "; " + then : fmt::format("; did you mean {}? {}", name, then);
}

// The nearest by letters, or the one that the name begins or continues: --output, --calib.
std::string meant(const std::string& name, const std::vector<std::string>& names) {
  if (std::string near = nearest(name, names); !near.empty()) return near;
  constexpr std::size_t kTelling = 4;  // letters, dashes included
  for (const std::string& other : names) {
    if (std::min(name.size(), other.size()) >= kTelling &&
        (name.starts_with(other) || other.starts_with(name)))
      return other;
  }
  return "";
}

std::string unknown_command(const CLI::App& program, const std::vector<std::string>& arguments) {
  const std::string& found = arguments.front();
  const auto command = std::ranges::find_if(
      arguments, [&](const std::string& word) { return find_command(program, word) != nullptr; });
  if (command != arguments.end())
    return fmt::format("found '{}', expected the command first: swiftprune {} {} ...", found, *command,
                       found);
  if (found.starts_with('-')) {
    return fmt::format("{}: no such option{}", found,
                       question(meant(found, long_names(program)), "`swiftprune help` lists commands"));
  }
  std::vector<std::string> names;
  for (const CLI::App* other : commands_of(program)) names.push_back(other->get_name());
  std::string near = meant(found, names);
  for (const auto& [other, ours] : kOtherNames) {
    if (near.empty() && found == other) near = ours;
  }
  return fmt::format("'{}': no such command{}", found, question(near, "`swiftprune help` lists them"));
}

// "--sparcity", "-out"; "" where all are known. Numbers are values.
std::string first_unknown_option(const CLI::App& command, const std::vector<std::string>& arguments) {
  for (const std::string& argument : arguments) {
    if (argument == "--") break;
    if (argument.size() < 2 || argument.front() != '-') continue;
    const std::string name = argument.substr(0, argument.find('='));
    if (name.starts_with("--")) {
      if (!has_name(command, name)) return name;
      continue;
    }
    if (std::isdigit(static_cast<unsigned char>(name[1])) != 0 || name[1] == '.') continue;
    if (!has_name(command, name.substr(0, 2)) || (name.size() > 2 && has_name(command, "-" + name)))
      return name;
  }
  return "";
}

std::string unknown_option(const CLI::App& program, const CLI::App& command, const std::string& name) {
  const std::string help = fmt::format("`swiftprune help {}` lists them", command.get_name());
  const std::string plain = name.substr(name.find_first_not_of('-'));
  for (const CLI::Option* option : command.get_options()) {
    const std::string positional = option->get_positional() ? option->get_name(true) : "";
    std::string lower = positional;
    std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
    if (!lower.empty() && lower == plain) {
      return fmt::format("{}: no such option of {}; expected {} without a name: swiftprune {} {} ...", name,
                         command.get_name(), positional, command.get_name(), positional);
    }
  }
  const std::string dashed = "--" + plain;
  const std::string near = has_name(command, dashed) ? dashed : meant(dashed, long_names(command));
  std::vector<std::string> others;
  for (const CLI::App* other : commands_of(program)) {
    if (has_name(*other, name)) others.push_back(other->get_name());
  }
  constexpr std::size_t kFew = 6;
  const bool elsewhere = near.empty() && !others.empty() && others.size() <= kFew;
  return fmt::format("{}: no such option of {}{}{}", name, command.get_name(),
                     elsewhere ? fmt::format(", but of {}", fmt::join(others, ", ")) : "",
                     question(near, help));
}

// The option that a value without a name was likely meant for, by its kind.
std::string option_for(const CLI::App& command, const std::string& value) {
  const std::string extension = std::filesystem::path(value).extension().string();
  const auto first = [&](std::initializer_list<const char*> names) -> std::string {
    for (const char* name : names) {
      if (has_name(command, name)) return name;
    }
    return "";
  };
  if (extension == ".gguf") return first({"--gguf", "--out"});
  if (extension == ".html") return first({"--report"});
  for (const char* text : {".txt", ".jsonl", ".json", ".gz", ".zst", ".u16", ".u32"}) {
    if (extension == text) return first({"--text", "--calibration"});
  }
  if (const CLI::Option* out = command.get_option_no_throw("--out"); out != nullptr && out->count() == 0)
    return "--out";
  return first({"--prompt"});
}

// "found 'pruned' without an option; did you mean --out pruned?"
std::string leftover(const CLI::App& command) {
  const std::vector<std::string> left = command.remaining();
  if (left.empty()) return "";
  const std::string option = option_for(command, left.front());
  if (option.empty()) return fmt::format("found '{}', expected no argument", left.front());
  return fmt::format("found '{0}' without an option; did you mean {1} {0}?", left.front(), option);
}

// The first command of its help's examples.
std::string example(const CLI::App& command) {
  const std::string footer = command.get_footer();
  const std::size_t start = footer.find("swiftprune " + command.get_name());
  if (start == std::string::npos) return fmt::format("`swiftprune help {}` tells more", command.get_name());
  std::string line = footer.substr(start, footer.find('\n', start) - start);
  line = line.substr(0, line.find(" && "));
  if (line.find('(') == std::string::npos) line = line.substr(0, line.find(')'));  // of <(swiftprune ...)
  return "for example: " + line;
}

std::string missing_options(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    if (!option->get_required() || option->count() > 0) continue;
    names.push_back(option->get_positional() ? option->get_name(true) : "--" + option->get_lnames().front());
  }
  if (names.empty()) return "";
  const std::string left = leftover(command);
  return fmt::format("{}: {} {} missing; {}", command.get_name(), fmt::join(names, " and "),
                     names.size() == 1 ? "is" : "are", left.empty() ? example(command) : left);
}

// "--text: 1 required TEXT missing", "--seqlen: At most 1 required but received 2"
std::string missing_value(const CLI::App& command, const std::string& what) {
  const std::string name = what.substr(0, what.find(':'));
  const CLI::Option* option = command.get_option_no_throw(name);
  if (option == nullptr) return what;
  const int values = option->get_type_size();
  if (values == 1 && option->count() > 1)
    return fmt::format("{}: found {} times, expected it once", name, option->count());
  const std::string_view type = type_of(*option);
  return fmt::format("{}: found {}, expected {}", name, values > 1 ? "too few values" : "nothing",
                     values > 1       ? fmt::format("{} values", values)
                     : type == "text" ? "a value behind it"
                     : type == "flag" ? "no value"
                                      : "a number behind it");
}

}  // namespace

std::vector<std::string> with_help_words(const CLI::App& program, std::vector<std::string> arguments) {
  if (arguments.empty()) return arguments;
  if (arguments.front() == "help") {
    arguments.erase(arguments.begin());
    if (!arguments.empty() && find_command(program, arguments.front()) == nullptr)
      return arguments;  // is told
    if (arguments.size() > 1) arguments.resize(1);
    arguments.emplace_back("--help");
  } else if (arguments.front() == "version") {
    arguments.front() = "--version";
  } else if (arguments.size() == 2 && arguments.back() == "help" &&
             find_command(program, arguments.front()) != nullptr) {
    arguments.back() = "--help";
  }
  return arguments;
}

std::string usage_message(const CLI::App& program, const std::vector<std::string>& arguments,
                          const CLI::ParseError& error) {
  if (arguments.empty()) return "found no command, expected one of those above";
  const CLI::App* command = find_command(program, arguments.front());
  if (command == nullptr) return unknown_command(program, arguments);
  // Of what is wrong the name comes first: what is missing stands behind it, as a rule.
  if (const std::string name = first_unknown_option(*command, arguments); !name.empty())
    return unknown_option(program, *command, name);
  if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr) {
    if (std::string message = missing_options(*command); !message.empty()) return message;
  }
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    if (const std::string left = leftover(*command); !left.empty())
      return fmt::format("{}: {}", command->get_name(), left);
  }
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr)
    return missing_value(*command, error.what());
  return error.what();
}

}  // namespace swiftprune::cli
