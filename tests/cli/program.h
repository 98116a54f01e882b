// The program as a user runs it: a process of its own with files for its output, in a folder of its own.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/family_fixture.h"
#include "support/temp_dir.h"
#include "swiftprune/text/corpus.h"

namespace swiftprune::test {

namespace fs = std::filesystem;

struct Finished {
  int exit_code = -1;
  std::string out;
  std::string error;
};

inline pid_t start(const std::vector<std::string>& arguments, const fs::path& out, const fs::path& error,
                   const fs::path& in = {}) {
  std::vector<char*> argv;
  std::string program = SWIFTPRUNE_PROGRAM;
  argv.push_back(program.data());
  std::vector<std::string> copies = arguments;
  for (std::string& argument : copies) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    if (!in.empty()) ::dup2(::open(in.c_str(), O_RDONLY), 0);
    ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
    ::dup2(::open(error.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  return child;
}

inline int wait_for(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

class ProgramTest : public ::testing::Test {
 protected:
  Finished run(const std::vector<std::string>& arguments, const std::string& input = "") {
    Finished result;
    result.exit_code = wait_for(start(arguments, at("stdout"), at("stderr"), input));
    result.out = read_text(at("stdout"));
    result.error = read_text(at("stderr"));
    return result;
  }
  std::string at(const std::string& name) const { return folder_.path() / name; }
  static std::string model(const std::string& name) { return kModels / name; }

  // Random ids below the tiny models' vocabulary.
  std::string ids(std::int64_t count) {
    std::mt19937 random(5);
    std::vector<std::int32_t> values;
    for (std::int64_t i = 0; i < count; ++i) values.push_back(static_cast<std::int32_t>(random() % 60));
    const std::string file = at("ids.u16");
    write_token_ids(file, values);
    return file;
  }

  // One token a character, with GPT-2's pre-tokenizer.
  static void write_tokenizer(const std::string& folder) {
    nlohmann::ordered_json vocabulary;
    for (const char c : std::string("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ."))
      vocabulary[c == ' ' ? "\u0120" : std::string(1, c)] = vocabulary.size();
    const nlohmann::ordered_json tokenizer = {
        {"version", "1.0"},
        {"added_tokens", nlohmann::ordered_json::array()},
        {"normalizer", nullptr},
        {"pre_tokenizer",
         {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
        {"post_processor", nullptr},
        {"decoder", {{"type", "ByteLevel"}}},
        {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::ordered_json::array()}}}};
    std::ofstream(folder + "/tokenizer.json") << tokenizer.dump();
  }

  void expect_refused(const std::vector<std::string>& arguments, int exit_code, const std::string& text) {
    const Finished result = run(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << result.error;
    EXPECT_THAT(result.error, ::testing::HasSubstr(text));
    EXPECT_LE(std::count(result.error.begin(), result.error.end(), '\n'), 2) << result.error;
    EXPECT_FALSE(fs::exists(at("out")));
  }

  std::vector<std::string> hidden_files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.path())) {
      const std::string name = entry.path().filename();
      if (name.starts_with('.')) names.push_back(name);
    }
    return names;
  }

  TempDir folder_;
};

}  // namespace swiftprune::test
