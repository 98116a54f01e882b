#include "swiftprune/text/tokenizer.h"

#include "swiftprune/core/error.h"
#include "swiftprune/text/json_field.h"
#include "swiftprune/text/sentencepiece_tokenizer.h"
#include "swiftprune/text/tiktoken.h"
#include "swiftprune/text/tokenizer_json.h"

namespace swiftprune {
namespace {

std::unique_ptr<Tokenizer> open_file(const std::filesystem::path& file) {
  const std::string bytes = text::file_bytes(file);
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
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    if (std::filesystem::is_regular_file(folder / name)) return open_file(folder / name);
  }
  bad_input("{}: found neither tokenizer.json nor tokenizer.model, expected one of them", folder.string());
}

}  // namespace swiftprune
