// Which files name the tokens that end a text, in which order they count.
#include "swiftprune/model/end_tokens.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/tiny_llama.h"

namespace swiftprune {
namespace {

using Ids = std::vector<std::int32_t>;

class EndTokensTest : public ::testing::Test {
 protected:
  Ids ends(const std::string& config_ids, const std::string& generation) {
    const test::TempDir parent;
    const std::filesystem::path folder = parent.path() / "m";
    test::TinyLlama tiny;
    tiny.files = {
        {"tokenizer.json", test::read_text(SWIFTPRUNE_TEST_DATA "/evaluation/model/tokenizer.json")},
        {"tokenizer_config.json", R"({"eos_token": "</s>"})"}};
    if (!config_ids.empty()) tiny.config.insert(1, "\"eos_token_id\": " + config_ids + ", ");
    if (!generation.empty()) tiny.files["generation_config.json"] = generation;
    tiny.write(folder);
    return end_tokens(*Model::open(folder), *Tokenizer::open(folder));
  }
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

}  // namespace
}  // namespace swiftprune
