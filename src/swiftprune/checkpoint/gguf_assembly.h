// Tensors of a Hugging Face folder that are no single tensor of a GGUF file: experts, of which GGUF has one tensor for
// all of a block, the projection of latent attention, which it splits by heads (TensorForm in gguf_architectures.h), and
// numbers that are keys there. Each is described by how its pieces are made, so that no more than a piece is in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/gguf_architectures.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {

struct AssembledTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<const GgufTensor*> sources;  // none of a number that is a key
  std::int64_t piece = 0;                  // elements that one call makes; the last may be fewer
  bool counts_sources = false;             // bytes that stand for the parameters of the sources
  // The piece's values, or (MXFP4: dtype U8) its bytes. Thread-safe.
  std::function<void(std::int64_t index, std::span<float> values)> values = {};
  std::function<void(std::int64_t index, std::span<std::byte> bytes)> bytes = {};

  std::int64_t numel() const;
};

// Of all blocks of the model. config: the model's; it gets quantization_config where keep_mxfp4 kept experts in MXFP4
// (gpt-oss alone can hold them). Throws Error{kBadInput} naming the tensor whose shape is not what expert_count and the
// other numbers of the file say.
std::vector<AssembledTensor> assemble_gguf(const GgufFile& file, const GgufArchitecture& architecture,
                                           bool keep_mxfp4, nlohmann::ordered_json& config);

}  // namespace swiftprune
