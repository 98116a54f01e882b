// The final norm and the output projection on the device.
#pragma once

#include "swiftprune/cuda/kernels.h"
#include "swiftprune/cuda/products.h"
#include "swiftprune/cuda/runtime.h"
#include "swiftprune/model/model.h"

namespace swiftprune::cuda {

// The dtype of activations: that of packed weights where the model has some (their products take no other),
// else as asked for.
DType compute_dtype(const Model& model, ComputeType compute);

class DeviceHead {
 public:
  // rows: most rows a call; 0: as many as bounded memory for the logits holds.
  DeviceHead(DeviceMemory& memory, Products& products, const Model& model, DType compute, std::int64_t rows,
             cudaStream_t stream);
  std::int64_t rows() const { return rows_; }

  std::int64_t num_bytes() const { return weight_.view().numel() * size_of(compute_); }  // of the projection

  // hidden [N, hidden] F32 -> [N, vocab] F32; they stand until the next call.
  DeviceView logits(DeviceView hidden);
  // Where the next call puts those of N rows.
  DeviceView logits_of(std::int64_t rows) const { return logits_.view().row_block(0, rows); }
  // hidden [N, hidden] F32, targets [N] and log_probs [N] on the device
  void log_probs(DeviceView hidden, const std::int32_t* targets, double* log_probs);

 private:
  DeviceView project(DeviceView hidden);  // before the soft cap

  const ModelConfig& model_;
  Products& products_;
  DType compute_;
  cudaStream_t stream_;
  std::int64_t rows_ = 0;
  DeviceMatrix weight_, normed_, logits_;
  DeviceBuffer gain_, bias_, head_bias_;
};

}  // namespace swiftprune::cuda
