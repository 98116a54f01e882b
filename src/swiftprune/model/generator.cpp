#include "swiftprune/model/generator.h"

#include <algorithm>

#include "swiftprune/core/progress.h"

namespace swiftprune {

Generator::Generator(const Model& model, const Backend& backend, ComputeType compute,
                     std::int64_t num_sequences, std::int64_t capacity, Autotuner* tuner)
    : model_(model),
      backend_(backend),
      num_sequences_(num_sequences),
      capacity_(capacity),
      resident_(model, backend, compute, num_sequences, capacity, tuner),
      logits_(num_sequences, model.config().vocab_size) {}

std::int64_t Generator::bytes_per_step(std::int64_t position) const {
  std::int64_t bytes = resident_.head.num_bytes();
  for (std::size_t layer = 0; layer < resident_.blocks.size(); ++layer) {
    const BlockConfig& block = model_.config().blocks[layer];
    const std::int64_t window = block.attention_window;
    const std::int64_t keys = window > 0 ? std::min(window, position) : position;
    const std::int64_t kv_size = model_.config().kv_size_in(block);
    bytes += 2 * num_sequences_ * keys * kv_size * static_cast<std::int64_t>(sizeof(float));
    if (block.has_state()) {
      bytes += num_sequences_ * state_numbers(block.mixer()) * static_cast<std::int64_t>(sizeof(float));
    }
    if (const Experts* experts = resident_.blocks[layer].experts())
      bytes += experts->bytes_for(num_sequences_);
    for (const BlockLinear& linear : resident_.blocks[layer].linears()) {
      bytes += linear.compact ? linear.compact->num_bytes()
                              : linear.weight.numel() * static_cast<std::int64_t>(sizeof(float));
      if (linear.low_rank) bytes += linear.low_rank->numel() * static_cast<std::int64_t>(sizeof(float));
    }
  }
  return bytes;
}

ConstMatrixView Generator::append(std::span<const std::int32_t> ids) {
  check_interrupt();
  const std::int64_t length = static_cast<std::int64_t>(ids.size()) / num_sequences_;
  expect(length > 0 && position_ + length <= capacity_, "append: tokens that fit");
  std::vector<NewTokens> tokens;
  for (std::int64_t s = 0; s < num_sequences_; ++s) {
    tokens.push_back(
        {.sequence = s,
         .position = position_,
         .ids = ids.subspan(static_cast<std::size_t>(s * length), static_cast<std::size_t>(length))});
  }
  const Matrix hidden = resident_.forward(model_, backend_, tokens);
  position_ += length;
  Matrix last(num_sequences_, hidden.cols());
  for (std::int64_t s = 0; s < num_sequences_; ++s) {
    std::copy_n(hidden.row((s + 1) * length - 1), hidden.cols(), last.row(s));
  }
  resident_.head.logits(backend_, last.view(), logits_.view());
  return logits_.view();
}

}  // namespace swiftprune
