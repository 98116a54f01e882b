#include "swiftprune/cuda/forward/block_stream.h"

#include <algorithm>

#include "swiftprune/core/progress.h"

namespace swiftprune::cuda {

BlockStream::BlockStream(DeviceMemory& memory, Products& products, const Model& model, int device,
                         DeviceTuner* tuner, std::int64_t rows, std::int64_t longest, DType compute,
                         cudaStream_t stream)
    : memory_(memory),
      model_(model),
      tuner_(tuner),
      stream_(stream),
      forward_(memory, products, model, rows, longest, compute, stream),
      loader_(model, device) {
  for (int i = 0; i < 2; ++i) slots_.emplace_back(memory, model, compute);
}

BlockWeights& BlockStream::load(std::int64_t layer) {
  if (layer == 0) loader_.start(0, slots_[0]);
  loader_.finish();
  // The block before may still be running on the weights that are replaced now.
  check(cudaStreamSynchronize(stream_));
  if (layer + 1 < model_.config().num_layers()) {
    loader_.start(layer + 1, slots_[static_cast<std::size_t>((layer + 1) % 2)]);
  }
  BlockWeights& block = slots_[static_cast<std::size_t>(layer % 2)];
  block.load_packed(memory_, stream_);
  block.refresh(stream_);
  return block;
}

void BlockStream::choose_forms(BlockWeights& block, std::int64_t rows, std::int64_t passes) {
  block.for_each_packed([&](DevicePacked& weight) {
    if (tuner_ != nullptr) {
      tuner_->choose_many(weight, rows, static_cast<double>(passes * model_.config().num_layers()));
    } else if (passes > 1 && !weight.is_dense()) {
      weight.keep_dense(memory_, stream_);
    }
  });
}

void BlockStream::run(DeviceView hidden, std::span<const Pass> passes, const std::function<void()>& step) {
  std::int64_t most_rows = 0;
  for (const Pass& pass : passes) most_rows = std::max(most_rows, pass.rows);
  for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
    BlockWeights& block = load(layer);
    choose_forms(block, most_rows, std::ssize(passes));
    for (const Pass& pass : passes) {
      check_interrupt();
      forward_.set_sequence_length(pass.length);
      forward_.run(block, hidden.row_block(pass.first_row, pass.rows));
    }
    step();
  }
}

}  // namespace swiftprune::cuda
