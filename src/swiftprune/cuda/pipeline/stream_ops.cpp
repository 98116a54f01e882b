#include "swiftprune/cuda/pipeline/stream_ops.h"

#include <algorithm>

#include "swiftprune/core/progress.h"

namespace swiftprune::cuda {

std::int64_t rows_per_pass(const TokenWindows& windows) {
  const std::int64_t group = std::max<std::int64_t>(1, kTokensPerPass / windows.seqlen);
  return std::min(group, std::max<std::int64_t>(1, windows.num_windows())) * windows.seqlen;
}

void for_passes(const TokenWindows& windows, const std::function<void(std::int64_t, std::int64_t)>& body) {
  const std::int64_t step = rows_per_pass(windows);
  const std::int64_t total = windows.num_windows() * windows.seqlen;
  for (std::int64_t first = 0; first < total; first += step) {
    check_interrupt();
    body(first, std::min(step, total - first));
  }
}

DeviceMatrix embed(DeviceMemory& memory, const Model& model, const TokenWindows& windows,
                   cudaStream_t stream) {
  DeviceMatrix hidden(memory, DType::kF32, windows.num_windows() * windows.seqlen, model.config().hidden_size,
                      "the hidden states of the calibration windows");
  for (std::int64_t w = 0; w < windows.num_windows(); ++w) {
    const Matrix rows = model.embed_windows(windows, w, 1);
    check(cudaMemcpyAsync(hidden.view().row(w * windows.seqlen), rows.data(), rows.values().size_bytes(),
                          cudaMemcpyHostToDevice, stream));
    check(cudaStreamSynchronize(stream));  // `rows` lives until here
  }
  return hidden;
}

void copy(DeviceView from, DeviceView to, cudaStream_t stream) {
  check(cudaMemcpyAsync(to.data, from.data, static_cast<std::size_t>(from.numel() * size_of(from.dtype)),
                        cudaMemcpyDeviceToDevice, stream));
}

DeviceStreamOps::DeviceStreamOps(DeviceMemory& memory, Products& products, BlockForward& forward,
                                 const StatisticsScratch& scratch, const Model& model,
                                 const TokenWindows& windows, cudaStream_t stream)
    : memory_(memory),
      products_(products),
      forward_(forward),
      scratch_(scratch),
      model_(model),
      windows_(windows),
      stream_(stream) {}

void DeviceStreamOps::make_room_for_inner() {
  const std::int64_t widest = std::max(config().num_heads * config().head_size, config().intermediate_size);
  inner_ =
      DeviceBuffer(memory_, static_cast<std::uint64_t>(num_rows() * widest * size_of(forward_.compute())),
                   "the inputs of the output projections");
  roots_ =
      DeviceBuffer(memory_, static_cast<std::uint64_t>(forward_.rows()) * sizeof(float), "weights of tokens");
}

void DeviceStreamOps::make_room_for_look() {
  look_ = DeviceMatrix(memory_, DType::kF32, rows_per_pass(windows_), config().hidden_size,
                       "the hidden states of one pass");
}

DeviceMatrix DeviceStreamOps::clone(const DeviceMatrix& hidden) const {
  const DeviceView from = hidden.view();
  DeviceMatrix result(memory_, from.dtype, from.rows, from.cols, "hidden states of the calibration windows");
  copy(from, result.view(), stream_);
  return result;
}

void DeviceStreamOps::forward(const BlockWeights& block, DeviceView hidden, const DeviceObserver* observer,
                              bool stays) {
  if (!stays) return forward_.run(block, hidden, observer);
  const DeviceView rows = look_.view().row_block(0, hidden.rows);
  copy(hidden, rows, stream_);
  forward_.run(block, rows, observer);
}

DeviceView DeviceStreamOps::hold(DeviceView x) const {
  const DeviceView held = scratch_.x(x.rows, x.cols);
  copy(x, held, stream_);
  return held;
}

DeviceView DeviceStreamOps::keep_inner(std::int64_t first, DeviceView x) {
  inner_cols_ = x.cols;
  const DeviceView kept = inner_rows(first, x.rows);
  copy(x, kept, stream_);
  return kept;
}

DeviceView DeviceStreamOps::inner_rows(std::int64_t first, std::int64_t count) const {
  return view_of(inner_.data(), forward_.compute(), num_rows(), inner_cols_).row_block(first, count);
}

void DeviceStreamOps::add(DeviceStats& stats, DeviceView x) const {
  stats.add_windows(scratch_, x, windows_.seqlen);
  stats.add_gram(products_, x);
}

void DeviceStreamOps::find_roots(DeviceView x, const DeviceView* y) const {
  token_roots(static_cast<const float*>(x.data), x.rows, x.cols,
              y != nullptr ? static_cast<const float*>(y->data) : nullptr, roots_.as<float>(), stream_);
}

void DeviceStreamOps::add_relative(DeviceStats& stats, DeviceView x, DeviceView out) const {
  stats.add_windows(scratch_, x, windows_.seqlen);
  find_roots(out, nullptr);
  const DeviceView counted = scratch_.x(x.rows, x.cols);
  scaled_difference(x.data, x.dtype, nullptr, x.dtype, roots_.as<float>(), x.rows, x.cols, counted.data,
                    counted.dtype, stream_);
  stats.add_gram(products_, counted);
}

void DeviceStreamOps::add_aligned(DeviceStats& stats, DeviceView x, DeviceView dense) const {
  AlignedRows rows;
  rows.x = x;
  rows.dense_x = dense;
  stats.add_aligned(products_, scratch_, rows, windows_.seqlen);
}

void DeviceStreamOps::add_aligned_output(DeviceStats& stats, const BlockWeights&, LinearInput, DeviceView x,
                                         DeviceView dense, DeviceView residual, DeviceView dense_residual,
                                         const DeviceView* dense_out) const {
  find_roots(dense_residual, dense_out);
  stats.add_aligned(products_, scratch_, {x, dense, residual, dense_residual, roots_.as<float>()},
                    windows_.seqlen);
}

}  // namespace swiftprune::cuda
