// Walks over every option of every command: what was given must come out of the echo, and the echo must parse
// to the same.
#include "option_echo.h"

#include <map>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "command.h"
#include "config_file.h"
#include "shell_files.h"
#include "support/temp_dir.h"
#include "swiftprune/report/comparison.h"

namespace swiftprune::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct ParsedWhole {};

// A program that ends with ParsedWhole before its command would run.
std::unique_ptr<CLI::App> idle_program() {
  auto program = make_program();
  program->parse_complete_callback([] { throw ParsedWhole(); });
  return program;
}

// The command as it stands after these arguments; null when they are refused.
struct Parsed {
  std::unique_ptr<CLI::App> program;
  const CLI::App* command = nullptr;
};
Parsed parse(std::vector<std::string> arguments) {  // "swiftprune" first
  Parsed parsed{idle_program(), nullptr};
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend() - 1);
  try {
    parsed.program->parse(reversed);
  } catch (const ParsedWhole&) {
    parsed.command = parsed.program->get_subcommands().front();
  } catch (const CLI::ParseError&) {
  }
  return parsed;
}

std::map<std::string, std::vector<std::string>> results(const CLI::App& command) {
  std::map<std::string, std::vector<std::string>> all;
  for (const CLI::Option* option : command.get_options())
    all[option->get_name(true, true)] = option->results();
  return all;
}

std::string name_of(const CLI::Option& option) {
  return option.get_lnames().empty() ? "-" + option.get_snames().front() : "--" + option.get_lnames().front();
}

// The least that the command takes, but `without` and what excludes it.
std::vector<std::string> least(const CLI::App& command, const CLI::Option* without) {
  std::vector<std::string> arguments = {"swiftprune", command.get_name()};
  for (const CLI::Option* option : command.get_options()) {
    if (!option->get_positional()) continue;
    const std::vector<std::string> values = values_of(*option);
    arguments.push_back(values.empty() ? "/models/it's a model" : values.front());
  }
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_positional() || !option->get_required() || option == without) continue;
    arguments.insert(arguments.end(), {name_of(*option), "x y"});
  }
  return arguments;
}

// Values that options may take, none a default; the first that the parser accepts is used.
const std::vector<std::string> kValues = {"-weird 'value' $HOME *.x",
                                          "-0.25",
                                          "0.25",
                                          "7",
                                          "bf16",
                                          "int8",
                                          "q8_0",
                                          "2:4",
                                          "fast",
                                          "strided",
                                          "none",
                                          "dense",
                                          "score",
                                          "influence",
                                          "ids",
                                          "env",
                                          "row",
                                          "each",
                                          "markdown",
                                          "all"};

void expect_round_trip(const std::vector<std::string>& arguments, const Parsed& parsed) {
  const std::vector<std::string> repeated = repeat_arguments(*parsed.command);
  const Parsed again = parse(repeated);
  ASSERT_NE(again.command, nullptr) << shell_command(repeated);
  EXPECT_EQ(results(*again.command), results(*parsed.command)) << shell_command(arguments);
  EXPECT_EQ(option_values(*again.command), option_values(*parsed.command)) << shell_command(arguments);
  EXPECT_EQ(repeat_arguments(*again.command), repeated);
}

// The option in a file in place of the command line: the same results, and the record says where it came from.
void expect_from_file(const CLI::App& command, const std::string& name, std::vector<std::string> others) {
  const CLI::Option& option = *command.get_option(name);
  const test::TempDir folder;
  const std::string file = folder.path() / "run.toml";
  std::string values;
  for (const std::string& result : option.results())
    values += fmt::format("{}\"{}\"", values.empty() ? "" : ", ", result);
  test::write_text(file, fmt::format("# of a test\n[{}]\n{} = {}\n", command.get_name(), name.substr(2),
                                     option.results().size() > 1 ? "[" + values + "]" : values));
  others.erase(others.begin());
  others.push_back("--config=" + file);
  std::vector<std::string> merged = with_config(others);
  merged.insert(merged.begin(), "swiftprune");
  const Parsed parsed = parse(merged);
  ASSERT_NE(parsed.command, nullptr) << shell_command(merged);
  EXPECT_EQ(parsed.command->get_option(name)->results(), option.results()) << shell_command(merged);
  const OrderedJson values_now = option_values(*parsed.command);
  EXPECT_EQ(values_now.at("config"), file);
  EXPECT_EQ(values_now.at("from-config"), OrderedJson::array({name.substr(2)}));
  EXPECT_EQ(repeat_arguments(*parsed.command), repeat_arguments(command));
}

TEST(OptionEcho, EveryOptionOfEveryCommandComesBack) {
  int walked = 0;
  const auto program = idle_program();
  for (const CLI::App* command : program->get_subcommands({})) {
    const OrderedJson defaults = [&] {
      const Parsed parsed = parse(least(*command, nullptr));
      return parsed.command != nullptr ? option_values(*parsed.command) : OrderedJson();
    }();
    ASSERT_FALSE(defaults.is_null()) << command->get_name();
    for (const CLI::Option* option : command->get_options()) {
      if (option->get_positional() || option == command->get_help_ptr()) continue;
      if (std::ranges::find(kOriginOptions, name_of(*option)) != std::end(kOriginOptions)) continue;
      SCOPED_TRACE(command->get_name() + " " + name_of(*option));
      std::vector<std::string> arguments = least(*command, option);
      for (const CLI::Option* needed : option->get_needs()) arguments.push_back(name_of(*needed));
      const std::vector<std::string> others = arguments;
      Parsed parsed;
      if (option->get_items_expected_max() == 0) {
        arguments.push_back(name_of(*option));
        parsed = parse(arguments);
      }
      for (std::size_t v = 0; v < kValues.size() && parsed.command == nullptr; ++v) {
        std::vector<std::string> with = arguments;
        if (option->get_type_size() == 2) {
          with.insert(with.end(),
                      {name_of(*option), kValues[v], "a=b,c=d", name_of(*option), "second", "e=f"});
        } else if (kValues[v].starts_with('-')) {
          with.push_back(name_of(*option) + "=" + kValues[v]);
        } else {
          with.insert(with.end(), {name_of(*option), kValues[v]});
        }
        parsed = parse(with);
        if (parsed.command != nullptr) arguments = with;
      }
      ASSERT_NE(parsed.command, nullptr) << "no value fits";
      expect_round_trip(arguments, parsed);
      if (command->get_option_no_throw("--config") != nullptr)  // not of those that only write for the shell
        expect_from_file(*parsed.command, name_of(*option), others);
      EXPECT_NE(option_values(*parsed.command), defaults) << "the values do not tell of it";
      EXPECT_THAT(repeat_arguments(*parsed.command),
                  ::testing::Contains(::testing::StartsWith(name_of(*option))));
      ++walked;
    }
  }
  EXPECT_GT(walked, 120);
}

TEST(OptionEcho, ListsPairsAndAwkwardPaths) {
  const Parsed good =
      parse({"swiftprune", "prune", "m", "--calibration", "a b.txt", "c.txt", "--skip", "*.a", "--skip",
             "*.b", "--override", "*.q", "sparsity=0.1", "-o", "out", "--lambda=-1"});
  ASSERT_NE(good.command, nullptr);
  EXPECT_EQ(
      shell_command(repeat_arguments(*good.command)),
      "swiftprune prune m --out out --calibration 'a b.txt' --calibration c.txt --skip '*.a' --skip '*.b' "
      "--override '*.q' sparsity=0.1 --lambda=-1");
  expect_round_trip({}, good);
  EXPECT_THAT(repeat_options(*good.command, {"--skip", "--field"}),
              ElementsAre("--skip", "*.a", "--skip", "*.b"));
}

// Given or left at its default is the same run; numbers are compared as numbers.
TEST(OptionEcho, ByteOptionsAreTheSameForTheSameRun) {
  const auto options = [](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"swiftprune", "prune", "m", "--out", "o"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Parsed parsed = parse(arguments);
    return parsed.command != nullptr ? byte_options(*parsed.command) : OrderedJson();
  };
  const OrderedJson plain = options({});
  ASSERT_FALSE(plain.is_null());
  EXPECT_EQ(options({"--sparsity", "0.50"}), plain);
  EXPECT_EQ(options({"--calibration", "self"}), plain);
  EXPECT_EQ(options({"--json", "-q", "--threads", "1", "--gpu-memory", "6GB", "--resume"}), plain);
  EXPECT_EQ(options({"--gate", "t.txt", "--gate-windows", "3", "--max-kl", "1"}), plain);
  for (const std::vector<std::string>& other : std::vector<std::vector<std::string>>{{"--sparsity", "0.25"},
                                                                                     {"--select", "sort"},
                                                                                     {"--propagate", "dense"},
                                                                                     {"--plan", "p.json"},
                                                                                     {"--device", "cuda"},
                                                                                     {"--lambda", "0"},
                                                                                     {"--seed", "1"},
                                                                                     {"--windows", "2"}}) {
    EXPECT_NE(options(other), plain) << shell_command(other);
  }
}

// A name that is no option any more would hide the next one of that name.
TEST(OptionEcho, EveryNeutralOptionExists) {
  const auto program = idle_program();
  for (const std::string_view name : kByteNeutralOptions) {
    bool found = false;
    for (const CLI::App* command : program->get_subcommands({}))
      found = found || command->get_option_no_throw(std::string(name)) != nullptr;
    EXPECT_TRUE(found) << name;
  }
}

TEST(Help, StaysWithin100ColumnsAndInWordsOfPeople) {
  const auto program = idle_program();
  std::string all = program->help();
  for (const CLI::App* command : program->get_subcommands({})) all += command->help();
  std::istringstream lines(all);
  for (std::string line; std::getline(lines, line);) {
    const bool example = line.starts_with("  swiftprune") || line.starts_with("Example");
    EXPECT_LE(line.size(), example ? 130u : 100u) << line;
  }
  EXPECT_EQ(all.find("{false}"), std::string::npos);
  EXPECT_EQ(all.find("INT:"), std::string::npos);
  EXPECT_EQ(all.find("(1x)"), std::string::npos);
  EXPECT_THAT(all, HasSubstr("--no-tune"));
}

TEST(Help, BoundsAreTheOnesThatPeopleKnow) {
  const auto message = [](std::vector<std::string> arguments) {
    const auto program = idle_program();
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    try {
      program->parse(reversed);
    } catch (const CLI::ParseError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message({"eval", "m", "--windows", "-1"}), "--windows: found '-1', expected 0 or more");
  EXPECT_EQ(message({"pilot", "m", "--text", "t", "--minutes", "nan"}),
            "--minutes: found 'nan', expected more than 0");
}

}  // namespace
}  // namespace swiftprune::cli
