#include "swiftprune/cuda/structure/column_fit.h"

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/refinement/inverse.h"
#include "swiftprune/cuda/refinement/refinement_kernels.h"
#include "swiftprune/cuda/structure/structure_kernels.h"

namespace swiftprune::cuda {
namespace {

constexpr std::string_view kWhat = "the refit of columns";

std::uint64_t floats(std::int64_t n) { return static_cast<std::uint64_t>(n) * sizeof(float); }

}  // namespace

KeptColumns::KeptColumns(DeviceMemory& memory, std::int64_t columns, cudaStream_t stream)
    : stream_(stream),
      kept_(memory, static_cast<std::uint64_t>(columns) * sizeof(std::int32_t), kWhat),
      place_(memory, static_cast<std::uint64_t>(columns) * sizeof(std::int32_t), kWhat) {}

void KeptColumns::set(std::span<const std::int64_t> kept, std::int64_t columns) {
  const std::vector<std::int32_t> narrow(kept.begin(), kept.end());
  std::vector<std::int32_t> place(static_cast<std::size_t>(columns), -1);
  for (std::size_t k = 0; k < narrow.size(); ++k)
    place[static_cast<std::size_t>(narrow[k])] = static_cast<std::int32_t>(k);
  count_ = std::ssize(kept);
  const auto copy = [&](const std::vector<std::int32_t>& values, const DeviceBuffer& buffer) {
    expect(buffer.bytes() >= values.size() * sizeof(std::int32_t), "KeptColumns: room");
    copy_to_device(values, buffer.data(), stream_);
  };
  copy(narrow, kept_);
  copy(place, place_);
}

DeviceColumnFit::DeviceColumnFit(DeviceMemory& memory, Products& products, ColumnEnergies& energies,
                                 std::int64_t cols, std::int64_t numel, cudaStream_t stream)
    : products_(products),
      energies_(energies),
      stream_(stream),
      kept_(memory, cols, stream),
      norm_(memory, floats(cols), kWhat),
      factor_(memory, floats(cols * cols), kWhat),
      scratch_(memory, floats(inverse_scratch(cols)), kWhat),
      bad_(memory, sizeof(int), kWhat),
      moments_(memory, floats(cols * cols), kWhat),
      wide_(memory, floats(numel), kWhat),
      right_(memory, floats(numel), kWhat),
      product_(memory, floats(numel), kWhat) {}

void DeviceColumnFit::prepare(const DeviceStats& stats, std::span<const std::int64_t> kept,
                              const RefitOptions& options, std::string_view tensor) {
  expect(stats.gram() != nullptr, "DeviceColumnFit: a Gram matrix");
  inputs_ = stats.inputs();
  beta_ = options.beta;
  residual_ = options.beta > 0.0 ? stats.residual() : nullptr;
  kept_.set(kept, inputs_);
  const std::int64_t n = kept_.count();
  const auto* norm = norm_.as<float>();
  admm_norms(stats.gram(), inputs_, kRefitEnergyFloor, norm_.as<float>(), stream_);
  const float* cross = options.alpha > 0.0 ? stats.cross() : nullptr;
  kept_moments(stats.gram(), cross, inputs_, norm, kept_.kept(), n, static_cast<float>(options.alpha),
               moments_.as<float>(), stream_);
  damping_ = options.damping;
  for (int raised = 0;; ++raised, damping_ *= 10.0) {
    kept_gram(stats.gram(), inputs_, norm, kept_.kept(), n, static_cast<float>(damping_), factor_.as<float>(),
              stream_);
    if (try_inverse_factor(products_, view_of(factor_.data(), DType::kF32, n, n), scratch_.as<float>(),
                           bad_.as<int>(), false, stream_))
      return;
    if (raised == kMaxDampingRaises) {
      bad_input(
          "{}: found a Gram matrix that no damping up to {:g} of its mean diagonal makes positive definite; "
          "check the calibration data",
          tensor, damping_);
    }
  }
}

// B·n = (W·M + βR/n + δW')·WᵀW of the factor.
void DeviceColumnFit::solve(DeviceView weight) {
  const std::int64_t n = kept_.count();
  rows_ = weight.rows;
  const DeviceView right = view_of(right_.data(), DType::kF32, rows_, n);
  const DeviceView product = view_of(product_.data(), DType::kF32, rows_, n);
  const DeviceView factor = view_of(factor_.data(), DType::kF32, n, n);
  DeviceView wide = weight;
  if (weight.dtype != DType::kF32) {
    wide = view_of(wide_.data(), DType::kF32, rows_, inputs_);
    convert(weight.data, weight.dtype, wide.data, DType::kF32, weight.numel(), stream_);
  }
  kept_right(weight.data, weight.dtype, residual_, rows_, inputs_, norm_.as<float>(), kept_.kept(), n,
             static_cast<float>(damping_), static_cast<float>(beta_), right_.as<float>(), stream_);
  products_.run(
      {.a = wide, .b = view_of(moments_.data(), DType::kF32, inputs_, n), .c = right, .beta = 1.0f});
  products_.run({.a = right, .b = factor, .c = product, .b_transposed = true});
  products_.run({.a = product, .b = factor, .c = right});
}

void DeviceColumnFit::write(DeviceView out) const {
  spread_columns(right_.as<float>(), norm_.as<float>(), kept_.place(), rows_, out.cols, kept_.count(),
                 out.data, out.dtype, stream_);
}

std::vector<double> DeviceColumnFit::costs() {
  const std::int64_t n = kept_.count();
  std::vector<double> costs = energies_.of(view_of(right_.data(), DType::kF32, rows_, n), {});
  // (WᵀW)_jj
  const std::vector<double> diagonal = energies_.of(view_of(factor_.data(), DType::kF32, n, n), {});
  for (std::size_t j = 0; j < costs.size(); ++j) costs[j] /= diagonal[j];
  return costs;
}

}  // namespace swiftprune::cuda
