#include "swiftprune/cuda/pipeline/output_errors.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/refinement/refinement_kernels.h"
#include "swiftprune/cuda/statistics/statistics_kernels.h"
#include "swiftprune/pipeline/drivers/linear_numbers.h"
#include "swiftprune/refinement/layer_error.h"

namespace swiftprune::cuda {
namespace {

constexpr std::string_view kWhat = "output errors";
constexpr std::int64_t kMaxRows = 512;  // of output_error_step()

std::int64_t num_sampled(std::int64_t rows) { return ceil_div(rows, output_error_step(rows)); }

// Every `step`-th row of a contiguous matrix.
void take_rows(DeviceView from, void* to, cudaStream_t stream) {
  const auto row = static_cast<std::size_t>(from.cols * size_of(from.dtype));
  const auto step = static_cast<std::size_t>(output_error_step(from.rows));
  check(cudaMemcpy2DAsync(to, row, from.data, row * step, row,
                          static_cast<std::size_t>(num_sampled(from.rows)), cudaMemcpyDeviceToDevice,
                          stream));
}

}  // namespace

OutputErrors::OutputErrors(DeviceMemory& memory, Products& products, const Model& model, cudaStream_t stream)
    : products_(products), stream_(stream) {
  // The most of any block: bytes by linear, and of an expert's parts.
  std::vector<std::uint64_t> bytes, of_experts;
  std::size_t most_linears = 0;
  std::int64_t numel = 0;
  const auto add = [&](const LinearTensors& linear, DType dtype, std::uint64_t& most) {
    const std::int64_t sampled = num_sampled(linear.outputs) * linear.inputs;
    most = std::max(most, static_cast<std::uint64_t>(round_up(sampled * size_of(dtype), 256)));
    numel = std::max(numel, sampled);
  };
  for (const BlockConfig& block : model.config().blocks) {
    const std::vector<LinearTensors> linears = linears_of(block);
    bytes.resize(std::max(bytes.size(), linears.size()), 0);
    for (std::size_t i = 0; i < linears.size(); ++i)
      add(linears[i], model.checkpoint().at(linears[i].name + ".weight").dtype, bytes[i]);
    most_linears = std::max(most_linears, LinearNumbers(block).size());
    if (!block.experts) continue;
    const auto parts = parts_of(*block.experts);
    of_experts.resize(std::max(of_experts.size(), parts.size()), 0);
    for (std::size_t p = 0; p < parts.size(); ++p)
      add(expert_linear(*block.experts, model.config().hidden_size, 0, parts[p]), DType::kF32, of_experts[p]);
  }
  bytes.insert(bytes.end(), of_experts.begin(), of_experts.end());
  linears_.resize(most_linears);
  std::uint64_t end = 0;
  for (const std::uint64_t of_slot : bytes) {
    slots_.push_back(end);
    end += of_slot;
  }
  kept_ = DeviceBuffer(memory, end, kWhat);
  rows_ = DeviceBuffer(memory, static_cast<std::uint64_t>(numel) * sizeof(float), kWhat);
  product_ = DeviceBuffer(memory, static_cast<std::uint64_t>(numel) * sizeof(float), kWhat);
  pruned_rows_ = DeviceBuffer(memory, static_cast<std::uint64_t>(numel) * sizeof(float), kWhat);
  sums_ =
      DeviceBuffer(memory, linears_.size() * 2 * static_cast<std::size_t>(kMaxRows) * sizeof(double), kWhat);
  host_ = PinnedBuffer(sums_.bytes());
}

double* OutputErrors::sums_of(std::size_t linear, int which) const {
  return sums_.as<double>() + (2 * static_cast<std::int64_t>(linear) + which) * kMaxRows;
}

void OutputErrors::start_block() {
  for (Linear& linear : linears_) {
    linear.num_kept = 0;
    linear.measured = false;
  }
}

void OutputErrors::keep(std::size_t linear, std::size_t slot, DeviceView weight, cudaStream_t lane) {
  if (linears_[linear].num_kept > 0) return;  // a mask was found before
  linears_[linear].num_kept = num_sampled(weight.rows);
  linears_[linear].offset = slots_[slot];
  take_rows(weight, kept_.data() + linears_[linear].offset, lane);
}

void OutputErrors::measure(std::size_t linear, DeviceView pruned, const DeviceStats& stats,
                           DeviceRefiner* refiner) {
  Linear& of = linears_[linear];
  if (of.num_kept == 0) return;
  of.measured = true;
  const std::byte* dense = kept_.data() + of.offset;
  const DeviceView rows = view_of(rows_.data(), DType::kF32, of.num_kept, pruned.cols);
  take_rows(pruned, pruned_rows_.data(), stream_);
  scaled_difference(dense, pruned.dtype, pruned_rows_.data(), pruned.dtype, nullptr, rows.rows, rows.cols,
                    rows.data, DType::kF32, stream_);
  energies(rows, stats, refiner, sums_of(linear, 0));
  scaled_difference(dense, pruned.dtype, nullptr, pruned.dtype, nullptr, rows.rows, rows.cols, rows.data,
                    DType::kF32, stream_);
  energies(rows, stats, refiner, sums_of(linear, 1));
}

// x G xᵀ of each row, from the energies alone where no Gram matrix was collected.
void OutputErrors::energies(DeviceView rows, const DeviceStats& stats, DeviceRefiner* refiner, double* sums) {
  if (refiner != nullptr) return refiner->row_energies(rows, product_.as<float>(), sums);
  if (stats.gram() == nullptr) {
    weighted_row_energies(rows.data, DType::kF32, stats.device_energy(), rows.rows, rows.cols, sums, stream_);
    return;
  }
  products_.run({.a = rows,
                 .b = view_of(stats.gram(), DType::kF32, rows.cols, rows.cols),
                 .c = view_of(product_.data(), DType::kF32, rows.rows, rows.cols)});
  row_dots(rows.data, DType::kF32, product_.as<float>(), rows.rows, rows.cols, sums, stream_);
}

void OutputErrors::download() {
  check(cudaMemcpyAsync(host_.data(), sums_.data(), sums_.bytes(), cudaMemcpyDeviceToHost, stream_));
}

std::optional<double> OutputErrors::error(std::size_t linear) const {
  const Linear& of = linears_[linear];
  if (!of.measured) return std::nullopt;
  const auto* all = reinterpret_cast<const double*>(host_.data());
  const auto total = [&](std::size_t which) {
    const double* first = all + (2 * linear + which) * static_cast<std::size_t>(kMaxRows);
    return std::accumulate(first, first + of.num_kept, 0.0);
  };
  return relative_error(total(0), total(1));
}

}  // namespace swiftprune::cuda
