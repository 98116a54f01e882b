// A GGUF file as the model argument: the same results as from the folder that import makes of it, its own name in what
// the program says, and nothing left in the temporary folder.
#include <cstdlib>

#include <fmt/format.h>

#include "cli/program.h"
#include "swiftprune/checkpoint/checkpoint.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::Finished;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class WithGguf : public test::ProgramTest {
 protected:
  void SetUp() override {
    fs::create_directory(at("tmp"));
    ::setenv("TMPDIR", at("tmp").c_str(), 1);
  }
  void TearDown() override {
    ::unsetenv("TMPDIR");
    EXPECT_THAT(std::vector<fs::path>(fs::directory_iterator(at("tmp")), {}), IsEmpty());
  }

  Finished made(const std::vector<std::string>& arguments) {
    Finished result = run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.error;
    return result;
  }
  // The command's answers for a file and for the folder that import made of it.
  nlohmann::json compare(const std::string& file, const std::string& folder,
                         std::vector<std::string> arguments, const std::string& field) {
    arguments.insert(arguments.begin() + 1, file);
    arguments.push_back("--json");
    const auto found = nlohmann::json::parse(made(arguments).out);
    arguments[1] = folder;
    const auto expected = nlohmann::json::parse(made(arguments).out);
    EXPECT_EQ(found.at(field), expected.at(field)) << arguments[0];
    EXPECT_THAT(found.dump(), Not(HasSubstr(at("tmp"))));
    return found;
  }

  static void expect_same_files(const fs::path& a, const fs::path& b) {
    for (const auto& entry : fs::directory_iterator(a)) {
      const fs::path name = entry.path().filename();
      if (name == "swiftprune.json" || name == "README.md") continue;  // name the input
      EXPECT_EQ(test::read_text(entry.path()), test::read_text(b / name)) << name;
    }
  }
};

class GgufArgument : public WithGguf {
 protected:
  void SetUp() override {
    fs::copy(model("llama2"), at("dense"));
    write_tokenizer(at("dense"));
    made({"export", at("dense"), "--gguf", file(), "--type", "q8_0"});
    made({"import", file(), at("imported")});
    WithGguf::SetUp();
  }
  std::string file() const { return at("small.gguf"); }
};

TEST_F(GgufArgument, PrunesAndShrinksAsItsFolder) {
  const std::string text = ids(400);
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{"prune", "--sparsity", "0.4", "--resume"}, {"shrink", "--ratio", "0.3"}}) {
    SCOPED_TRACE(command[0]);
    const auto out_of = [&](const std::string& model, const std::string& name) {
      std::vector<std::string> arguments = {
          command[0], model, "-o", at(command[0] + name), "--ids", text, "--windows", "2", "--seqlen", "32"};
      arguments.insert(arguments.end(), command.begin() + 1, command.end());
      return made(arguments);
    };
    const Finished result = out_of(file(), "a");
    out_of(at("imported"), "b");
    expect_same_files(at(command[0] + "b"), at(command[0] + "a"));
    EXPECT_THAT(result.error, HasSubstr("of a GGUF file, read as F16"));
    EXPECT_THAT(result.error + result.out, Not(HasSubstr(at("tmp"))));
    const std::string record = test::read_text(at(command[0] + "a/swiftprune.json"));
    EXPECT_THAT(record, HasSubstr("small.gguf"));
    EXPECT_THAT(record, Not(HasSubstr(at("tmp"))));
  }
  EXPECT_EQ(run({"verify", file(), at("prunea")}).exit_code, 0);
}

TEST_F(GgufArgument, IsReadWhereverAModelIs) {
  const std::string text = ids(200);
  const auto compare = [&](const std::vector<std::string>& arguments, const std::string& field) {
    return WithGguf::compare(file(), at("imported"), arguments, field);
  };
  EXPECT_EQ(compare({"eval", "--ids", text, "--seqlen", "32"}, "perplexity").at("model"), file());
  compare({"generate", "-p", "abc", "-n", "8"}, "text");
  EXPECT_EQ(compare({"inspect"}, "block_linears").at("folder"), file());
  compare({"tokenize", "--prompt", "abc de", "--show", "ids"}, "encoded");
  made({"pack", file(), "-o", at("packed")});
  made({"compare", at("imported"), file(), "--ids", text, "--seqlen", "32"});
  made({"export", file(), "--gguf", at("again.gguf"), "--type", "q8_0"});
  EXPECT_THAT(run({"inspect", file()}).error, HasSubstr("swiftprune prune " + file()));
}

TEST_F(GgufArgument, WhatCannotBeDoneIsRefusedByName) {
  expect_refused({"recover", at("dense"), "--dense", file(), "-o", at("out"), "--ids", ids(200)}, 3,
                 "small.gguf: found a GGUF file, expected a folder that transformers reads");
  test::write_text(at("cut.gguf"), test::read_text(file()).substr(0, 3000));
  expect_refused({"eval", at("cut.gguf"), "--ids", ids(200)}, 3, "cut.gguf: ");
  expect_refused({"eval", at("none.gguf"), "--ids", ids(200)}, 3, "none.gguf: no such f");
}

// Not the folder that stands for it.
TEST_F(WithGguf, ErrorsNameTheFile) {
  const std::string file = fmt::format("{}/checkpoint/gguf/gpt_oss_mxfp4.gguf", SWIFTPRUNE_TEST_DATA);
  const Finished result = run({"prune", file, "-o", at("out"), "--method", "magnitude"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.error, HasSubstr(file + ": tensor model.layers.0.mlp.experts.gate_up_proj_blocks"));
  EXPECT_THAT(result.error, Not(HasSubstr(at("tmp"))));
}

// Experts lie otherwise in the file than in the folder: one tensor of a block becomes one each, or one with gate and up
// in turn, or blocks and scales of MXFP4.
TEST_F(WithGguf, ExpertsAreReadAsThoseOfTheirFolder) {
  const std::string text = ids(400);
  for (const std::string name : {"qwen2moe", "gpt_oss", "gpt_oss_mxfp4"}) {
    SCOPED_TRACE(name);
    const std::string file = at(name + ".gguf");
    const fs::path fixture = fmt::format("{}/checkpoint/gguf/{}.gguf", SWIFTPRUNE_TEST_DATA, name);
    if (name == "gpt_oss_mxfp4") {
      fs::copy(fixture, file);
    } else {
      made({"export", fixture, "--gguf", file, "--type", "f16"});  // pack wants 16 bits
    }
    const std::string imported = at(name);
    made({"import", file, imported});
    const auto same_output = [&](std::vector<std::string> arguments) {
      const std::string out = at(name + arguments.front());
      arguments.insert(arguments.begin() + 1, {file, "-o", out + ".direct"});
      made(arguments);
      arguments[1] = imported;
      arguments[3] = out + ".imported";
      made(arguments);
      expect_same_files(arguments[3], out + ".direct");
    };
    compare(file, imported, {"eval", "--ids", text, "--seqlen", "32"}, "perplexity");
    compare(file, imported, {"generate", "-p", "abc", "-n", "8"}, "text");
    same_output({"shrink", "--units", "experts", "--experts", "2", "--ids", text, "--windows", "2",
                 "--seqlen", "32"});
    if (name == "gpt_oss_mxfp4") {
      same_output({"unpack"});
    } else {
      same_output({"prune", "--ids", text, "--windows", "2", "--seqlen", "32"});
      same_output({"pack"});
    }
  }
}

}  // namespace
}  // namespace swiftprune
