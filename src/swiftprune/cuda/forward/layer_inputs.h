// model/layer_inputs.h on the device: what each token adds to a block behind its MLP. What a token's id alone decides is
// a table of the block, [vocab, size], made when the block first runs.
#pragma once

#include <cstdint>

#include "swiftprune/cuda/forward/per_layer.h"
#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/model/model.h"

namespace swiftprune::cuda {

class DeviceLayerInputs {
 public:
  // rows: most rows a call. Keeps references.
  DeviceLayerInputs(DeviceMemory& memory, Products& products, const Model& model, std::int64_t rows,
                    DType compute, cudaStream_t stream);

  // The tables of all blocks, which then stay; else only those of the block that ran last do.
  void load_all();
  // rows [N, row_size] F32: the hidden states become those behind this step of block `layer`. x [N, hidden] in the compute
  // dtype and y [N, hidden] F32 are room.
  void add(std::int64_t layer, DeviceView rows, DeviceView x, DeviceView y);

 private:
  struct Layer {
    DeviceMatrix tokens;  // [vocab, size]: e of LayerEmbeddings for each token
    DeviceMatrix gate;    // [size, hidden]
    DeviceMatrix projection;
    DeviceBuffer gain;  // [hidden]
  };
  const Layer& load(std::int64_t layer);
  Layer make(std::int64_t layer);
  DeviceMatrix embed(std::int64_t layer);

  DeviceMemory& memory_;
  Products& products_;
  const Model& model_;
  const ModelConfig& config_;
  std::int64_t size_;
  DType compute_;
  cudaStream_t stream_;
  DeviceMatrix embedding_;  // [vocab, hidden]
  DeviceMatrix gate_;       // [rows, size]
  PerLayer<Layer> layers_;
};

}  // namespace swiftprune::cuda
