// Every command that the documentation shows, against the program's own parser: a page cannot name what is not there.
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/ranges.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "command.h"
#include "support/temp_dir.h"

namespace swiftprune::cli {
namespace {

namespace fs = std::filesystem;

struct Shown {
  std::string where;  // "docs/start.md:12"
  std::vector<std::string> words;
};

// A command line as a shell splits it, up to what ends the command: a comment, a pipe, a redirection.
std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> words;
  std::string word;
  bool open = false;
  char quote = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote != 0) {
      if (c == quote) {
        quote = 0;
      } else {
        word += c;
      }
    } else if (c == '\'' || c == '"') {
      quote = c;
      open = true;
    } else if (c == ' ' || c == '|' || c == '>' || c == ';' || c == '&' ||
               (c == '#' && !open && word.empty())) {
      if (open || !word.empty()) words.push_back(word);
      word.clear();
      open = false;
      if (c != ' ') return words;
    } else {
      word += c;
    }
  }
  if (open || !word.empty()) words.push_back(word);
  return words;
}

// Lines of fenced blocks that run the program, with those that go on behind a backslash.
void add_commands(const fs::path& page, const std::string& name, std::vector<Shown>& commands) {
  std::ifstream file(page);
  bool fenced = false;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.starts_with("```")) {
      fenced = !fenced;
      continue;
    }
    if (!fenced) continue;
    const std::string where = fmt::format("{}:{}", name, number);
    for (std::string next; line.ends_with("\\") && std::getline(file, next); ++number)
      line = line.substr(0, line.size() - 1) + next;
    std::vector<std::string> words = words_of(line);
    if (words.size() > 1 && words[0] == "$") words.erase(words.begin());
    // What an environment variable is set for.
    while (!words.empty() && words[0].find('=') != std::string::npos) words.erase(words.begin());
    if (words.size() < 2 || (words[0] != "swiftprune" && !words[0].ends_with("/swiftprune"))) continue;
    commands.push_back({where, {words.begin() + 1, words.end()}});
  }
}

std::vector<Shown> shown_commands() {
  const fs::path root = fs::path(SWIFTPRUNE_TEST_DATA) / ".." / "..";
  std::vector<Shown> commands;
  add_commands(root / "README.md", "README.md", commands);
  for (const auto& entry : fs::recursive_directory_iterator(root / "docs")) {
    if (entry.path().extension() == ".md")
      add_commands(entry.path(), "docs/" + fs::relative(entry.path(), root / "docs").string(), commands);
  }
  return commands;
}

// What keeps the program from taking it, or "". Nothing is run, and no file is looked for.
std::string parse_words(const std::vector<std::string>& words) {
  struct ParsedWhole {};
  const auto program = make_program();
  program->parse_complete_callback([] { throw ParsedWhole(); });
  try {
    program->parse(std::vector<std::string>(words.rbegin(), words.rend()));
  } catch (const ParsedWhole&) {
  } catch (const CLI::CallForHelp&) {
  } catch (const CLI::CallForVersion&) {
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return "";
}

TEST(Docs, EveryCommandIsOneThatTheProgramTakes) {
  const std::vector<Shown> commands = shown_commands();
  EXPECT_GE(commands.size(), 40u);
  for (const Shown& command : commands) {
    // "..." stands for options that the reader has.
    std::vector<std::string> words = command.words;
    std::erase(words, "...");
    EXPECT_EQ(parse_words(words), "")
        << command.where << ": swiftprune " << fmt::format("{}", fmt::join(words, " "));
  }
}

TEST(Docs, TheParserWouldTell) {
  EXPECT_NE(parse_words({"prune", "m", "-o", "out", "--sparcity", "0.5"}), "");
  EXPECT_NE(parse_words({"prun", "m"}), "");
  EXPECT_NE(parse_words({"eval", "m", "--compute", "f64"}), "");
  EXPECT_EQ(words_of("swiftprune a 'b c' \"d\" --e=f   # no"),
            (std::vector<std::string>{"swiftprune", "a", "b c", "d", "--e=f"}));
  EXPECT_EQ(words_of("swiftprune a > b | c"), (std::vector<std::string>{"swiftprune", "a"}));
}

}  // namespace
}  // namespace swiftprune::cli
