// Arbitrary bytes as the two files of a LoRA folder.
#include "fuzz_folder.h"
#include "swiftprune/core/error.h"
#include "swiftprune/model/adapter.h"
#include "swiftprune/model/family.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftprune;
  static const ModelConfig model = model_config(nlohmann::json::parse(
      R"({"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
          "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 8, "rms_norm_eps": 1e-5})"));
  std::string_view rest = fuzz::text(data, size);
  const std::string_view config = fuzz::next_part(rest);
  // The header's length is made right, so that the rules behind it are reached.
  const std::uint64_t header = rest.size() / 2;
  try {
    fuzz::write(kAdapterConfigFile, config);
    fuzz::write(kAdapterFile, std::string(reinterpret_cast<const char*>(&header), 8) + std::string(rest));
    const auto adapter = Adapter::open(fuzz::folder(), model);
    for (const LinearTensors& linear : linears_of(model.blocks[0])) adapter->load(linear.name);
  } catch (const Error&) {
  }
  return 0;
}
