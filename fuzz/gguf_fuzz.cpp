// Arbitrary bytes as a GGUF file whose tensors end with zeros (seeds are headers, which keeps a round short); of what is
// accepted, every tensor is read, of large ones a row, and the tokenizer made, as an import does.
#include "fuzz_folder.h"
#include "swiftprune/checkpoint/import_gguf.h"
#include "swiftprune/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftprune;
  constexpr std::size_t kZeros = 1 << 17, kWhole = 1 << 10;  // bytes
  fuzz::the_folder().write("m.gguf", fuzz::text(data, size), kZeros);
  try {
    const GgufModel model = GgufModel::open(fuzz::folder() / "m.gguf");
    std::vector<std::byte> row;
    for (std::size_t i = 0; i < model.tensors().size(); ++i) {
      const GgufModel::Tensor& tensor = model.tensors()[i];
      if (tensor.num_bytes() > kWhole && model.has_rows(i) && tensor.shape.front() > 0) {
        row.resize(tensor.num_bytes() / static_cast<std::uint64_t>(tensor.shape.front()));
        model.read_rows(i, tensor.shape.front() - 1, 1, row);
      } else {
        model.read_all(i, [](std::int64_t, std::span<const std::byte>) {});
      }
    }
    model.tokenizer_files();
  } catch (const Error&) {
  }
  return 0;
}
