#include "swiftprune/pipeline/layer_choice.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/model/forward.h"

namespace swiftprune {
namespace {

void run(const DecoderBlock& block, const Backend& backend, const std::vector<RopeTable>& ropes,
         std::int64_t seqlen, MatrixView hidden) {
  BlockForwardOptions options;
  options.sequence_length = seqlen;
  for_window_groups(hidden.rows / seqlen, seqlen, [&](std::int64_t first, std::int64_t count) {
    check_interrupt();
    block.forward(backend, ropes, hidden.row_block(first * seqlen, count * seqlen), options);
  });
}

double sum_of_cosines(ConstMatrixView a, ConstMatrixView b) {
  double sum = 0.0;
  for (std::int64_t t = 0; t < a.rows; ++t) {
    double ab = 0.0, aa = 0.0, bb = 0.0;
    for (std::int64_t i = 0; i < a.cols; ++i) {
      ab += double{a.at(t, i)} * double{b.at(t, i)};
      aa += double{a.at(t, i)} * double{a.at(t, i)};
      bb += double{b.at(t, i)} * double{b.at(t, i)};
    }
    sum += aa > 0.0 && bb > 0.0 ? ab / std::sqrt(aa * bb) : 0.0;
  }
  return sum;
}

// The loss without each of the candidates, beside those that are gone already.
std::map<std::int64_t, double> losses_without(const Model& model, const Backend& backend,
                                              const ModelHead& head, const TokenWindows& windows,
                                              const std::vector<std::int64_t>& gone,
                                              const std::vector<std::int64_t>& candidates,
                                              const LayerChoiceOptions& options) {
  const std::vector<RopeTable> ropes = model.rope_tables(windows.seqlen);
  Matrix base = model.embed_windows(windows, 0, windows.num_windows());
  std::map<std::int64_t, Matrix> streams;
  const std::int64_t layers = model.config().num_layers();
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    if (std::find(gone.begin(), gone.end(), layer) != gone.end()) continue;
    DecoderBlock block = model.load_block(layer);
    block.pack(backend, options.compute);
    for (auto& [candidate, hidden] : streams) run(block, backend, ropes, windows.seqlen, hidden.view());
    if (std::find(candidates.begin(), candidates.end(), layer) != candidates.end()) {
      streams.emplace(layer, base.clone());
    }
    run(block, backend, ropes, windows.seqlen, base.view());
    model.release_block(layer);
    options.progress("layers", std::ssize(gone) * layers + layer + 1, 0);
  }
  std::map<std::int64_t, double> losses;
  losses[-1] = loss_of(model, backend, head, windows, base.view());
  for (const auto& [candidate, hidden] : streams) {
    losses[candidate] = loss_of(model, backend, head, windows, hidden.view());
  }
  return losses;
}

}  // namespace

double loss_of(const Model& model, const Backend& backend, const ModelHead& head, const TokenWindows& windows,
               ConstMatrixView hidden) {
  const std::int64_t seqlen = windows.seqlen, scored = seqlen - 1;
  Matrix logits(std::min(kLogitRows, scored), model.config().vocab_size);
  double sum = 0.0;
  for (std::int64_t w = 0; w < windows.num_windows(); ++w) {
    for (std::int64_t row = 0; row < scored; row += kLogitRows) {
      check_interrupt();
      const std::int64_t rows = std::min(kLogitRows, scored - row);
      const MatrixView part = logits.view().row_block(0, rows);
      head.logits(backend, hidden.row_block(w * seqlen + row, rows), part);
      std::vector<double> log_probs(static_cast<std::size_t>(rows));
      backend.target_log_probs(
          part, windows.window(w).subspan(static_cast<std::size_t>(row + 1), static_cast<std::size_t>(rows)),
          log_probs);
      sum -= std::accumulate(log_probs.begin(), log_probs.end(), 0.0);
    }
  }
  return sum / static_cast<double>(windows.num_windows() * scored);
}

TokenWindows shortened(const TokenWindows& windows, std::int64_t count, std::int64_t length) {
  TokenWindows result;
  result.seqlen = std::min(length, windows.seqlen);
  for (std::int64_t w = 0; w < std::min(count, windows.num_windows()); ++w) {
    const auto window = windows.window(w).first(static_cast<std::size_t>(result.seqlen));
    result.ids.insert(result.ids.end(), window.begin(), window.end());
  }
  return result;
}

std::vector<double> block_influence(const Model& model, const Backend& backend, const TokenWindows& windows,
                                    const LayerChoiceOptions& options) {
  const std::vector<RopeTable> ropes = model.rope_tables(windows.seqlen);
  Matrix hidden = model.embed_windows(windows, 0, windows.num_windows());
  std::vector<double> influence;
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    DecoderBlock block = model.load_block(layer);
    block.pack(backend, options.compute);
    const Matrix before = hidden.clone();
    run(block, backend, ropes, windows.seqlen, hidden.view());
    const double cosines = sum_of_cosines(before.view(), std::as_const(hidden).view());
    influence.push_back(1.0 - cosines / static_cast<double>(hidden.rows()));
    model.release_block(layer);
    options.progress("layers", layer + 1, model.config().num_layers());
  }
  return influence;
}

GreedyLayers greedy_layers(const Model& model, const Backend& backend, const TokenWindows& windows,
                           std::int64_t count, const LayerChoiceOptions& options) {
  expect(count < model.config().num_layers(), "greedy_layers: a layer is left");
  const ModelHead head = model.load_head(backend, options.compute);
  std::vector<std::int64_t> candidates(static_cast<std::size_t>(model.config().num_layers()));
  std::iota(candidates.begin(), candidates.end(), 0);
  GreedyLayers result;
  for (std::int64_t n = 0; n < std::max<std::int64_t>(count, 1); ++n) {
    const auto losses = losses_without(model, backend, head, windows, result.order,
                                       n < count ? candidates : std::vector<std::int64_t>{}, options);
    if (n == 0) result.dense_loss = losses.at(-1);
    if (n == count) break;
    std::stable_sort(candidates.begin(), candidates.end(),
                     [&](std::int64_t a, std::int64_t b) { return losses.at(a) < losses.at(b); });
    result.order.push_back(candidates.front());
    result.losses.push_back(losses.at(candidates.front()));
    candidates.erase(candidates.begin());
    if (n == 0) candidates.resize(std::min(candidates.size(), static_cast<std::size_t>(2 * count + 4)));
  }
  return result;
}

}  // namespace swiftprune
