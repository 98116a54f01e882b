#include "swiftprune/cuda/statistics/calibration.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/cuda/kernels.h"

namespace swiftprune::cuda {
namespace {

constexpr int kSums = 3;
constexpr std::int64_t kPanels = 4;  // of the lower triangle: 62 % of the work of the square

std::uint64_t bytes_of(std::int64_t numel, std::int64_t size) {
  return static_cast<std::uint64_t>(numel * size);
}

}  // namespace

StatisticsScratch::StatisticsScratch(DeviceMemory& memory, DType compute, std::int64_t rows,
                                     std::int64_t inputs, std::int64_t weighted, std::int64_t hidden)
    : compute_(compute),
      sums_(memory, static_cast<std::uint64_t>(statistics_scratch(rows, inputs)), "statistics of one pass") {
  constexpr std::string_view kWhat = "weighted activations of one pass";
  if (weighted > 0) x_ = DeviceBuffer(memory, bytes_of(rows * weighted, size_of(compute)), kWhat);
  if (hidden > 0) residual_ = DeviceBuffer(memory, bytes_of(rows * hidden, size_of(compute)), kWhat);
}

DeviceStats::DeviceStats(DeviceMemory& memory, std::int64_t max_inputs, cudaStream_t stream)
    : stream_(stream),
      sums_(memory, bytes_of(kSums * max_inputs, sizeof(double)), "sums over activations"),
      memory_(memory) {}

void DeviceStats::start(std::int64_t inputs, const StatNeeds& needs, const Moments& moments,
                        std::int64_t residual_size) {
  needs_ = needs;
  inputs_ = inputs;
  num_tokens_ = num_windows_ = 0;
  sample_ = {};
  host_.assign(static_cast<std::size_t>(kSums * inputs), 0.0);
  expect(sums_.bytes() >= host_.size() * sizeof(double), "DeviceStats: room for the sums");
  check(cudaMemsetAsync(sums_.data(), 0, sums_.bytes(), stream_));
  const auto take = [&](const DeviceBuffer& buffer, std::int64_t rows) {
    const std::uint64_t bytes = bytes_of(rows * inputs, sizeof(float));
    expect(buffer.bytes() >= bytes, "DeviceStats: room for the moments");
    check(cudaMemsetAsync(buffer.data(), 0, bytes, stream_));
    return buffer.as<float>();
  };
  gram_ = needs.gram ? take(moments.gram, inputs) : nullptr;
  cross_ = needs.alignment ? take(moments.cross, inputs) : nullptr;
  residual_size_ = residual_size;
  residual_ = needs.alignment && residual_size > 0 ? take(moments.residual, residual_size) : nullptr;
}

void DeviceStats::add_window(const StatisticsScratch& scratch, DeviceView x) {
  auto* sums = sums_.as<double>();
  StatisticsArgs args;
  args.x = x.data;
  args.dtype = x.dtype;
  args.rows = x.rows;
  args.cols = x.cols;
  args.energy = sums;
  if (needs_.ewma_energy) {
    args.ewma = sums + inputs_;
    args.ewma_weight = ewma_window_weight(num_windows_);
  }
  if (needs_.sum) args.sum = sums + 2 * inputs_;
  args.scratch = scratch.sums();
  add_statistics(args, stream_);
  if (needs_.sample && num_windows_ == 0) {
    const std::int64_t rows = std::min(x.rows, kSampledTokens);
    const std::uint64_t bytes = bytes_of(rows * x.cols, size_of(x.dtype));
    if (sample_memory_.bytes() < bytes) sample_memory_ = DeviceBuffer(memory_, bytes, "a sample of inputs");
    sample_ = view_of(sample_memory_.data(), x.dtype, rows, x.cols);
    check(cudaMemcpyAsync(sample_.data, x.data, bytes, cudaMemcpyDeviceToDevice, stream_));
  }
  num_tokens_ += x.rows;
  ++num_windows_;
}

void DeviceStats::add_windows(const StatisticsScratch& scratch, DeviceView x, std::int64_t seqlen) {
  for (std::int64_t first = 0; first < x.rows; first += seqlen)
    add_window(scratch, x.row_block(first, seqlen));
}

// Column panels of the lower triangle.
void DeviceStats::add_gram(Products& products, DeviceView x) {
  if (gram_ == nullptr) return;
  const DeviceView gram = view_of(gram_, DType::kF32, inputs_, inputs_);
  const std::int64_t panel = round_up(ceil_div(inputs_, kPanels), 128);
  for (std::int64_t first = 0; first < inputs_; first += panel) {
    const std::int64_t width = std::min(panel, inputs_ - first);
    const std::int64_t height = inputs_ - first;
    products.run({.a = x.col_block(first, height),
                  .b = x.col_block(first, width),
                  .c = gram.row_block(first, height).col_block(first, width),
                  .a_transposed = true,
                  .beta = 1.0f});
  }
}

void DeviceStats::add_aligned(Products& products, const StatisticsScratch& scratch, const AlignedRows& rows,
                              std::int64_t seqlen) {
  DeviceView x = rows.x;
  const DeviceView dense = rows.dense_x;
  if (rows.roots != nullptr) {
    x = scratch.x(rows.x.rows, rows.x.cols);
    scaled_difference(rows.x.data, rows.x.dtype, nullptr, rows.x.dtype, rows.roots, x.rows, x.cols, x.data,
                      x.dtype, stream_);
    scaled_difference(rows.dense_x.data, rows.dense_x.dtype, nullptr, rows.dense_x.dtype, rows.roots, x.rows,
                      x.cols, dense.data, dense.dtype, stream_);
  }
  add_windows(scratch, x, seqlen);
  add_gram(products, x);
  if (cross_ != nullptr) {
    products.run({.a = dense,
                  .b = x,
                  .c = view_of(cross_, DType::kF32, inputs_, inputs_),
                  .a_transposed = true,
                  .beta = 1.0f});
  }
  if (residual_ == nullptr || rows.residual.data == nullptr) return;
  const DeviceView error = scratch.residual(x.rows, residual_size_);
  scaled_difference(rows.dense_residual.data, DType::kF32, rows.residual.data, DType::kF32, rows.roots,
                    x.rows, residual_size_, error.data, error.dtype, stream_);
  products.run({.a = error,
                .b = x,
                .c = view_of(residual_, DType::kF32, residual_size_, inputs_),
                .a_transposed = true,
                .beta = 1.0f});
}

void DeviceStats::finish(std::string_view input) {
  if (gram_ != nullptr) symmetrize(gram_, inputs_, stream_);
  check(cudaMemcpyAsync(host_.data(), sums_.data(), host_.size() * sizeof(double), cudaMemcpyDeviceToHost,
                        stream_));
  check(cudaStreamSynchronize(stream_));
  for (std::int64_t i = 0; i < inputs_; ++i) {
    if (!std::isfinite(host_[static_cast<std::size_t>(i)])) {
      bad_input(
          "{}: input channel {} is not finite on the calibration text, expected finite activations; "
          "is a weight NaN or infinite? (swiftprune inspect shows it), or try --compute f32",
          input, i);
    }
  }
}

LayerStats DeviceStats::view() const {
  const auto n = static_cast<std::size_t>(inputs_);
  const std::span<const double> all(host_);
  LayerStats stats;
  stats.num_tokens = num_tokens_;
  stats.energy = all.first(n);
  if (needs_.ewma_energy) stats.ewma_energy = all.subspan(n, n);
  if (needs_.sum) stats.sum = all.subspan(2 * n, n);
  return stats;
}

}  // namespace swiftprune::cuda
