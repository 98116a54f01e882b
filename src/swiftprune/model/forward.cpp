#include "swiftprune/model/forward.h"

#include <algorithm>

namespace swiftprune {

void for_window_groups(std::int64_t num_windows, std::int64_t seqlen,
                       const std::function<void(std::int64_t, std::int64_t)>& body) {
  const std::int64_t group = std::max<std::int64_t>(1, kTokensPerPass / seqlen);
  for (std::int64_t first = 0; first < num_windows; first += group)
    body(first, std::min(group, num_windows - first));
}

std::int64_t windows_per_group(const Model& model, std::int64_t seqlen, const ForwardOptions& options) {
  const std::int64_t window_bytes =
      seqlen * model.config().hidden_size * static_cast<std::int64_t>(sizeof(float));
  return std::max<std::int64_t>(1, options.hidden_bytes / window_bytes);
}

Matrix forward_blocks(const Model& model, const Backend& backend, const TokenWindows& windows,
                      std::int64_t first, std::int64_t count, ComputeType compute,
                      const std::function<void(std::int64_t)>& step) {
  const std::int64_t seqlen = windows.seqlen;
  const std::vector<RopeTable> ropes = model.rope_tables(seqlen);
  Matrix hidden = model.embed_windows(windows, first, count);
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    DecoderBlock block = model.load_block(layer);
    block.pack(backend, compute);
    for_window_groups(count, seqlen, [&](std::int64_t first_window, std::int64_t num_windows) {
      check_interrupt();
      BlockForwardOptions options;
      options.sequence_length = seqlen;
      block.forward(backend, ropes, hidden.view().row_block(first_window * seqlen, num_windows * seqlen),
                    options);
      step(num_windows);
    });
    model.release_block(layer);
  }
  return hidden;
}

void for_each_logits(const Model& model, const Backend& backend, const TokenWindows& windows,
                     const ForwardOptions& options, const LogitsFn& consume) {
  const ModelConfig& config = model.config();
  const std::int64_t seqlen = windows.seqlen;
  expect(options.first_rows.empty() || std::ssize(options.first_rows) == windows.num_windows(),
         "one first row for each window");
  const ModelHead head = model.load_head(backend, options.compute);
  const std::int64_t group = windows_per_group(model, seqlen, options);
  const std::int64_t total = windows.num_windows() * config.num_layers();
  std::int64_t done = 0;
  Matrix logits(std::min(kLogitRows, seqlen), config.vocab_size);
  for (std::int64_t first = 0; first < windows.num_windows(); first += group) {
    const std::int64_t count = std::min(group, windows.num_windows() - first);
    const Matrix hidden =
        forward_blocks(model, backend, windows, first, count, options.compute, [&](std::int64_t n) {
          done += n;
          if (options.progress) options.progress("forward", done, total);
        });
    for (std::int64_t w = 0; w < count; ++w) {
      const std::int64_t first_row =
          options.first_rows.empty() ? 0 : options.first_rows[static_cast<std::size_t>(first + w)];
      for (std::int64_t row = first_row; row < seqlen; row += kLogitRows) {
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
