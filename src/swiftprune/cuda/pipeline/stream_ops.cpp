#include "swiftprune/cuda/pipeline/stream_ops.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/cuda/forward/expert_kernels.h"
#include "swiftprune/cuda/statistics/statistics_kernels.h"
#include "swiftprune/cuda/structure/structure_kernels.h"
#include "swiftprune/pipeline/root_mean_square.h"
#include "swiftprune/pipeline/streams/rank_windows.h"

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

std::int64_t most_held_rows(const TokenWindows& windows, bool experts) {
  const std::int64_t rows = windows.num_windows() * windows.seqlen;
  const std::int64_t passes =
      experts ? windows.num_windows() + 2 * kTextParts : ceil_div(rows, rows_per_pass(windows));
  return rows + passes * kHeldRows;
}

DeviceBuffer room_for_held(DeviceMemory& memory, std::int64_t rows, std::int64_t cols, DType dtype) {
  return DeviceBuffer(memory, static_cast<std::uint64_t>(rows * cols * size_of(dtype)),
                      "inputs that wait for other ranks");
}

DeviceMatrix embed(DeviceMemory& memory, const Model& model, const TokenWindows& windows,
                   cudaStream_t stream) {
  DeviceMatrix hidden(memory, DType::kF32, windows.num_windows() * windows.seqlen, model.config().row_size(),
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
  const std::int64_t widest = widest_input(config());
  inner_ =
      DeviceBuffer(memory_, static_cast<std::uint64_t>(num_rows() * widest * size_of(forward_.compute())),
                   "the inputs of the output projections");
  roots_ =
      DeviceBuffer(memory_, static_cast<std::uint64_t>(forward_.rows()) * sizeof(float), "weights of tokens");
}

void DeviceStreamOps::make_room_for_look() {
  look_ = DeviceMatrix(memory_, DType::kF32, rows_per_pass(windows_), config().row_size(),
                       "the hidden states of one pass");
}

void DeviceStreamOps::make_room_for_experts() {
  constexpr std::string_view kWhat = "the tokens of one expert";
  const auto rows = static_cast<std::uint64_t>(forward_.rows()), all = static_cast<std::uint64_t>(num_rows());
  gathered_ = DeviceMatrix(memory_, DType::kF32, forward_.rows(), config().hidden_size, kWhat);
  rows_ = DeviceBuffer(memory_, rows * sizeof(std::int32_t), kWhat);
  gates_ = DeviceBuffer(memory_, rows * sizeof(float), kWhat);
  sizes_ = DeviceBuffer(memory_, all * sizeof(double), kWhat);
  largest_ = DeviceBuffer(memory_, all * sizeof(double), kWhat);
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
  forward_.run(block, rows, observer, true);
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
  stats.add_windows(products_, scratch_, x, x, windows_.seqlen);
}

void DeviceStreamOps::find_roots(DeviceView x, const DeviceView* y) const {
  token_roots(strided(x), x.rows, x.cols, y != nullptr ? static_cast<const float*>(y->data) : nullptr,
              roots_.as<float>(), stream_);
}

void DeviceStreamOps::add_relative(DeviceStats& stats, DeviceView x, DeviceView out) const {
  find_roots(out, nullptr);
  const DeviceView counted = scratch_.x(x.rows, x.cols);
  scaled_difference(x.data, x.dtype, nullptr, x.dtype, roots_.as<float>(), x.rows, x.cols, counted.data,
                    counted.dtype, stream_);
  stats.add_windows(products_, scratch_, x, counted, windows_.seqlen);
}

void DeviceStreamOps::add_aligned(DeviceStats& stats, DeviceView x, DeviceView dense) const {
  AlignedRows rows;
  rows.x = x;
  rows.dense_x = dense;
  stats.add_aligned(products_, scratch_, rows, windows_.seqlen);
}

void DeviceStreamOps::add_aligned_output(DeviceStats& stats, const BlockWeights&, LinearInput, DeviceView x,
                                         DeviceView dense, DeviceView rows, DeviceView dense_rows,
                                         const DeviceView* dense_out) const {
  const DeviceView residual = hidden_of(config(), rows), dense_residual = hidden_of(config(), dense_rows);
  find_roots(dense_residual, dense_out);
  stats.add_aligned(products_, scratch_, {x, dense, residual, dense_residual, roots_.as<float>()},
                    windows_.seqlen);
}

DeviceMatrix DeviceStreamOps::zeros_like(const DeviceMatrix& hidden) const {
  const DeviceView like = hidden.view();
  DeviceMatrix zeros(memory_, like.dtype, like.rows, like.cols, "outputs of the experts");
  check(cudaMemsetAsync(zeros.view().data, 0, static_cast<std::size_t>(like.numel() * size_of(like.dtype)),
                        stream_));
  return zeros;
}

std::vector<float> DeviceStreamOps::row_sizes(const DeviceMatrix& hidden) const {
  const DeviceView x = hidden.view();
  cuda::row_sizes(static_cast<const float*>(x.data), nullptr, x.rows, x.cols, sizes_.as<double>(),
                  largest_.as<double>(), stream_);
  std::vector<double> norms(static_cast<std::size_t>(x.rows));
  check(cudaMemcpyAsync(norms.data(), sizes_.data(), norms.size() * sizeof(double), cudaMemcpyDeviceToHost,
                        stream_));
  check(cudaStreamSynchronize(stream_));
  std::vector<float> sizes;
  for (const double norm : norms) sizes.push_back(static_cast<float>(root_mean_square(norm * norm, x.cols)));
  return sizes;
}

const std::int32_t* DeviceStreamOps::upload_rows(std::span<const std::int64_t> rows) const {
  const std::vector<std::int32_t> narrow(rows.begin(), rows.end());
  copy_to_device(narrow, rows_.data(), stream_);
  return rows_.as<std::int32_t>();
}

DeviceView DeviceStreamOps::gather(const DeviceMatrix& hidden, std::span<const std::int64_t> rows) const {
  const DeviceView x = hidden.view(), to = gathered_.view().row_block(0, std::ssize(rows));
  cuda::gather(x.data, x.dtype, x.cols, upload_rows(rows), to.rows, nullptr, x.cols, to.data, stream_);
  return to;
}

void DeviceStreamOps::add_gated(DeviceView values, const ExpertTokens& tokens,
                                const DeviceMatrix& outputs) const {
  copy_to_device(tokens.gates, gates_.data(), stream_);
  add_gated_rows(static_cast<const float*>(values.data), upload_rows(tokens.rows), gates_.as<float>(),
                 values.rows, values.cols, static_cast<float*>(outputs.view().data), stream_);
}

void DeviceStreamOps::add_window(DeviceStats& stats, DeviceView x) const {
  stats.add_window(products_, scratch_, x);
}

void DeviceStreamOps::add_weighted_window(DeviceStats& stats, DeviceView x, DeviceView dense,
                                          std::span<const float> weights) const {
  std::vector<float> roots;
  for (const float weight : weights) roots.push_back(std::sqrt(weight));
  copy_to_device(roots, roots_.data(), stream_);
  stats.add_aligned(products_, scratch_, {.x = x, .dense_x = dense, .roots = roots_.as<float>()}, x.rows);
}

}  // namespace swiftprune::cuda
