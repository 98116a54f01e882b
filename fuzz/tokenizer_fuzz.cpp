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
  fuzz::Folder& folder = fuzz::the_folder();
  for (const char* name : kFirst) folder.remove(name);
  folder.write(kFirst[kind], fuzz::next_part(rest));
  if (kind == 2) {
    folder.write("merges.txt", fuzz::next_part(rest));
    folder.write("config.json", R"({"model_type": "opt"})");
  }
  for (const char* name : kOthers) {
    folder.remove(name);
    if (!rest.empty()) folder.write(name, fuzz::next_part(rest));
  }
  try {
    const auto tokenizer = Tokenizer::open(fuzz::folder());
    tokenizer->decode(tokenizer->encode("Hello  world \xC3\xA9 <s>123"), false);
  } catch (const Error&) {
  }
  return 0;
}
