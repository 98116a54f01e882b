// Models that run over the same text, wherever they are computed: their hidden states stay there, and only
// numbers of the rows that are asked for come back. Which rows, and what the numbers mean, is decided in
// evaluation/. make_cpu_text_forwards() computes on the processor, Device::text_forwards() wherever it is.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "swiftprune/model/forward.h"

namespace swiftprune {

class TextForwards {
 public:
  virtual ~TextForwards() = default;
  virtual std::size_t num_models() const = 0;
  // For sequences of at most `longest` positions from here on: how many rows of hidden states each model may
  // have at a time (one sequence may have more). Comes before run().
  virtual std::int64_t prepare(std::int64_t longest) = 0;
  // Windows [first, first + count) through all blocks of a model. Row w·seqlen + t is then token t of window
  // first + w. step(windows): as each block ends, for some of the windows.
  virtual void run(std::size_t model, const TokenWindows& windows, std::int64_t first, std::int64_t count,
                   const std::function<void(std::int64_t)>& step) = 0;
  // Runs of tokens of different lengths, some of which continue others (decoder_block.h). Rows are as the
  // segments say. step(): as each block ends. Returns the number of tokens that were computed: where a
  // beginning is not shared, it counts for each that continues it.
  virtual std::int64_t run(std::size_t model, std::span<const std::int32_t> ids,
                           std::span<const Segment> segments, const std::function<void()>& step) = 0;

  // Most rows of a call of score().
  virtual std::int64_t rows_a_score() const = 0;
  // Of rows of the model's last run(): log softmax of each one's target, and its likeliest token (the lowest
  // of equal ones).
  virtual void score(std::size_t model, std::span<const std::int64_t> rows,
                     std::span<const std::int32_t> targets, std::span<double> log_probs,
                     std::span<std::int32_t> best) = 0;
  // KL(model 0 || model) of the rows of the last score() of both, which were the same rows; in nats.
  virtual void divergences(std::size_t model, std::span<double> kl) = 0;
  // Logits [vocab] of row `index` of those of the last score().
  virtual std::vector<float> logits(std::size_t model, std::int64_t index) = 0;
};

// options.hidden_bytes: for the hidden states of all models together. Keeps the backend.
std::unique_ptr<TextForwards> make_cpu_text_forwards(std::span<const Model* const> models,
                                                     const Backend& backend, const ForwardOptions& options);

}  // namespace swiftprune
