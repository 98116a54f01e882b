// Arbitrary bytes as the files of a tokenizer, chosen by the first byte; what is accepted encodes and
// decodes.
#include "fuzz_folder.h"
#include "swiftprune/core/error.h"
#include "swiftprune/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftprune;
  if (size == 0) return 0;
  std::string_view rest = fuzz::text(data + 1, size - 1);
  constexpr const char* kFirst[] = {"tokenizer.json", "tokenizer.model", "vocab.json"};
  constexpr const char* kOthers[] = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};
  const std::size_t kind = data[0] % 3;
  const std::string_view first = fuzz::next_part(rest);
  const std::string_view merges = kind == 2 ? fuzz::next_part(rest) : std::string_view();
  std::size_t others = 0;
  std::string_view other[3];
  while (others < 3 && !rest.empty()) other[others++] = fuzz::next_part(rest);
  // A folder for each set of files, so that none goes again.
  static const fuzz::Folder folders[3][4];
  const fuzz::Folder& folder = folders[kind][others];
  folder.write(kFirst[kind], first);
  if (kind == 2) {
    folder.write("merges.txt", merges);
    folder.write("config.json", R"({"model_type": "opt"})");
  }
  for (std::size_t i = 0; i < others; ++i) folder.write(kOthers[i], other[i]);
  try {
    const auto tokenizer = Tokenizer::open(folder.path());
    tokenizer->decode(tokenizer->encode("Hello  world \xC3\xA9 <s>123"), false);
  } catch (const Error&) {
  }
  return 0;
}
