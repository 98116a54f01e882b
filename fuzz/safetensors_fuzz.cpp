// Arbitrary bytes as a safetensors file, and as the index of its shards.
#include "fuzz_folder.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftprune;
  std::string_view rest = fuzz::text(data, size);
  const std::string_view shard = fuzz::next_part(rest);
  // The header's length is made right, so that the rules behind it are reached.
  const std::uint64_t header = shard.size() / 2;
  const std::string file = std::string(reinterpret_cast<const char*>(&header), 8) + std::string(shard);
  try {
    parse_safetensors(std::as_bytes(std::span(file)), "fuzz");
  } catch (const Error&) {
  }
  try {
    fuzz::write("config.json", R"({"model_type": "llama"})");
    fuzz::write("a.safetensors", file);
    fuzz::write("model.safetensors.index.json", rest);
    const Checkpoint checkpoint = Checkpoint::open(fuzz::folder());
    constexpr std::int64_t kMostNumbers = 1024;
    for (const TensorInfo& tensor : checkpoint.tensors()) {
      checkpoint.bytes(tensor);
      if (tensor.numel() <= kMostNumbers) checkpoint.load_tensor(tensor.name, tensor.shape);
    }
  } catch (const Error&) {
  }
  return 0;
}
