#include "swiftprune/text/tokenizer.h"

#include <algorithm>

#include "swiftprune/core/error.h"
#include "swiftprune/core/read_file.h"
#include "swiftprune/text/sentencepiece_tokenizer.h"
#include "swiftprune/text/tiktoken.h"
#include "swiftprune/text/tokenizer_json.h"
#include "swiftprune/text/vocab_and_merges.h"

namespace swiftprune {
namespace {

constexpr const char* kFiles[] = {"tokenizer.json", "tokenizer.model"};

std::unique_ptr<Tokenizer> open_file(const std::filesystem::path& file) {
  const std::string bytes = file_bytes(file);
  const std::size_t start = bytes.find_first_not_of(" \t\r\n");
  if (file.extension() == ".json" || (start != std::string::npos && bytes[start] == '{')) {
    return text::open_tokenizer_json(file);
  }
  if (text::looks_like_tiktoken(bytes)) return text::open_tiktoken(file);
  return text::open_sentencepiece(file);
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::open(const std::filesystem::path& folder) {
  if (!std::filesystem::exists(folder)) bad_input("{}: does not exist", folder.string());
  if (!std::filesystem::is_directory(folder)) return open_file(folder);
  for (const char* name : kFiles) {
    if (std::filesystem::is_regular_file(folder / name)) return open_file(folder / name);
  }
  if (text::has_vocab_and_merges(folder)) return text::open_vocab_and_merges(folder);
  bad_input(
      "{}: found neither tokenizer.json nor tokenizer.model nor vocab.json with merges.txt, expected one of "
      "them",
      folder.string());
}

bool Tokenizer::is_in(const std::filesystem::path& folder) {
  return std::any_of(std::begin(kFiles), std::end(kFiles),
                     [&](const char* name) { return std::filesystem::is_regular_file(folder / name); }) ||
         text::has_vocab_and_merges(folder);
}

}  // namespace swiftprune
