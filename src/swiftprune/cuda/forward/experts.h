// The experts of a block on the device (model/experts.h): a few tokens read the weights that they chose where these
// lie, packed or not; many are sorted by expert on the host, and each expert multiplies its own.
#pragma once

#include <cstdint>
#include <vector>

#include "swiftprune/cuda/forward/block_weights.h"
#include "swiftprune/cuda/forward/expert_kernels.h"
#include "swiftprune/model/experts.h"

namespace swiftprune::cuda {

class DeviceExperts {
 public:
  // rows: most rows a call. The model has experts.
  DeviceExperts(DeviceMemory& memory, Products& products, const Model& model, std::int64_t rows,
                DType compute, cudaStream_t stream);

  // hidden [N, hidden] F32 += factor·Σ_j g_j·f_j(x), x [N, hidden]. recordable: without a word from the host, whatever N
  // is.
  void add_outputs(const BlockWeights& block, DeviceView x, DeviceView hidden, bool recordable, float factor);

  // Who gets which tokens of x, and with what weight; on the host.
  std::vector<ExpertTokens> route(const BlockWeights& block, DeviceView x);

  // The steps for one expert after the other. Results stand until the same step is called again.
  //
  // The router's logits without bias [N, E'], of its rows `weight` [E', hidden] F32.
  void logits(DeviceView x, DeviceView weight, DeviceView logits);
  DeviceView inner(const BlockWeights& block, std::int64_t expert, DeviceView x);        // [n, I]
  DeviceView project(const BlockWeights& block, std::int64_t expert, DeviceView inner);  // [n, hidden] F32

 private:
  ClampedGate clamped() const { return {experts_.clamped->alpha, experts_.clamped->limit}; }
  // The weights are multiplied by `factor`.
  void choose(const BlockWeights& block, DeviceView x, float factor);
  std::vector<ExpertTokens> download_chosen(std::int64_t rows, std::int64_t num_experts);
  void add_few(const BlockWeights& block, DeviceView x, DeviceView hidden);
  void add_many(const BlockWeights& block, DeviceView x, DeviceView hidden);

  const ModelConfig& model_;
  const ExpertsConfig& experts_;  // of the first block that has them: how many there are, each block says
  Products& products_;
  DType compute_;
  cudaStream_t stream_;
  DeviceMatrix wide_;            // [rows, hidden] F32: inputs as the router reads them, outputs of one expert
  DeviceMatrix x_, up_, inner_;  // of one expert, or inner values of a few tokens' experts
  DeviceMatrix expanded_;        // of packed ones: the weights of one expert
  DeviceMatrix logits_;
  DeviceBuffer chosen_, gates_;         // [rows, top_k]
  DeviceBuffer order_, ordered_gates_;  // [rows·top_k] by expert
  PinnedBuffer host_chosen_, host_gates_;
};

}  // namespace swiftprune::cuda
