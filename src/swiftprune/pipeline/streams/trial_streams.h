// Copies of the calibration's hidden states that run through the model side by side, each with something of
// its own missing: what the choices of layers and widths measure. make_trial_streams() computes on the
// processor, Device::trial_streams() wherever it is.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "swiftprune/model/model.h"
#include "swiftprune/structure/block_units.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

class TrialStreams {
 public:
  virtual ~TrialStreams() = default;
  // Stream 0, the embedded text, and no other. Comes first.
  virtual void restart() = 0;
  // The number of a new stream that is a copy of `stream` as it is now.
  virtual std::size_t fork(std::size_t stream) = 0;
  // The block that streams run through until the next call. Layers rise from one restart() to the next.
  virtual void load_block(std::int64_t layer) = 0;
  virtual void run(std::size_t stream) = 0;
  // As if the block had only these units left.
  virtual void run_with(std::size_t stream, const KeptUnits& kept) = 0;
  // run(); returns the scores (structure/unit_scores.h) of the columns of both output projections, by
  // LinearInput.
  virtual std::vector<std::vector<double>> run_scored(std::size_t stream, const std::string& score) = 0;
  // Mean over the tokens of cos(a, b) of two streams' hidden states.
  virtual double mean_cosine(std::size_t a, std::size_t b) = 0;
  // After the last block: mean next-token loss, nats a token.
  virtual double loss(std::size_t stream) = 0;
  // After the last block: mean over the tokens of |y' - y|²/|y|² of the final normed hidden states, y of
  // stream 0, y' of each other one in their order. Uses the streams up.
  virtual std::vector<double> final_changes() = 0;
};

// The model and the backend must outlive them.
std::unique_ptr<TrialStreams> make_trial_streams(const Model& model, const Backend& backend,
                                                 TokenWindows windows, ComputeType compute);

// The first `length` tokens of the first `count` windows.
TokenWindows shortened(const TokenWindows& windows, std::int64_t count, std::int64_t length);
// As much of the calibration text as choices that only compare need.
TokenWindows trial_text(const TokenWindows& windows);

// Σ over the rows of cos(a, b).
double sum_of_cosines(ConstMatrixView a, ConstMatrixView b);

}  // namespace swiftprune
