// README.md of the folders that are written, as the Hub shows it.
#include "cli/program.h"

#include <filesystem>

#include "support/temp_dir.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;

using test::Finished;
using test::read_text;
using testing::HasSubstr;
using testing::Not;

class ModelCardTest : public test::ProgramTest {
 protected:
  void done(const std::vector<std::string>& arguments) {
    const Finished run = this->run(arguments);
    ASSERT_EQ(run.exit_code, 0) << run.error;
  }
  std::string card(const std::string& folder) const { return read_text(at(folder + "/README.md")); }

  // A model of the hub's cache, with a card of its own.
  std::string cached() {
    const fs::path snapshot = at("cache/models--Org--Tiny/snapshots/abc");
    fs::create_directories(snapshot.parent_path());
    fs::copy(model("llama2"), snapshot);
    fs::create_directories(snapshot.parent_path().parent_path() / "refs");
    test::write_text(snapshot.parent_path().parent_path() / "refs/main", "abc");
    test::write_text(snapshot / "README.md",
                     "---\nlicense: apache-2.0\nlanguage:\n- en\n- de\nbase_model:\n- Org/Older\ntags:\n- "
                     "chat\n---\n# Tiny\nOwn text.\n");
    return snapshot;
  }
};

TEST_F(ModelCardTest, OfAPrunedModelAndOfItPacked) {
  const std::string dense = cached();
  done({"prune", dense, "-o", at("p"), "--pattern", "2:4", "--calibration", ids(400), "--windows", "2",
        "--seqlen", "32"});
  const std::string pruned = card("p");
  EXPECT_THAT(pruned,
              testing::StartsWith("---\nbase_model: Org/Tiny\nlicense: apache-2.0\nlanguage:\n- en\n- de\n"
                                  "library_name: transformers\npipeline_tag: text-generation\ntags:\n"
                                  "- swiftprune\n- pruned\n---\n\n# Tiny, 50 % zeros (2:4)\n"));
  EXPECT_THAT(pruned, HasSubstr("[Org/Tiny](https://huggingface.co/Org/Tiny)"));
  EXPECT_THAT(
      pruned,
      HasSubstr(
          "1. `prune`, method `best`: 50 % zeros (2:4), calibrated on 2 windows of 32 tokens of ids.u16"));
  EXPECT_THAT(pruned, HasSubstr("Not measured yet."));
  EXPECT_THAT(read_text(at("p/BASE_MODEL_CARD.md")), HasSubstr("Own text."));
  EXPECT_THAT(pruned, Not(HasSubstr(at(""))));  // nothing of this machine's folders

  done({"pack", at("p"), "-o", at("small")});
  const std::string packed = card("small");
  EXPECT_THAT(packed, HasSubstr("base_model: Org/Tiny\n"));
  EXPECT_THAT(packed, HasSubstr("license: apache-2.0\n"));
  EXPECT_THAT(packed, HasSubstr("library_name: swiftprune\n"));
  EXPECT_THAT(packed, HasSubstr("# Tiny, 50 % zeros (2:4), packed\n"));
  EXPECT_THAT(packed, HasSubstr("to_transformers"));
  EXPECT_THAT(packed, HasSubstr("[Org/Tiny]"));
  EXPECT_THAT(read_text(at("small/BASE_MODEL_CARD.md")), HasSubstr("Own text."));

  done({"unpack", at("small"), "-o", at("back")});
  EXPECT_EQ(card("back"), pruned);
}

TEST_F(ModelCardTest, StepsAndFewBits) {
  done({"shrink", model("llama2"), "-o", at("s"), "--ratio", "0.2", "--calibration", ids(400), "--windows",
        "2", "--seqlen", "32"});
  EXPECT_THAT(card("s"), HasSubstr("# base_model: ORG/NAME of the dense model\n"));
  EXPECT_THAT(card("s"), HasSubstr("1. `shrink`: 8 % fewer parameters"));
  done({"quantize", at("s"), "-o", at("q"), "--quantize", "int8", "--group", "row", "--method", "rtn"});
  EXPECT_THAT(card("q"), testing::StartsWith("---\n# base_model: ORG/NAME of the dense model\n"
                                             "base_model_relation: quantized\nlibrary_name: swiftprune\n"));
  EXPECT_THAT(card("q"), HasSubstr("# llama2, int8(row), packed\n"));
  EXPECT_THAT(card("q"), HasSubstr("1. `shrink`: 8 % fewer parameters"));
  EXPECT_THAT(card("q"), HasSubstr("2. `quantize`, method `rtn`: int8(row)\n"));
  EXPECT_FALSE(fs::exists(at("q/BASE_MODEL_CARD.md")));
}

TEST_F(ModelCardTest, WhatTheGateMeasured) {
  const std::string text = ids(400);
  done({"prune", model("llama2"), "-o", at("p"), "--method", "magnitude", "--gate", text,
        "--max-perplexity-ratio", "1e9", "--seqlen", "32"});
  EXPECT_THAT(card("p"),
              testing::ContainsRegex("## Quality\nOn `ids.u16`: .*perplexity [0-9.]+, [0-9.]+ times"));
  EXPECT_THAT(card("p"), Not(HasSubstr("Not measured")));
  done({"pack", at("p"), "-o", at("small")});
  EXPECT_THAT(card("small"), HasSubstr("On `ids.u16`: "));
}

}  // namespace
}  // namespace swiftprune
