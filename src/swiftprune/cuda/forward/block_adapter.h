// model/adapter.h on the device: low-rank parts L = left·right beside the linears of the blocks.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "swiftprune/cuda/forward/block_weights.h"
#include "swiftprune/cuda/forward/per_layer.h"
#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/model/model.h"

namespace swiftprune::cuda {

class BlockAdapter {
 public:
  // rows: most rows a call. The model has an adapter. Keeps references.
  BlockAdapter(DeviceMemory& memory, Products& products, const Model& model, std::int64_t rows, DType compute,
               cudaStream_t stream);

  // The parts of all blocks, which then stay; else only those of the block that ran last do.
  void load_all();
  // y [N, ΣO] += L x for the linears of a product of `input` (block_weights.h); x [N, I] in the compute dtype.
  void add(const BlockWeights& block, LinearInput input, std::size_t product, DeviceView x, DeviceView y);

  std::int64_t num_bytes() const { return bytes_; }  // of all that was loaded

 private:
  struct Part {
    std::int64_t first = 0;  // column of y
    DeviceMatrix left, right;
  };
  using OfInput = std::array<std::vector<Part>, kMostProducts>;
  using OfBlock = std::array<OfInput, kNumLinearInputs>;
  const OfBlock& load(std::int64_t layer);
  OfBlock make(std::int64_t layer);
  DeviceMatrix upload_compute(const Matrix& values);

  DeviceMemory& memory_;
  Products& products_;
  const Model& model_;
  DType compute_;
  cudaStream_t stream_;
  std::int64_t bytes_ = 0;
  DeviceBuffer inner_;  // [rows, rank]
  PerLayer<OfBlock> blocks_;
};

}  // namespace swiftprune::cuda
