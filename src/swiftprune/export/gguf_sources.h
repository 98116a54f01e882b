// Tensors of a GGUF file that are made of others in the Hugging Face folder: all experts of a block in one tensor,
// latent attention's projection split by heads, linears that hold several in others' rows (TensorForm in checkpoint/gguf_architectures.h). What
// checkpoint/gguf_assembly.h undoes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "swiftprune/checkpoint/gguf_architectures.h"
#include "swiftprune/model/model.h"

namespace swiftprune {

// A matrix [rows, cols] in one of the types that swiftprune computes with.
struct StoredMatrix {
  std::vector<std::byte> bytes;
  DType dtype = DType::kF32;
};

struct GgufSource {
  const TensorRule* rule = nullptr;
  std::int64_t block = 0;
  bool is_bias = false;
  std::vector<std::int64_t>
      shape;  // [matrices, rows, cols], of a bias [matrices, cols]; [rows, cols] of one matrix
  DType dtype = DType::kF32;         // of the weights in the folder; U8 for MXFP4
  std::string name;                  // of one of its tensors in the folder, for messages
  std::vector<std::string> tensors;  // all of them
  std::function<StoredMatrix(std::int64_t index)> matrix;
  // The same as GGUF's MXFP4 blocks, where the folder has them in MXFP4; else null.
  std::function<std::vector<std::byte>(std::int64_t index)> mxfp4 = {};

  std::int64_t matrices() const { return is_bias || shape.size() > 2 ? shape.front() : 1; }
  std::int64_t rows() const { return is_bias ? 1 : shape[shape.size() - 2]; }
  std::int64_t cols() const { return shape.back(); }
};

std::vector<GgufSource> gguf_sources(const Model& model, const GgufArchitecture& architecture);

}  // namespace swiftprune
