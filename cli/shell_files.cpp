#include "shell_files.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "checks.h"
#include "swiftprune/core/error.h"

namespace swiftprune::cli {
namespace {

struct OptionWords {
  std::vector<std::string> names;   // "--sparsity", "-o"
  std::vector<std::string> values;  // of a fixed set, else empty
  std::string description;
  bool takes_value = false;
};

std::vector<OptionWords> option_words_of(const CLI::App& command) {
  std::vector<OptionWords> options;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_positional() || option->get_group().empty()) continue;  // hidden: not for people
    OptionWords words;
    for (const std::string& name : option->get_lnames()) words.names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) words.names.push_back("-" + name);
    words.values = values_of(*option);
    // Too many for a help's line, where `methods` is named instead.
    if (option->check_lname("method")) words.values = method_names();
    words.description = option->get_description();
    words.takes_value = option->get_items_expected_max() > 0;
    options.push_back(std::move(words));
  }
  return options;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// 'text' for a shell: nothing in it is expanded.
std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

// Where no word is offered the shell's own completion names files (-o default): behind an option that takes a value, and
// where a model's folder may stand.
std::string bash_script(const CLI::App& program) {
  std::string cases;
  std::vector<std::string> names;
  for (const CLI::App* command : commands_of(program)) {
    names.push_back(command->get_name());
    std::vector<std::string> words, free;
    std::string values;
    for (const OptionWords& option : option_words_of(*command)) {
      words.insert(words.end(), option.names.begin(), option.names.end());
      if (!option.values.empty()) {
        values += fmt::format("        {}) words={} ;;\n", fmt::join(option.names, "|"),
                              quoted(fmt::format("{}", fmt::join(option.values, " "))));
      } else if (option.takes_value) {
        free.insert(free.end(), option.names.begin(), option.names.end());
      }
    }
    if (!free.empty()) values += fmt::format("        {}) ;;\n", fmt::join(free, "|"));
    cases +=
        fmt::format("    {})\n      case \"$before\" in\n{}        *) options={} ;;\n      esac\n      ;;\n",
                    command->get_name(), values, quoted(fmt::format("{}", fmt::join(words, " "))));
  }
  return fmt::format(
      "# bash completion for swiftprune\n"
      "_swiftprune() {{\n"
      "  local word=\"${{COMP_WORDS[COMP_CWORD]}}\" before=\"${{COMP_WORDS[COMP_CWORD-1]}}\" words= "
      "options=\n"
      "  COMPREPLY=()\n"
      "  if [ \"$COMP_CWORD\" -eq 1 ] || [ \"${{COMP_WORDS[1]}}\" = help ]; then\n"
      "    COMPREPLY=($(compgen -W {} -- \"$word\"))\n"
      "    return\n"
      "  fi\n"
      "  case \"${{COMP_WORDS[1]}}\" in\n{}  esac\n"
      "  case \"$word\" in\n"
      "    -*) words=\"$words $options\" ;;\n"
      "  esac\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
      "}}\n"
      "complete -o default -F _swiftprune swiftprune\n",
      quoted(fmt::format("{} help --help --version", fmt::join(names, " "))), cases);
}

// ':' and brackets separate in zsh's specifications.
std::string zsh_text(const std::string& text) {
  std::string result;
  for (const char c : first_line(text)) {
    if (c == ':' || c == '[' || c == ']' || c == '\\') result += '\\';
    result += c;
  }
  return result;
}

// A function, which a shell that finds the file by its name calls at once, and one that reads it as it is told of.
std::string zsh_script(const CLI::App& program) {
  std::string commands, cases;
  for (const CLI::App* command : commands_of(program)) {
    commands +=
        fmt::format("    {}\n", quoted(command->get_name() + ":" + zsh_text(command->get_description())));
    cases += fmt::format("    {})\n      _arguments -S", command->get_name());
    for (const OptionWords& option : option_words_of(*command)) {
      std::string action;
      if (!option.values.empty()) {
        action = fmt::format(":value:({})", fmt::join(option.values, " "));
      } else if (option.takes_value) {
        action = ":value:_files";
      }
      for (const std::string& name : option.names) {
        cases +=
            fmt::format(" \\\n        {}", quoted(name + "[" + zsh_text(option.description) + "]" + action));
      }
    }
    cases += " \\\n        '*:file:_files'\n      ;;\n";
  }
  return fmt::format(
      "#compdef swiftprune\n"
      "_swiftprune() {{\n"
      "  local -a names\n"
      "  names=(\n{}    'help:Show the options of a command'\n  )\n"
      "  if (( CURRENT == 2 )) || [[ $words[2] == help ]]; then\n"
      "    _describe command names\n"
      "    return\n"
      "  fi\n"
      "  local name=$words[2]\n"
      "  shift words\n"
      "  (( CURRENT-- ))\n"
      "  case $name in\n{}  esac\n"
      "}}\n"
      "if [[ $funcstack[1] == _swiftprune ]]; then\n"
      "  _swiftprune \"$@\"\n"
      "else\n"
      "  compdef _swiftprune swiftprune\n"
      "fi\n",
      commands, cases);
}

std::string fish_script(const CLI::App& program) {
  std::string script =
      "# fish completion for swiftprune\n"
      "complete -c swiftprune -n __fish_use_subcommand -f -a help -d 'Show the options of a command'\n";
  for (const CLI::App* command : commands_of(program)) {
    script += fmt::format("complete -c swiftprune -n __fish_use_subcommand -f -a {} -d {}\n",
                          command->get_name(), quoted(first_line(command->get_description())));
    script += fmt::format("complete -c swiftprune -n '__fish_seen_subcommand_from help' -f -a {}\n",
                          command->get_name());
    for (const OptionWords& option : option_words_of(*command)) {
      script +=
          fmt::format("complete -c swiftprune -n '__fish_seen_subcommand_from {}'", command->get_name());
      for (const std::string& name : option.names) {
        script += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      }
      if (!option.values.empty()) {
        script += fmt::format(" -x -a {}", quoted(fmt::format("{}", fmt::join(option.values, " "))));
      } else if (option.takes_value) {
        script += " -r";
      }
      script += fmt::format(" -d {}\n", quoted(first_line(option.description)));
    }
  }
  return script;
}

// Text as man prints it: no dash becomes a hyphen, no line is read as a request.
std::string man_text(const std::string& text) {
  std::string result;
  bool line_starts = true;
  for (const char c : text) {
    if (line_starts && (c == '.' || c == '\'')) result += "\\&";
    if (c == '-' || c == '\\') result += c == '-' ? "\\" : "\\\\";
    if (c != '\\') result += c;
    line_starts = c == '\n';
  }
  return result;
}

std::vector<std::string> names_of(const CLI::Option& option) {
  std::vector<std::string> names;
  if (option.get_positional()) names.push_back(option.get_name(true));
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  return names;
}

// As a cell of a table shows it: no pipe ends the cell, no angle bracket begins HTML.
std::string markdown_cell(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '|' || c == '*' || c == '_') result += '\\';
    if (c == '<') {
      result += "&lt;";
    } else {
      result += c == '\n' ? ' ' : c;
    }
  }
  return result;
}

std::string code_cell(const std::vector<std::string>& texts, std::string_view between) {
  std::string result;
  for (const std::string& text : texts) {
    result += result.empty() ? "`" : fmt::format("{}`", between);
    for (const char c : text) result += c == '|' ? std::string("\\|") : std::string(1, c);
    result += '`';
  }
  return result;
}

// Two columns, for the sake of phones.
std::string markdown_options(const CLI::App& command) {
  std::string text = "| option | |\n|---|---|\n";
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_group().empty()) continue;
    text += fmt::format("| {} | {}{}", code_cell(names_of(*option), " "),
                        option->get_required() ? "Required. " : "", markdown_cell(option->get_description()));
    if (const auto values = values_of(*option); !values.empty())
      text += fmt::format(". Values: {}", code_cell(values, ", "));
    if (const std::string preset = option->get_default_str(); !preset.empty())
      text += fmt::format(". Default: {}", code_cell({preset}, ""));
    text += " |\n";
  }
  return text;
}

std::string man_options(const CLI::App& command) {
  std::string text;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_group().empty()) continue;
    std::string head =
        fmt::format("\\fB{}\\fR", man_text(fmt::format("{}", fmt::join(names_of(*option), ", "))));
    const std::vector<std::string> values = values_of(*option);
    if (!values.empty()) head += man_text(fmt::format(" {}", fmt::join(values, "|")));
    if (!option->get_default_str().empty())
      head += man_text(fmt::format(" (default {})", option->get_default_str()));
    text += fmt::format(".TP\n{}\n{}\n", head, man_text(option->get_description()));
  }
  return text;
}

// "MODEL [OPTIONS]"
std::string synopsis_of(const CLI::App& command) {
  std::string text;
  for (const CLI::Option* option : command.get_options()) {
    if (!option->get_positional()) continue;
    const std::string name = option->get_name(true) + (option->get_items_expected_max() > 1 ? "..." : "");
    text += option->get_required() ? name + " " : fmt::format("[{}] ", name);
  }
  return text + "[OPTIONS]";
}

}  // namespace

// The parser keeps "{auto,f32,bf16}" as the text of a check.
std::vector<std::string> values_of(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  const std::size_t open = type.find('{'), close = type.rfind('}');
  if (open == std::string::npos || close == std::string::npos || close < open) return {};
  return CLI::detail::split(type.substr(open + 1, close - open - 1), ',');
}

std::vector<const CLI::App*> commands_of(const CLI::App& program) {
  return program.get_subcommands([](const CLI::App*) { return true; });
}

const CLI::App* find_command(const CLI::App& program, const std::string& name) {
  const std::vector<const CLI::App*> commands = commands_of(program);
  const auto found =
      std::ranges::find(commands, name, [](const CLI::App* command) { return command->get_name(); });
  return found == commands.end() ? nullptr : *found;
}

std::string completion_script(const CLI::App& program, std::string_view shell) {
  if (shell == "bash") return bash_script(program);
  if (shell == "zsh") return zsh_script(program);
  if (shell == "fish") return fish_script(program);
  bad_usage("found '{}', expected one of {}", shell, fmt::join(kShells, ", "));
}

std::string markdown_page(const CLI::App& program, const CLI::App* command) {
  if (command == nullptr) {
    std::string page = fmt::format(
        "# Commands\n\nOf swiftprune {}, as the program tells them.\n\n| command | |\n|---|---|\n",
        SWIFTPRUNE_VERSION);
    for (const CLI::App* each : commands_of(program)) {
      page += fmt::format("| [`{0}`]({0}.md) | {1} |\n", each->get_name(),
                          markdown_cell(each->get_description()));
    }
    return page;
  }
  std::string page =
      fmt::format("# swiftprune {0}\n\n{1}.\n\n```\nswiftprune {0} {2}\n```\n\n", command->get_name(),
                  markdown_cell(command->get_description()), synopsis_of(*command));
  page += markdown_options(*command);
  if (!command->get_footer().empty()) page += fmt::format("\n```\n{}\n```\n", command->get_footer());
  return page;
}

std::string manual_page(const CLI::App& program, const CLI::App* command) {
  const CLI::App& app = command == nullptr ? program : *command;
  const std::string name = command == nullptr ? "swiftprune" : "swiftprune-" + command->get_name();
  std::string upper = name;
  std::ranges::transform(upper, upper.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  // The program's description is "swiftprune: what it does".
  const std::string description = app.get_description();
  const std::size_t colon = command == nullptr ? description.find(": ") : std::string::npos;
  std::string page = fmt::format(
      ".TH {} 1 \"\" \"swiftprune {}\" \"User commands\"\n.SH NAME\n{} \\- {}\n.SH "
      "SYNOPSIS\n\\fBswiftprune{}\\fR {}\n",
      man_text(upper), SWIFTPRUNE_VERSION, man_text(name),
      man_text(colon == std::string::npos ? description : description.substr(colon + 2)),
      command == nullptr ? "" : " " + command->get_name(),
      command == nullptr ? "COMMAND [OPTIONS]" : man_text(synopsis_of(*command)));
  if (command == nullptr) {
    page += ".SH COMMANDS\n";
    for (const CLI::App* each : commands_of(program)) {
      page += fmt::format(".TP\n\\fBswiftprune\\-{}\\fR(1)\n{}\n", each->get_name(),
                          man_text(each->get_description()));
    }
  }
  page += ".SH OPTIONS\n" + man_options(app);
  if (!app.get_footer().empty()) page += ".SH NOTES\n.nf\n" + man_text(app.get_footer()) + "\n.fi\n";
  return page;
}

}  // namespace swiftprune::cli
