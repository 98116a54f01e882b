// The final norm and the output projection on the device.
#pragma once

#include <span>
#include <string>

#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/model/model.h"

namespace swiftprune::cuda {

// The dtype of activations: that of packed weights where the model has some (their products take no other), BF16 where
// they are grids of few bits, else as asked for.
DType compute_dtype(const Model& model, ComputeType compute);

// A tensor [vocab, hidden] of the model in the compute dtype, which may be packed in the checkpoint. Waits for the device.
DeviceMatrix load_token_table(DeviceMemory& memory, const Model& model, const std::string& name,
                              DType compute, cudaStream_t stream);

class DeviceFinalNorm {
 public:
  DeviceFinalNorm(DeviceMemory& memory, const Model& model, cudaStream_t stream);
  // hidden [N, hidden] F32, normed where the model has a norm, to the contiguous y.
  void apply(DeviceView hidden, void* y, DType y_dtype) const;
  // In place.
  void apply(DeviceView hidden) const;

 private:
  const ModelConfig& model_;
  cudaStream_t stream_;
  DeviceBuffer gain_, bias_;
};

class DeviceHead {
 public:
  // rows: most rows a call; 0: as many as bounded memory for the logits holds.
  DeviceHead(DeviceMemory& memory, Products& products, const Model& model, DType compute, std::int64_t rows,
             cudaStream_t stream);
  // What 0 means.
  static std::int64_t default_rows(std::int64_t vocab_size);

  std::int64_t num_bytes() const { return weight_.view().numel() * size_of(compute_); }  // of the projection

  // hidden [N, hidden] F32 -> [N, vocab] F32; they stand until the next call.
  DeviceView logits(DeviceView hidden);
  // Where the next call puts those of N rows.
  DeviceView logits_of(std::int64_t rows) const { return logits_.view().row_block(0, rows); }
  // hidden [N, hidden] F32, targets [N] and log_probs [N] on the device
  void log_probs(DeviceView hidden, const std::int32_t* targets, double* log_probs);
  // Σ -log softmax of the tokens ids[first_target..] that the rows before them predict; hidden [|ids|,
  // hidden]. Waits for the device.
  double loss(std::span<const std::int32_t> ids, DeviceView hidden, std::int64_t first_target);

 private:
  DeviceView project(DeviceView hidden);  // before the soft cap

  DeviceMemory& memory_;
  const ModelConfig& model_;
  Products& products_;
  DType compute_;
  cudaStream_t stream_;
  std::int64_t rows_ = 0;
  DeviceMatrix weight_, normed_, logits_;
  DeviceFinalNorm norm_;
  DeviceBuffer head_bias_;
};

}  // namespace swiftprune::cuda
