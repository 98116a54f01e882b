// Arbitrary bytes as JSON, JSON Lines, a .json of documents and compressed text, chosen by the first byte.
#include "fuzz_folder.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/text/json_lines.h"
#include "swiftprune/text/parse_text.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftprune;
  if (size == 0) return 0;
  const std::string_view text = fuzz::text(data + 1, size - 1);
  // What unpacks to megabytes would take most of the time, and is the work of zlib and zstd.
  constexpr std::size_t kMostPacked = 64;
  const bool packed = text.starts_with("\x1F\x8B") || text.starts_with("\x28\xB5\x2F\xFD");
  if (packed && text.size() > kMostPacked) return -1;
  constexpr const char* kNames[] = {"t.jsonl", "t.json", "t.txt"};
  const std::size_t kind = data[0] % 4;
  try {
    if (kind < 3) {
      parse_corpus(kNames[kind], std::string(text));
    } else {
      mended_json(text);
      json_excerpt(parse_json(text, "fuzz"), 40);
    }
  } catch (const Error&) {
  }
  return 0;
}
