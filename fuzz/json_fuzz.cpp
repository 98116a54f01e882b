// Arbitrary bytes as JSON, JSON Lines, a .json of documents and compressed text.
#include "fuzz_folder.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/text/json_lines.h"
#include "swiftprune/text/parse_text.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftprune;
  const std::string_view text = fuzz::text(data, size);
  try {
    json_excerpt(parse_json(text, "fuzz"), 40);
  } catch (const Error&) {
  }
  mended_json(text);
  for (const char* name : {"t.jsonl", "t.json", "t.txt"}) {
    try {
      parse_corpus(name, std::string(text));
    } catch (const Error&) {
    }
  }
  return 0;
}
