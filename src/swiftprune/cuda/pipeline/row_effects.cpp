#include "swiftprune/cuda/pipeline/row_effects.h"

#include <algorithm>

#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/forward/xielu.h"
#include "swiftprune/cuda/refinement/refinement_kernels.h"
#include "swiftprune/cuda/statistics/statistics_kernels.h"

namespace swiftprune::cuda {
namespace {

using enum LinearInput;
constexpr std::string_view kWhat = "row budgets";

std::uint64_t bytes_of(std::int64_t n, std::size_t size) { return static_cast<std::uint64_t>(n) * size; }

// Number of the first linear of the block that reads `input`.
std::size_t first_of(const BlockWeights& block, LinearInput input) {
  const auto& weights = block.layout().weights;
  return static_cast<std::size_t>(
      std::find_if(weights.begin(), weights.end(), [&](const auto& w) { return w.input == input; }) -
      weights.begin());
}

}  // namespace

ColumnEnergies::ColumnEnergies(DeviceMemory& memory, const Model& model, cudaStream_t stream)
    : memory_(memory), hidden_(model.config().hidden_size), stream_(stream) {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  for (const BlockConfig& block : model.config().blocks) {
    for (const LinearTensors& linear : linears_of(block)) {
      rows = std::max(rows, linear.outputs);
      cols = std::max(cols, linear.inputs);
    }
  }
  sums_ = DeviceBuffer(memory, bytes_of(cols, sizeof(double)), kWhat);
  scratch_ = DeviceBuffer(memory, static_cast<std::uint64_t>(statistics_scratch(rows, cols)), kWhat);
}

std::vector<double> ColumnEnergies::of(DeviceView weight, std::span<const float> scale) {
  StatisticsArgs args;
  args.x = weight.data;
  args.dtype = weight.dtype;
  args.rows = weight.rows;
  args.cols = weight.cols;
  args.energy = sums_.as<double>();
  args.scratch = scratch_.data();
  DeviceBuffer factors;
  DeviceBuffer scaled;
  if (!scale.empty()) {
    factors = upload(memory_, scale, kWhat, stream_);
    scaled = DeviceBuffer(memory_, bytes_of(weight.numel(), sizeof(float)), kWhat);
    scaled_difference(weight.data, weight.dtype, nullptr, weight.dtype, factors.as<float>(), weight.rows,
                      weight.cols, scaled.data(), DType::kF32, stream_);
    args.x = scaled.data();
    args.dtype = DType::kF32;
  }
  std::vector<double> host(static_cast<std::size_t>(weight.cols));
  check(cudaMemsetAsync(sums_.data(), 0, host.size() * sizeof(double), stream_));
  add_statistics(args, stream_);
  check(cudaMemcpyAsync(host.data(), sums_.data(), host.size() * sizeof(double), cudaMemcpyDeviceToHost,
                        stream_));
  check(cudaStreamSynchronize(stream_));
  return host;
}

RowEffects::Readers ColumnEnergies::readers_of(const BlockWeights& block) {
  RowEffects::Readers readers;
  readers.attention.assign(static_cast<std::size_t>(hidden_), 0.0);
  readers.mlp = readers.attention;
  const auto& weights = block.layout().weights;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (is_output(weights[i].input) || weights[i].cols != hidden_) continue;  // or inside latent attention
    const std::vector<double> sums = of(block.weight(i), {});
    std::vector<double>& to = weights[i].input == kAttention ? readers.attention : readers.mlp;
    for (std::size_t j = 0; j < to.size(); ++j) to[j] += sums[j];
  }
  return readers;
}

DeviceRowEffects::DeviceRowEffects(DeviceMemory& memory, Products& products, BlockForward& forward,
                                   const Model& model, std::span<const RowEffects::Readers> readers,
                                   cudaStream_t stream)
    : memory_(memory),
      products_(products),
      forward_(forward),
      config_(model.config()),
      effects_(model, readers),
      columns_(memory, model, stream),
      stream_(stream) {}

std::vector<double> DeviceRowEffects::download(const DeviceBuffer& buffer, std::int64_t count) const {
  std::vector<double> host(static_cast<std::size_t>(count));
  check(cudaMemcpyAsync(host.data(), buffer.data(), host.size() * sizeof(double), cudaMemcpyDeviceToHost,
                        stream_));
  check(cudaStreamSynchronize(stream_));
  return host;
}

// w G wᵀ of each row of the linears that read kAttention; by the energies alone where no Gram was collected.
std::vector<std::vector<double>> DeviceRowEffects::output_energies(const BlockWeights& dense,
                                                                   const DeviceStats& stats) {
  std::vector<std::vector<double>> result;
  const auto& weights = dense.layout().weights;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i].input != kAttention) continue;
    const DeviceView w = dense.weight(i);
    const DeviceBuffer energies(memory_, bytes_of(w.rows, sizeof(double)), kWhat);
    if (stats.gram() == nullptr) {
      weighted_row_energies(w.data, w.dtype, stats.device_energy(), w.rows, w.cols, energies.as<double>(),
                            stream_);
    } else {
      const DeviceMatrix wide(memory_, DType::kF32, w.rows, w.cols, kWhat);
      const DeviceMatrix product(memory_, DType::kF32, w.rows, w.cols, kWhat);
      convert(w.data, w.dtype, wide.view().data, DType::kF32, w.numel(), stream_);
      products_.run({.a = wide.view(),
                     .b = view_of(stats.gram(), DType::kF32, w.cols, w.cols),
                     .c = product.view(),
                     .tf32 = forward_.compute() == DType::kBF16});
      row_dots(wide.view().data, DType::kF32, static_cast<const float*>(product.view().data), w.rows, w.cols,
               energies.as<double>(), stream_);
    }
    result.push_back(download(energies, w.rows));
  }
  return result;
}

std::vector<std::vector<float>> DeviceRowEffects::of(const BlockWeights& dense, std::int64_t layer,
                                                     LinearInput input, const DeviceStats& stats) {
  if (is_output(input)) return effects_.of_outputs(layer, input);
  if (input == kAttention && RowEffects::rows_are_alike(dense.config())) {
    std::vector<std::vector<float>> alike;
    for (const BlockLayout::Weight& weight : dense.layout().weights) {
      if (weight.input == kAttention) alike.emplace_back(static_cast<std::size_t>(weight.rows), 1.0f);
    }
    return alike;
  }
  if (input == kAttention) {
    const std::vector<double> columns = columns_.of(dense.weight(first_of(dense, kAttentionOutput)), {});
    return effects_.of_attention(layer, output_energies(dense, stats), columns);
  }
  const DeviceView x = stats.sample();
  expect(x.rows > 0, "row budgets: a sample of the MLP's inputs");
  const std::int64_t size = config_.blocks[static_cast<std::size_t>(layer)].down.inputs;
  const DeviceBuffer gate(memory_, bytes_of(size, sizeof(double)), kWhat);
  const DeviceBuffer up(memory_, bytes_of(size, sizeof(double)), kWhat);
  const void* inner = forward_.up(dense, x).data;
  if (dense.xielu()) {
    xielu_effects(*dense.xielu(), inner, forward_.compute(), x.rows, size, gate.as<double>(), up.as<double>(),
                  stream_);
  } else {
    mlp_effects(kind_of(config_.activation), config_.gated_mlp, inner, forward_.compute(), x.rows, size,
                gate.as<double>(), up.as<double>(), stream_);
  }
  const std::vector<double> columns =
      columns_.of(dense.weight(first_of(dense, kMlpOutput)), effects_.mlp_output_gains(layer));
  return effects_.of_mlp(layer, download(gate, size), download(up, size), columns);
}

}  // namespace swiftprune::cuda
