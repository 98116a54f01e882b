// Arbitrary bytes as a GGUF file, imported where they are accepted.
#include "fuzz_folder.h"
#include "swiftprune/checkpoint/import_gguf.h"
#include "swiftprune/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftprune;
  fuzz::write("m.gguf", fuzz::text(data, size));
  try {
    std::filesystem::remove_all(fuzz::folder() / "out");
    import_gguf(fuzz::folder() / "m.gguf", fuzz::folder() / "out", {});
  } catch (const Error&) {
  }
  return 0;
}
