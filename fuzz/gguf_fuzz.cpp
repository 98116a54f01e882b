// Arbitrary bytes as blocks of the type that the first byte names, or (as "G" names none) as a GGUF file whose tensors end with zeros (seeds are headers, which keeps a round short); of what is
// accepted, every tensor is read, of large ones a row, and the tokenizer made, as an import does.
#include "fuzz_folder.h"
#include "swiftprune/checkpoint/gguf_dequantize.h"
#include "swiftprune/checkpoint/import_gguf.h"
#include "swiftprune/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftprune;
  if (const GgmlTypeTraits* type = size == 0 ? nullptr : find_ggml_type(data[0])) {
    const auto block = static_cast<std::size_t>(type->block_bytes), blocks = (size - 1) / block;
    const auto bytes = std::as_bytes(std::span(data + 1, blocks * block));
    // Not aligned, as a block may lie anywhere in a file.
    std::vector<float> values(blocks * static_cast<std::size_t>(type->block_size));
    dequantize(*type, bytes, values);
    return 0;
  }
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
