// Arbitrary bytes as pytorch_model.bin, in a model's folder where it is accepted, and as the pickle in it.
#include "fuzz_folder.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/pickle.h"
#include "swiftprune/checkpoint/pytorch_file.h"
#include "swiftprune/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftprune;
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    for (const PytorchTensor& tensor : parse_pytorch(bytes, "fuzz")) gather(bytes, tensor);
    fuzz::write("config.json", R"({"model_type": "llama"})");
    fuzz::write("pytorch_model.bin", fuzz::text(data, size));
    const Checkpoint checkpoint = Checkpoint::open(fuzz::folder());
    for (const TensorInfo& tensor : checkpoint.tensors()) checkpoint.bytes(tensor);
  } catch (const Error&) {
  }
  try {
    parse_pickle(bytes, "fuzz");
  } catch (const Error&) {
  }
  return 0;
}
