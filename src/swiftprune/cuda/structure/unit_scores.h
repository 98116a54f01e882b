// The scores of structure/unit_scores.h from weights and statistics on the device.
#pragma once

#include <vector>

#include "swiftprune/cuda/structure/column_fit.h"
#include "swiftprune/structure/unit_scores.h"

namespace swiftprune::cuda {

class DeviceUnitScores {
 public:
  // fit: for scores that refit, else may be null.
  DeviceUnitScores(DeviceMemory& memory, ColumnEnergies& energies, DeviceColumnFit* fit, const Model& model,
                   cudaStream_t stream);
  // As score_columns(). Waits for the device.
  std::vector<double> score(const UnitScorer& scorer, DeviceView weight, const DeviceStats& stats,
                            std::int64_t num_kept);

 private:
  std::vector<double> absolute_sums(DeviceView weight);

  ColumnEnergies& energies_;
  DeviceColumnFit* fit_;
  cudaStream_t stream_;
  DeviceBuffer row_sums_, column_sums_, scratch_;
};

// The largest output projection of the model.
struct OutputSizes {
  std::int64_t rows = 0, cols = 0, numel = 0;
};
OutputSizes output_sizes(const Model& model);

}  // namespace swiftprune::cuda
