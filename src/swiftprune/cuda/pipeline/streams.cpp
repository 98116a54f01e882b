#include "swiftprune/cuda/pipeline/streams.h"

#include <algorithm>

#include "swiftprune/core/progress.h"

namespace swiftprune::cuda {
namespace {

using enum LinearInput;

std::int64_t num_rows(const TokenWindows& windows) { return windows.num_windows() * windows.seqlen; }

// Room for the input of any output projection.
DeviceBuffer inner_buffer(DeviceMemory& memory, const ModelConfig& model, std::int64_t rows, DType compute) {
  const std::int64_t widest = std::max(model.num_heads * model.head_size, model.intermediate_size);
  return {memory, static_cast<std::uint64_t>(rows * widest * size_of(compute)),
          "the inputs of the output projections"};
}

// What the output projection makes of all rows of its input [N, cols] joins hidden [N, hidden].
void add_outputs(BlockForward& forward, const TokenWindows& windows, const BlockWeights& block,
                 LinearInput which, void* inner, std::int64_t cols, DeviceView hidden) {
  const DeviceView all = view_of(inner, forward.compute(), hidden.rows, cols);
  for_passes(windows, [&](std::int64_t first, std::int64_t rows) {
    forward.project_and_add(block, which, all.row_block(first, rows), hidden.row_block(first, rows));
  });
}

}  // namespace

std::int64_t rows_per_pass(const TokenWindows& windows) {
  const std::int64_t group = std::max<std::int64_t>(1, kTokensPerPass / windows.seqlen);
  return std::min(group, std::max<std::int64_t>(1, windows.num_windows())) * windows.seqlen;
}

void for_passes(const TokenWindows& windows, const std::function<void(std::int64_t, std::int64_t)>& body) {
  const std::int64_t step = rows_per_pass(windows);
  const std::int64_t total = num_rows(windows);
  for (std::int64_t first = 0; first < total; first += step) {
    check_interrupt();
    body(first, std::min(step, total - first));
  }
}

DeviceMatrix embed(DeviceMemory& memory, const Model& model, const TokenWindows& windows,
                   cudaStream_t stream) {
  DeviceMatrix hidden(memory, DType::kF32, num_rows(windows), model.config().hidden_size,
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

DeviceOneStream::DeviceOneStream(DeviceMemory& memory, Products& products, BlockForward& forward,
                                 const StatisticsScratch& scratch, const Model& model,
                                 const TokenWindows& windows, cudaStream_t stream)
    : products_(products),
      forward_(forward),
      scratch_(scratch),
      model_(model.config()),
      windows_(windows),
      stream_(stream),
      hidden_(embed(memory, model, windows, stream)),
      inner_(inner_buffer(memory, model_, num_rows(windows), forward.compute())),
      roots_(memory, static_cast<std::uint64_t>(forward.rows()) * sizeof(float), "weights of tokens") {
  if (!model_.parallel_residual) return;
  block_input_ =
      DeviceMatrix(memory, DType::kF32, num_rows(windows), model_.hidden_size, "the inputs of a block");
}

void DeviceOneStream::start_block(const BlockWeights& block) {
  block_ = &block;
  if (model_.parallel_residual) copy(hidden_.view(), block_input_.view(), stream_);
}

void DeviceOneStream::collect(LinearInput output, DeviceStats* stats) {
  if (output == kMlpOutput) add_output(kAttentionOutput);
  const bool from_input = output == kMlpOutput && model_.parallel_residual;
  const DeviceView source = (from_input ? block_input_ : hidden_).view();
  // Where a norm follows the projection, tokens count by 1/rms(output), as in one_stream.h.
  const bool relative =
      stats != nullptr && stats->gram() != nullptr && BlockForward::norms_output(*block_, output);
  for_passes(windows_, [&](std::int64_t first, std::int64_t rows) {
    const DeviceView hidden = source.row_block(first, rows);
    const DeviceView x = output == kMlpOutput
                             ? forward_.mlp(*block_, forward_.input_of(*block_, kMlp, hidden))
                             : forward_.attention(*block_, forward_.input_of(*block_, kAttention, hidden));
    inner_cols_ = x.cols;
    copy(x, view_of(inner_.data(), x.dtype, hidden_.view().rows, x.cols).row_block(first, rows), stream_);
    if (stats == nullptr) return;
    stats->add_windows(scratch_, x, windows_.seqlen);
    DeviceView counted = x;
    if (relative) {
      const DeviceView out = forward_.project(*block_, output, x);
      counted = scratch_.x(rows, x.cols);
      token_roots(static_cast<const float*>(out.data), rows, out.cols, nullptr, roots_.as<float>(), stream_);
      scaled_difference(x.data, x.dtype, nullptr, x.dtype, roots_.as<float>(), rows, x.cols, counted.data,
                        counted.dtype, stream_);
    }
    stats->add_gram(products_, counted);
  });
}

void DeviceOneStream::finish_block() { add_output(kMlpOutput); }

void DeviceOneStream::add_output(LinearInput which) {
  add_outputs(forward_, windows_, *block_, which, inner_.data(), inner_cols_, hidden_.view());
}

DeviceTwoStreams::DeviceTwoStreams(DeviceMemory& memory, Products& products, BlockForward& forward,
                                   const StatisticsScratch& scratch, const Model& model,
                                   const TokenWindows& windows, cudaStream_t stream)
    : products_(products),
      forward_(forward),
      scratch_(scratch),
      model_(model.config()),
      windows_(windows),
      stream_(stream),
      hidden_(embed(memory, model, windows, stream)),
      dense_hidden_(memory, DType::kF32, num_rows(windows), model_.hidden_size,
                    "the dense model's hidden states") {
  copy(hidden_.view(), dense_hidden_.view(), stream_);
  inner_ = inner_buffer(memory, model_, num_rows(windows), forward.compute());
  roots_ =
      DeviceBuffer(memory, static_cast<std::uint64_t>(forward.rows()) * sizeof(float), "weights of tokens");
  if (!model_.parallel_residual) return;
  for (DeviceMatrix* input : {&block_input_, &dense_block_input_}) {
    *input =
        DeviceMatrix(memory, DType::kF32, num_rows(windows), model_.hidden_size, "the inputs of a block");
  }
}

void DeviceTwoStreams::start_block(const BlockWeights& dense, const BlockWeights& pruned) {
  dense_ = &dense;
  pruned_ = &pruned;
  if (!model_.parallel_residual) return;
  copy(hidden_.view(), block_input_.view(), stream_);
  copy(dense_hidden_.view(), dense_block_input_.view(), stream_);
}

void DeviceTwoStreams::collect(LinearInput input, DeviceStats* stats) {
  switch (input) {
    case kMlp:
      add_output(kAttentionOutput);
      [[fallthrough]];
    case kAttention:
      if (stats != nullptr) collect_normed(input, *stats);
      break;
    case kAttentionOutput:
    case kMlpOutput:
      collect_output(input, stats);
      break;
  }
}

void DeviceTwoStreams::finish_block() { add_output(kMlpOutput); }

// What a sub-layer reads. With a parallel residual the MLP reads the block's input.
DeviceView DeviceTwoStreams::source(LinearInput input, bool dense) const {
  const bool from_input = model_.parallel_residual && (input == kMlp || input == kMlpOutput);
  if (dense) return (from_input ? dense_block_input_ : dense_hidden_).view();
  return (from_input ? block_input_ : hidden_).view();
}

void DeviceTwoStreams::collect_normed(LinearInput input, DeviceStats& stats) {
  for_passes(windows_, [&](std::int64_t first, std::int64_t rows) {
    const DeviceView normed = forward_.input_of(*pruned_, input, source(input, false).row_block(first, rows));
    const DeviceView x = scratch_.x(rows, normed.cols);
    copy(normed, x, stream_);
    const DeviceView dense = forward_.input_of(*dense_, input, source(input, true).row_block(first, rows));
    AlignedRows aligned;
    aligned.x = x;
    aligned.dense_x = dense;
    stats.add_aligned(products_, scratch_, aligned, windows_.seqlen);
  });
}

DeviceView DeviceTwoStreams::inner(const BlockWeights& block, LinearInput which, DeviceView hidden) {
  if (which == kMlpOutput) return forward_.mlp(block, forward_.input_of(block, kMlp, hidden));
  return forward_.attention(block, forward_.input_of(block, kAttention, hidden));
}

void DeviceTwoStreams::collect_output(LinearInput which, DeviceStats* stats) {
  for_passes(windows_, [&](std::int64_t first, std::int64_t rows) {
    const DeviceView mixed = inner(*pruned_, which, source(which, false).row_block(first, rows));
    inner_cols_ = mixed.cols;
    const DeviceView x =
        view_of(inner_.data(), mixed.dtype, hidden_.view().rows, mixed.cols).row_block(first, rows);
    copy(mixed, x, stream_);
    const DeviceView dense = inner(*dense_, which, source(which, true).row_block(first, rows));
    const DeviceView dense_out = forward_.project(*dense_, which, dense);
    const DeviceView dense_hidden = dense_hidden_.view().row_block(first, rows);
    if (stats != nullptr) {
      const bool normed = BlockForward::norms_output(*dense_, which);
      token_roots(static_cast<const float*>(dense_hidden.data), rows, dense_hidden.cols,
                  normed ? static_cast<const float*>(dense_out.data) : nullptr, roots_.as<float>(), stream_);
      stats->add_aligned(products_, scratch_,
                         {x, dense, hidden_.view().row_block(first, rows), dense_hidden, roots_.as<float>()},
                         windows_.seqlen);
    }
    forward_.add_projected(*dense_, which, dense_out, dense_hidden);
  });
}

void DeviceTwoStreams::add_output(LinearInput which) {
  add_outputs(forward_, windows_, *pruned_, which, inner_.data(), inner_cols_, hidden_.view());
}

}  // namespace swiftprune::cuda
