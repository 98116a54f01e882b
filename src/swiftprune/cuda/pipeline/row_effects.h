// The sums that row budgets are made of (pipeline/choices/row_budgets.h), measured on the device.
#pragma once

#include <optional>
#include <vector>

#include "swiftprune/cuda/forward/block.h"
#include "swiftprune/cuda/statistics/calibration.h"
#include "swiftprune/pipeline/choices/row_budgets.h"

namespace swiftprune::cuda {

// Σ_i (scale_i·W_ij)² of each column of a block's weights.
class ColumnEnergies {
 public:
  ColumnEnergies(DeviceMemory& memory, const Model& model, cudaStream_t stream);
  // [I]; scale [O] or empty. Waits for the device.
  std::vector<double> of(DeviceView weight, std::span<const float> scale);
  // Over the linears that read the block's two normed inputs.
  RowEffects::Readers readers_of(const BlockWeights& block);

 private:
  DeviceMemory& memory_;
  std::int64_t hidden_;
  cudaStream_t stream_;
  DeviceBuffer sums_, scratch_;
};

class DeviceRowEffects {
 public:
  // readers: of every block.
  DeviceRowEffects(DeviceMemory& memory, Products& products, BlockForward& forward, const Model& model,
                   std::span<const RowEffects::Readers> readers, cudaStream_t stream);
  // As RowEffects::of(). The Gram matrix of kAttention must be as it was collected. Waits for the device.
  std::vector<std::vector<float>> of(const BlockWeights& dense, std::int64_t layer, LinearInput input,
                                     const DeviceStats& stats);

 private:
  std::vector<std::vector<double>> output_energies(const BlockWeights& dense, const DeviceStats& stats);
  std::vector<double> download(const DeviceBuffer& buffer, std::int64_t count) const;

  DeviceMemory& memory_;
  Products& products_;
  BlockForward& forward_;
  const ModelConfig& config_;
  RowEffects effects_;
  ColumnEnergies columns_;
  cudaStream_t stream_;
};

}  // namespace swiftprune::cuda
