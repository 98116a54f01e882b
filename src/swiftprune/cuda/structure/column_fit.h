// structure/refit.h on the device: the columns of a linear that stay, refitted by least squares.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "swiftprune/cuda/pipeline/row_effects.h"
#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/cuda/statistics/calibration.h"
#include "swiftprune/structure/refit.h"

namespace swiftprune::cuda {

// Which columns of a linear stay, on the device.
class KeptColumns {
 public:
  // most columns of a linear
  KeptColumns(DeviceMemory& memory, std::int64_t columns, cudaStream_t stream);
  void set(std::span<const std::int64_t> kept, std::int64_t columns);
  std::int64_t count() const { return count_; }
  const std::int32_t* kept() const { return kept_.as<std::int32_t>(); }    // [count]
  const std::int32_t* place() const { return place_.as<std::int32_t>(); }  // [columns], -1: gone

 private:
  cudaStream_t stream_;
  DeviceBuffer kept_, place_;
  std::int64_t count_ = 0;
};

class DeviceColumnFit {
 public:
  // cols, numel: the largest of a linear that is fitted.
  DeviceColumnFit(DeviceMemory& memory, Products& products, ColumnEnergies& energies, std::int64_t cols,
                  std::int64_t numel, cudaStream_t stream);
  // For all linears of one input, whose Gram and other matrices stay as they are. Waits for the device.
  // Throws Error{kBadInput} when no damping helps.
  void prepare(const DeviceStats& stats, std::span<const std::int64_t> kept, const RefitOptions& options,
               std::string_view tensor);
  // The solution for weight [O, I], in units of n; write() gives it to the columns of `out` [O, I], zeros to
  // the others.
  void solve(DeviceView weight);
  void write(DeviceView out) const;
  // Of each kept column of the last solution: |b|² / the inverse's diagonal element
  // (UnitEvidence::refit_costs). Waits.
  std::vector<double> costs();
  const KeptColumns& kept() const { return kept_; }

 private:
  Products& products_;
  ColumnEnergies& energies_;
  cudaStream_t stream_;
  KeptColumns kept_;
  DeviceBuffer norm_, factor_, scratch_, bad_, moments_, wide_, right_, product_;
  const float* residual_ = nullptr;
  double damping_ = 0.0, beta_ = 0.0;
  std::int64_t inputs_ = 0, rows_ = 0;
};

}  // namespace swiftprune::cuda
