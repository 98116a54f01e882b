// Real tokenizers against published vectors and reference ids; needs the folder that SWIFTPRUNE_SHARED names
// (data/, reference/), and skips without it.
#include <gtest/gtest.h>

#include <iterator>
#include <sstream>

#include "support/require.h"
#include "support/temp_dir.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {
namespace {

using Ids = std::vector<std::int32_t>;

struct Vectors {
  const char* name;       // llama.cpp: ggml-vocab-<name>.gguf.inp and .out
  const char* tokenizer;  // in data/tokenizers
};

class LlamaCppVectors : public testing::TestWithParam<Vectors> {};

TEST_P(LlamaCppVectors, AllPass) {
  const auto shared = test::shared_folder();
  if (!shared) return;
  const auto folder = *shared / "data/tokenizers";
  const auto tokenizer = Tokenizer::open(folder / GetParam().tokenizer);
  const std::string stem = std::string("ggml-vocab-") + GetParam().name + ".gguf";
  const std::string texts = test::read_text(folder / (stem + ".inp"));
  std::istringstream lines(test::read_text(folder / (stem + ".out")));
  const std::string separator = "\n__ggml_vocab_test__\n";
  int checked = 0;
  for (std::size_t begin = 0; begin <= texts.size();) {
    const std::size_t end = std::min(texts.find(separator, begin), texts.size());
    std::string line;
    if (!std::getline(lines, line)) break;
    std::istringstream numbers(line);
    const Ids expected{std::istream_iterator<std::int32_t>(numbers), {}};
    const std::string text = texts.substr(begin, end - begin);
    EXPECT_EQ(tokenizer->encode(text, false), expected) << text;
    begin = end + separator.size();
    ++checked;
  }
  EXPECT_EQ(checked, 46);
}

INSTANTIATE_TEST_SUITE_P(Shared, LlamaCppVectors,
                         testing::Values(Vectors{"llama-spm", "llama2_tokenizer.model"},
                                         Vectors{"llama-bpe", "llama3_tokenizer.model"},
                                         Vectors{"phi-3", "phi3_tokenizer.json"}));

}  // namespace
}  // namespace swiftprune
