#include "swiftprune/cuda/selection/matrix_select.h"

#include "swiftprune/cuda/selection/selection_kernels.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace swiftprune::cuda {
namespace {

void grow(DeviceMemory& memory, std::int64_t bytes, DeviceBuffer& buffer) {
  const auto wanted = static_cast<std::uint64_t>(bytes);
  if (buffer.bytes() >= wanted) return;
  buffer = DeviceBuffer();
  buffer = DeviceBuffer(memory, wanted, "selection over a matrix");
}

}  // namespace

const std::int32_t* MatrixSelect::row_counts(const PruneRowsArgs& args, std::int64_t count) {
  grow(memory_, layer_scratch(args.rows), scratch_);
  grow(memory_, args.rows * static_cast<std::int64_t>(sizeof(std::int32_t)), counts_);
  layer_counts(args, count, scratch_.data(), counts_.as<std::int32_t>(), stream_);
  return counts_.as<std::int32_t>();
}

std::vector<std::int64_t> MatrixSelect::host_row_counts(const PruneRowsArgs& args, std::int64_t count) {
  std::vector<std::int32_t> host(static_cast<std::size_t>(args.rows));
  check(cudaMemcpyAsync(host.data(), row_counts(args, count), host.size() * sizeof(std::int32_t),
                        cudaMemcpyDeviceToHost, stream_));
  check(cudaStreamSynchronize(stream_));
  return {host.begin(), host.end()};
}

void MatrixSelect::tiles(const PruneRowsArgs& args, const PruneTarget& target, int power,
                         std::uint8_t* mask) {
  const Pattern& pattern = target.pattern;
  const auto num_tiles =
      static_cast<std::size_t>(args.rows / pattern.block_rows * (args.cols / pattern.block_cols));
  grow(memory_, static_cast<std::int64_t>(num_tiles * sizeof(double)), sums_);
  grow(memory_, static_cast<std::int64_t>(num_tiles), kept_);
  tile_sums(args, pattern.block_rows, pattern.block_cols, power, sums_.as<double>(), stream_);
  std::vector<double> sums(num_tiles);
  check(cudaMemcpyAsync(sums.data(), sums_.data(), num_tiles * sizeof(double), cudaMemcpyDeviceToHost,
                        stream_));
  check(cudaStreamSynchronize(stream_));
  std::vector<std::size_t> order(num_tiles);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto pruned = static_cast<std::size_t>(total_prune_count(target, args.rows, args.cols));
  const auto lower = [&](std::size_t a, std::size_t b) {
    return sums[a] < sums[b] || (sums[a] == sums[b] && a < b);
  };
  if (pruned < num_tiles) {
    std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(pruned), order.end(), lower);
  }
  std::vector<std::uint8_t> kept(num_tiles, 1);
  for (std::size_t i = 0; i < pruned; ++i) kept[order[i]] = 0;
  copy_to_device(kept, kept_.data(), stream_);
  expand_tiles(kept_.as<std::uint8_t>(), args.rows, args.cols, pattern.block_rows, pattern.block_cols, mask,
               stream_);
}

}  // namespace swiftprune::cuda
