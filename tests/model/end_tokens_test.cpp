// Which files name the tokens that end a text, in which order they count.
#include "swiftprune/model/end_tokens.h"

#include <optional>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/tiny_llama.h"

namespace swiftprune {
namespace {

using Ids = std::vector<std::int32_t>;

class EndTokensTest : public ::testing::Test {
 protected:
  void write(const std::string& config_ids, const std::string& generation) {
    test::TinyLlama tiny;
    tiny.files = {
        {"tokenizer.json", test::read_text(SWIFTPRUNE_TEST_DATA "/evaluation/model/tokenizer.json")},
        {"tokenizer_config.json", R"({"eos_token": "</s>"})"}};
    if (!config_ids.empty()) tiny.config.insert(1, "\"eos_token_id\": " + config_ids + ", ");
    if (!generation.empty()) tiny.files["generation_config.json"] = generation;
    parent_.emplace();
    tiny.write(folder());
  }
  Ids ends(const std::string& config_ids, const std::string& generation) {
    write(config_ids, generation);
    return end_tokens(*Model::open(folder()), *Tokenizer::open(folder()));
  }
  std::string note(const std::string& generation) {
    write("", generation);
    const auto notes = generation_notes(*Model::open(folder()));
    return notes.empty() ? "" : notes.at(0);
  }

 private:
  std::filesystem::path folder() const { return parent_->path() / "m"; }
  std::optional<test::TempDir> parent_;
};

TEST_F(EndTokensTest, GenerationConfigThenConfigThenTokenizer) {
  EXPECT_EQ(ends("", ""), Ids{1});
  EXPECT_EQ(ends("7", ""), Ids{7});
  EXPECT_EQ(ends("[9, 7, 9]", ""), (Ids{7, 9}));
  EXPECT_EQ(ends("7", R"({"eos_token_id": [12, 3]})"), (Ids{3, 12}));
  EXPECT_EQ(ends("7", R"({"eos_token_id": null})"), Ids{7});
  EXPECT_EQ(ends("null", R"({"bos_token_id": 4})"), Ids{1});
}

TEST_F(EndTokensTest, RefusesWhatIsNoId) {
  test::expect_error(
      ErrorKind::kBadInput, [&] { ends("\"</s>\"", ""); }, "config.json: eos_token_id");
  test::expect_error(
      ErrorKind::kBadInput, [&] { ends("[1, -1]", ""); }, "found -1");
}

// What transformers' generate() would do with a text is done or said.
TEST_F(EndTokensTest, WhatElseTheFileAsksOfATextIsSaid) {
  EXPECT_EQ(note(""), "");
  EXPECT_EQ(note(R"({"eos_token_id": 7, "repetition_penalty": 1.0, "max_length": 20, "suppress_tokens": [],
                     "temperature": 0.6, "top_p": 0.9, "forced_bos_token_id": null})"),
            "");
  EXPECT_EQ(note(R"({"do_sample": true, "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8})"),
            "generation_config.json: left aside: repetition_penalty 1.05, temperature 0.7, top_p 0.8; "
            "texts are written as options and requests say");
  EXPECT_NE(note(R"({"suppress_tokens": [5]})").find("suppress_tokens [5]"), std::string::npos);
}

TEST(GenerationNotes, LongFactorsOfShortTextsAreSaid) {
  const auto model = Model::open(SWIFTPRUNE_TEST_DATA "/model/phi3_longrope");
  EXPECT_TRUE(generation_notes(*model, 16).empty());
  const auto notes = generation_notes(*model, 17);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("with up to 17 positions the long factors count"), std::string::npos) << notes[0];
}

}  // namespace
}  // namespace swiftprune
