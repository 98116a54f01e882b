#include "config_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <utility>

#include <CLI/CLI.hpp>

#include "command.h"
#include "option_echo.h"
#include "shell_files.h"
#include "suggestions.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune::cli {
namespace {

using Results = std::vector<std::pair<const CLI::Option*, std::vector<std::string>>>;

struct ParsedWhole {};

// The program as a reader of arguments: nothing is required and nothing runs.
std::unique_ptr<CLI::App> reader() {
  auto program = make_program();
  for (CLI::App* command : program->get_subcommands([](const CLI::App*) { return true; })) {
    for (CLI::Option* option : command->get_options()) {
      option->required(false);
      const std::set<CLI::Option*> needs = option->get_needs();
      for (CLI::Option* needed : needs) option->remove_needs(needed);
    }
  }
  program->parse_complete_callback([] { throw ParsedWhole(); });
  return program;
}

// The command that they are of; throws CLI::ParseError.
const CLI::App* read_into(CLI::App& program, const std::vector<std::string>& arguments) {
  try {
    program.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const ParsedWhole&) {
  }
  const auto commands = program.get_subcommands();
  return commands.empty() ? nullptr : commands.front();
}

const CLI::Option* find_option(const CLI::App& command, const std::string& key) {
  for (const CLI::Option* option : command.get_options()) {
    const auto& names = option->get_lnames();
    const bool positional = option->get_positional() && option->get_name(true) == key;
    if (positional || std::ranges::find(names, key) != names.end()) return option;
  }
  return nullptr;
}

// --config itself, --help, and what is not for people.
bool may_stand_in_file(const CLI::App& command, const CLI::Option& option) {
  return &option != command.get_help_ptr() && plain_name(option) != "config" && !option.get_group().empty();
}

const CLI::Option& known_option(const CLI::App& command, const std::string& file, const std::string& key) {
  const CLI::Option* option = find_option(command, key);
  if (option != nullptr && may_stand_in_file(command, *option)) return *option;
  std::vector<std::string> names;
  for (const CLI::Option* other : command.get_options()) {
    if (!may_stand_in_file(command, *other)) continue;
    names.insert(names.end(), other->get_lnames().begin(), other->get_lnames().end());
    if (other->get_positional()) names.push_back(other->get_name(true));
  }
  const std::string near = nearest(key, names);
  bad_usage("{}: found '{}', expected an option of {} (swiftprune {} --help lists them){}", file, key,
            command.get_name(), command.get_name(),
            near.empty() ? "" : fmt::format("; did you mean {}?", near));
}

Results read_toml(const CLI::App& program, const CLI::App& command, const std::string& file,
                  std::istream& text) {
  Results results;
  std::vector<CLI::ConfigItem> items;
  try {
    items = CLI::ConfigTOML().from_config(text);
  } catch (const CLI::Error& error) {
    bad_input("{}: {}", file, error.what());
  }
  for (const CLI::ConfigItem& item : items) {
    if (item.name == "++" || item.name == "--") continue;  // the parser's marks of a section's ends
    const CLI::App* owner = &command;
    if (!item.parents.empty()) {
      owner = item.parents.size() == 1 ? find_command(program, item.parents.front()) : nullptr;
      if (owner == nullptr) {
        bad_usage("{}: found the section [{}], expected the name of a command", file,
                  fmt::join(item.parents, "."));
      }
    }
    const CLI::Option& option = known_option(*owner, file, item.name);
    if (owner == &command) results.emplace_back(&option, item.inputs);
  }
  return results;
}

// The options that the run was given; its defaults may be others by now and are not taken.
Results read_record(CLI::App& program, const CLI::App& command, const std::string& file,
                    const std::string& text) {
  const auto record = nlohmann::json::parse(text, nullptr, false);
  const auto given = record.is_object() && record.contains("command") && record["command"].is_object()
                         ? record["command"].value("arguments", nlohmann::json())
                         : nlohmann::json();
  const bool valid = given.is_array() && given.size() >= 2 &&
                     std::ranges::all_of(given, [](const nlohmann::json& word) { return word.is_string(); });
  if (!valid) {
    bad_input("{}: found no command, expected TOML or the swiftprune.json that a run of {} wrote", file,
              command.get_name());
  }
  const auto words = given.get<std::vector<std::string>>();
  if (words[1] != command.get_name())
    bad_usage("{}: found the record of {}, expected one of {}", file, words[1], command.get_name());
  Results results;
  try {
    const CLI::App* recorded = read_into(program, {words.begin() + 1, words.end()});
    for (const CLI::Option* option : recorded->get_options()) {
      if (option->count() > 0 && may_stand_in_file(*recorded, *option))
        results.emplace_back(&known_option(command, file, plain_name(*option)), option->results());
    }
  } catch (const CLI::ParseError& error) {
    bad_usage("{}: {}", file, error.what());
  }
  return results;
}

Results read_options(const CLI::App& program, const CLI::App& command, const std::string& file) {
  std::ifstream stream(file);
  std::stringstream text;
  if (!stream || !(text << stream.rdbuf()))
    bad_input("--config: {} cannot be read: {}", file, std::strerror(errno));
  const std::string content = text.str();
  const std::size_t first = content.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && content[first] == '{') {
    const auto recorded = reader();
    return read_record(*recorded, command, file, content);
  }
  return read_toml(program, command, file, text);
}

// What the parser says of the file's options alone, so that the message names the file.
void check_values(const std::string& file, const CLI::App& command, const Results& options) {
  std::vector<std::string> arguments = {command.get_name()};
  for (const auto& [option, values] : options) append_option(*option, values, arguments);
  const auto program = reader();
  try {
    read_into(*program, arguments);
  } catch (const CLI::ParseError& error) {
    bad_usage("{}: {}", file, error.what());
  }
}

}  // namespace

std::vector<std::string> with_config(const std::vector<std::string>& arguments) {
  if (std::ranges::none_of(arguments, [](const std::string& argument) {
        return argument == "--config" || argument.starts_with("--config=");
      }))
    return arguments;
  const auto program = reader();
  const CLI::App* command = nullptr;
  try {
    command = read_into(*program, arguments);
  } catch (const CLI::ParseError&) {
    return arguments;  // will be told by the parse
  }
  const CLI::Option* config = command == nullptr ? nullptr : command->get_option_no_throw("--config");
  if (config == nullptr || config->count() == 0) return arguments;
  const std::string file = config->results().back();
  Results options = read_options(*program, *command, file);
  check_values(file, *command, options);

  std::erase_if(options,
                [](const auto& option) { return option.first->count() > 0; });  // the command line wins
  std::vector<std::string> merged = {command->get_name()};
  const auto append_all = [&](bool positional) {
    for (const CLI::Option* option : command->get_options()) {
      if (option->get_positional() != positional) continue;
      if (option->count() > 0) append_option(*option, option->results(), merged);
      for (const auto& [of, values] : options) {
        if (of == option) append_option(*option, values, merged);
      }
    }
  };
  append_all(true);
  append_all(false);
  for (const auto& [option, values] : options) merged.push_back("--from-config=" + plain_name(*option));
  return merged;
}

}  // namespace swiftprune::cli
