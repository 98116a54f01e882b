#include "swiftprune/cuda/structure/unit_scores.h"

#include <algorithm>

#include "swiftprune/cuda/statistics/statistics_kernels.h"

namespace swiftprune::cuda {
namespace {

constexpr std::string_view kWhat = "the scores of units";

std::uint64_t doubles(std::int64_t n) { return static_cast<std::uint64_t>(n) * sizeof(double); }

}  // namespace

OutputSizes output_sizes(const Model& model) {
  OutputSizes sizes;
  for (const BlockConfig& block : model.config().blocks) {
    for (const LinearTensors* linear : {&block.attention_output, &block.down}) {
      sizes.rows = std::max(sizes.rows, linear->outputs);
      sizes.cols = std::max(sizes.cols, linear->inputs);
      sizes.numel = std::max(sizes.numel, linear->outputs * linear->inputs);
    }
  }
  return sizes;
}

DeviceUnitScores::DeviceUnitScores(DeviceMemory& memory, ColumnEnergies& energies, DeviceColumnFit* fit,
                                   const Model& model, cudaStream_t stream)
    : energies_(energies), fit_(fit), stream_(stream) {
  const OutputSizes sizes = output_sizes(model);
  row_sums_ = DeviceBuffer(memory, doubles(sizes.rows), kWhat);
  column_sums_ = DeviceBuffer(memory, doubles(sizes.cols), kWhat);
  scratch_ =
      DeviceBuffer(memory, static_cast<std::uint64_t>(statistics_scratch(sizes.rows, sizes.cols)), kWhat);
}

std::vector<double> DeviceUnitScores::absolute_sums(DeviceView weight) {
  abs_sums(weight.data, weight.dtype, weight.rows, weight.cols, row_sums_.as<double>(),
           column_sums_.as<double>(), scratch_.data(), stream_);
  std::vector<double> sums(static_cast<std::size_t>(weight.cols));
  check(cudaMemcpyAsync(sums.data(), column_sums_.data(), doubles(weight.cols), cudaMemcpyDeviceToHost,
                        stream_));
  check(cudaStreamSynchronize(stream_));
  return sums;
}

std::vector<double> DeviceUnitScores::score(const UnitScorer& scorer, DeviceView weight,
                                            const DeviceStats& stats, std::int64_t num_kept) {
  const LayerStats view = stats.view();
  return scorer.score({[&] { return energies_.of(weight, {}); }, [&] { return absolute_sums(weight); }, view,
                       num_kept,
                       [&](std::span<const std::int64_t> left, double damping) {
                         expect(fit_ != nullptr, "DeviceUnitScores: a fit for a score that refits");
                         fit_->prepare(stats, left, {.damping = damping}, scorer.name);
                         fit_->solve(weight);
                         return fit_->costs();
                       }});
}

}  // namespace swiftprune::cuda
