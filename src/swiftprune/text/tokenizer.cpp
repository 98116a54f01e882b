#include "swiftprune/text/tokenizer.h"

#include "swiftprune/core/error.h"
#include "swiftprune/text/tokenizer_json.h"

namespace swiftprune {

std::unique_ptr<Tokenizer> Tokenizer::open(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  if (fs::is_directory(folder)) {
    if (fs::is_regular_file(folder / "tokenizer.json"))
      return text::open_tokenizer_json(folder / "tokenizer.json");
    bad_input("{}: found neither tokenizer.json nor tokenizer.model, expected one of them", folder.string());
  }
  return text::open_tokenizer_json(folder);
}

}  // namespace swiftprune
