// Every command that the documentation shows, against the program's own parser: a page cannot name what is not there. The
// pages that a reader follows from top to bottom are run, too, on small models under the names that stand there.
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <fmt/ranges.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/program.h"
#include "command.h"
#include "shell_files.h"
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
    // Behind variables of the environment that are set for it, or behind what starts it in several processes.
    const auto is_program = [](const std::string& word) {
      return word == "swiftprune" || word.ends_with("/swiftprune");
    };
    const auto is_setting = [](const std::string& word) { return word.find('=') != std::string::npos; };
    const auto starter = std::ranges::find_if_not(words, is_setting);
    if (starter == words.end()) continue;
    static const std::set<std::string> kLaunchers = {"mpirun", "srun", "torchrun", "rlwrap"};
    const auto found =
        kLaunchers.contains(*starter) ? std::find_if(starter, words.end(), is_program) : starter;
    if (found == words.end() || !is_program(*found) || found + 1 == words.end()) continue;
    commands.push_back({where, {found + 1, words.end()}});
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

// Code within sentences that begins with the program or a command: "swiftprune prune --resume", "prune --resume".
void add_named(const fs::path& page, const std::string& name, const CLI::App& program,
               std::vector<Shown>& commands) {
  std::ifstream file(page);
  bool fenced = false;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.starts_with("```")) fenced = !fenced;
    if (fenced) continue;
    for (std::size_t at = line.find('`'); at != std::string::npos; at = line.find('`', at + 1)) {
      const std::size_t end = line.find('`', at + 1);
      if (end == std::string::npos) break;
      std::vector<std::string> words = words_of(line.substr(at + 1, end - at - 1));
      at = end;
      const bool is_whole = words.size() > 1 && words[0] == "swiftprune";
      if (is_whole) words.erase(words.begin());
      if (words.empty() || (!is_whole && find_command(program, words[0]) == nullptr)) continue;
      commands.push_back({fmt::format("{}:{}", name, number), words});
    }
  }
}

// What the program has not of a command that may have gaps ("--sparsity S", "[--group 64]", "..."), or "".
std::string unknown_in(const CLI::App& program, const std::vector<std::string>& words) {
  const CLI::App* command = &program;
  for (std::string word : words) {
    std::erase_if(word, [](char c) { return c == '[' || c == ']'; });
    word = word.substr(0, word.find('='));
    const bool is_option = word.starts_with('-') && word.size() > 1;
    if (is_option && command->get_option_no_throw(word) == nullptr) return word;
    if (is_option || command != &program) continue;
    if (word == "help" || word == "COMMAND") return "";  // any command's
    command = find_command(program, word);
    if (command == nullptr) return word;
  }
  return "";
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
  const auto in_ranks = [](const Shown& command) { return command.where.starts_with("docs/ranks.md"); };
  EXPECT_GE(std::ranges::count_if(commands, in_ranks), 6);  // launchers and all
  for (const Shown& command : commands) {
    // "..." stands for options that the reader has.
    std::vector<std::string> words = command.words;
    std::erase(words, "...");
    EXPECT_EQ(parse_words(words), "")
        << command.where << ": swiftprune " << fmt::format("{}", fmt::join(words, " "));
  }
}

TEST(Docs, EveryOptionNamedInTheTextIsOneOfItsCommand) {
  const auto program = make_program();
  const fs::path root = fs::path(SWIFTPRUNE_TEST_DATA) / ".." / "..";
  std::vector<Shown> commands;
  for (const char* page : {"README.md", "CONTRIBUTING.md"}) add_named(root / page, page, *program, commands);
  for (const auto& entry : fs::recursive_directory_iterator(root / "docs")) {
    if (entry.path().extension() == ".md")
      add_named(entry.path(), fs::relative(entry.path(), root), *program, commands);
  }
  EXPECT_GE(commands.size(), 100u);
  for (const Shown& command : commands) {
    EXPECT_EQ(unknown_in(*program, command.words), "")
        << command.where << ": swiftprune " << fmt::format("{}", fmt::join(command.words, " "));
  }
}

TEST(Docs, TheParserWouldTell) {
  EXPECT_NE(parse_words({"prune", "m", "-o", "out", "--sparcity", "0.5"}), "");
  EXPECT_NE(parse_words({"prun", "m"}), "");
  EXPECT_NE(parse_words({"eval", "m", "--compute", "f64"}), "");
  EXPECT_EQ(words_of("swiftprune a 'b c' \"d\" --e=f   # no"),
            (std::vector<std::string>{"swiftprune", "a", "b c", "d", "--e=f"}));
  const auto program = make_program();
  EXPECT_EQ(unknown_in(*program, {"prune", "M", "[--sparsity", "S]", "--ids=x"}), "");
  EXPECT_EQ(unknown_in(*program, {"prune", "M", "--sparcity", "S"}), "--sparcity");
  EXPECT_EQ(unknown_in(*program, {"prun", "M"}), "prun");
  EXPECT_EQ(words_of("swiftprune a > b | c"), (std::vector<std::string>{"swiftprune", "a"}));
}

// A reader's folder: models and texts of the names that the pages use, the hub's cache among them.
class DocsWalk : public test::ProgramTest {
 protected:
  void SetUp() override {
    before_ = fs::current_path();
    dense_ = fs::absolute(fs::path(SWIFTPRUNE_TEST_DATA) / "evaluation/model");
    experts_ = fs::absolute(fs::path(SWIFTPRUNE_TEST_DATA) / "experts/qwen3_moe_fused");
    fs::current_path(folder_.path());
    const fs::path cached = "hub/models--HuggingFaceTB--SmolLM2-135M";
    copy_model(dense_, cached / "snapshots/1");
    fs::create_directory(cached / "refs");
    test::write_text(cached / "refs/main", "1");
    ::setenv("HF_HUB_CACHE", (folder_.path() / "hub").c_str(), 1);
    for (const char* name : {"YOUR_MODEL", "dense", "DENSE", "Mistral-7B", "SmolLM2-135M"})
      copy_model(dense_, name);
    copy_model(experts_, "Qwen3-30B-A3B");
    write_tokenizer("Qwen3-30B-A3B");
    std::string text;
    for (int i = 0; i < 4000; ++i)
      text += fmt::format("The {}th word of this text is not the last one. ", i * i % 97);
    for (const char* name : {"my_text", "your_text", "other_text", "held_out", "train", "own"})
      test::write_text(std::string(name) + ".txt", text);
    for (const char* name : {"code", "chat", "other", "all"})
      test::write_text(std::string(name) + ".jsonl", Json{{"text", text}}.dump() + "\n");
    test::write_text("questions.jsonl",
                     "{\"prompt\": \"The 7th word\", \"answer\": \"of\"}\n{\"prompt\": \"The last\"}\n");
    ASSERT_EQ(run({"export", "Mistral-7B", "--gguf", "mistral.Q8_0.gguf", "--type", "q8_0"}).exit_code, 0);
  }
  void TearDown() override {
    ::unsetenv("HF_HUB_CACHE");
    fs::current_path(before_);
  }

  // Every command of the page in its order, but those that other programs start.
  void walk(const std::string& page) {
    std::vector<Shown> commands;
    add_commands(before_ / page, page, commands);
    ASSERT_FALSE(commands.empty()) << page;
    for (Shown& command : commands) {
      std::vector<std::string>& words = command.words;
      std::erase(words, "...");
      if (words[0] == "serve") {
        EXPECT_EQ(serve_and_stop(words), "") << command.where;
        continue;
      }
      if (const auto cuda = std::ranges::find(words, "cuda"); cuda != words.end()) *cuda = "auto";
      // A page may show two ways to the same folder.
      for (std::size_t i = 0; i + 1 < words.size(); ++i) {
        if (words[i] == "--out" || words[i] == "-o") fs::remove_all(words[i + 1]);
      }
      test::write_text("stdin", "Hello\n");  // of chat
      const test::Finished done = run(words, "stdin");
      // A random model keeps no limit, which is for the limit to say.
      const bool has_limit = std::ranges::any_of(words, [](const std::string& word) {
        return word.starts_with("--max-") || word.starts_with("--min-");
      });
      EXPECT_TRUE(done.exit_code == 0 || (has_limit && done.exit_code == 5))
          << command.where << ": swiftprune " << fmt::format("{}", fmt::join(words, " ")) << "\n"
          << done.error;
    }
  }

 private:
  using Json = nlohmann::ordered_json;

  // Until it listens; says what went wrong, or "".
  std::string serve_and_stop(std::vector<std::string> words) {
    if (const auto port = std::ranges::find(words, "--port"); port != words.end()) port[1] = "0";
    test::write_text(at("stderr"), "");  // not the last server's
    const pid_t child = test::start(words, at("stdout"), at("stderr"));
    const auto listens = [this] {
      return test::read_text(at("stderr")).find("http://") != std::string::npos;
    };
    for (int i = 0; i < 30000 && !listens(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const bool listened = listens();
    ::kill(child, SIGTERM);
    const int code = test::wait_for(child);
    return listened && code == 0 ? "" : fmt::format("exit code {}: {}", code, test::read_text(at("stderr")));
  }

  // With room for the windows that the pages name.
  static void copy_model(const fs::path& from, const fs::path& to) {
    fs::create_directories(to);
    fs::copy(from, to);
    Json config = Json::parse(test::read_text(to / "config.json"));
    config["max_position_embeddings"] = 4096;
    test::write_text(to / "config.json", config.dump());
    test::write_text(to / "chat_template.jinja", "{% for m in messages %}{{ m.content }} {% endfor %}");
  }

  fs::path before_, dense_, experts_;
};

TEST_F(DocsWalk, ReadmeRuns) { walk("README.md"); }
TEST_F(DocsWalk, FirstStepsRun) { walk("docs/start.md"); }
TEST_F(DocsWalk, ALaptopRuns) { walk("docs/howto/laptop.md"); }
TEST_F(DocsWalk, ExpertsRun) { walk("docs/howto/experts.md"); }
TEST_F(DocsWalk, CiRuns) {
  ASSERT_EQ(run({"prune", "dense", "-o", "pruned", "--method", "magnitude"}).exit_code, 0);
  walk("docs/howto/ci.md");
}
TEST_F(DocsWalk, ComparingRuns) {
  ASSERT_EQ(run({"prune", "DENSE", "-o", "PRUNED", "--method", "magnitude"}).exit_code, 0);
  walk("docs/report.md");
}
TEST_F(DocsWalk, StructuredRuns) { walk("docs/structured.md"); }
TEST_F(DocsWalk, ServingRuns) {
  ASSERT_EQ(run({"pack", "SmolLM2-135M", "-o", "SmolLM2-50.packed"}).exit_code, 0);
  walk("docs/serving.md");
}

}  // namespace
}  // namespace swiftprune::cli
