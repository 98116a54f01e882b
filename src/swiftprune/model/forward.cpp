#include "swiftprune/model/forward.h"

#include <algorithm>

namespace swiftprune {
namespace {

constexpr std::int64_t kLogitRows = 256;  // rows of logits in memory at a time

void run_blocks(const Model& model, const Backend& backend, const std::vector<RopeTable>& ropes,
                Matrix& hidden, std::int64_t seqlen, ComputeType compute,
                const std::function<void(std::int64_t)>& step) {
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    DecoderBlock block = model.load_block(layer);
    block.pack(backend, compute);
    for_window_groups(hidden.rows() / seqlen, seqlen, [&](std::int64_t first, std::int64_t count) {
      check_interrupt();
      BlockForwardOptions options;
      options.sequence_length = seqlen;
      block.forward(backend, ropes, hidden.view().row_block(first * seqlen, count * seqlen), options);
      step(count);
    });
    model.release_block(layer);
  }
}

}  // namespace

void for_window_groups(std::int64_t num_windows, std::int64_t seqlen,
                       const std::function<void(std::int64_t, std::int64_t)>& body) {
  const std::int64_t group = std::max<std::int64_t>(1, kTokensPerPass / seqlen);
  for (std::int64_t first = 0; first < num_windows; first += group)
    body(first, std::min(group, num_windows - first));
}

void for_each_logits(const Model& model, const Backend& backend, const TokenWindows& windows,
                     const ForwardOptions& options, const LogitsFn& consume) {
  const ModelConfig& config = model.config();
  const std::int64_t seqlen = windows.seqlen;
  const std::vector<RopeTable> ropes = model.rope_tables(seqlen);
  const ModelHead head = model.load_head(backend, options.compute);
  const std::int64_t window_bytes = seqlen * config.hidden_size * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t group = std::max<std::int64_t>(1, options.hidden_bytes / window_bytes);
  const std::int64_t total = windows.num_windows() * config.num_layers();
  std::int64_t done = 0;
  for (std::int64_t first = 0; first < windows.num_windows(); first += group) {
    const std::int64_t count = std::min(group, windows.num_windows() - first);
    Matrix hidden = model.embed_windows(windows, first, count);
    run_blocks(model, backend, ropes, hidden, seqlen, options.compute, [&](std::int64_t n) {
      done += n;
      if (options.progress) options.progress("forward", done, total);
    });
    Matrix logits(std::min(kLogitRows, seqlen), config.vocab_size);
    for (std::int64_t w = 0; w < count; ++w) {
      for (std::int64_t row = 0; row < seqlen; row += kLogitRows) {
        check_interrupt();
        const std::int64_t rows = std::min(kLogitRows, seqlen - row);
        const MatrixView part = logits.view().row_block(0, rows);
        head.logits(backend, hidden.view().row_block(w * seqlen + row, rows), part);
        consume(first + w, row, part);
      }
    }
  }
}

}  // namespace swiftprune
