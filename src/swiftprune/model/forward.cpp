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
      seqlen * model.config().row_size() * static_cast<std::int64_t>(sizeof(float));
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

namespace {

// The position of a run's first token: how long the run is that it continues.
std::int64_t first_position(std::span<const Segment> segments, const Segment& segment) {
  return segment.prefix < 0 ? 0 : segments[static_cast<std::size_t>(segment.prefix)].length;
}

// Passes of about kTokensPerPass rows; a prefix and what continues it stay together.
void forward_in_passes(const Backend& backend, const std::vector<RopeTable>& ropes, const DecoderBlock& block,
                       std::span<const Segment> segments, MatrixView hidden) {
  for (std::size_t begin = 0; begin < segments.size();) {
    std::vector<Segment> pass;
    std::int64_t rows = 0;
    std::size_t end = begin;
    while (end < segments.size() && (rows < kTokensPerPass || segments[end].prefix >= 0)) {
      Segment s = segments[end++];
      rows += s.length;
      s.first_row -= segments[begin].first_row;
      if (s.prefix >= 0) s.prefix -= static_cast<std::int64_t>(begin);
      pass.push_back(s);
    }
    check_interrupt();
    BlockForwardOptions options;
    options.segments = pass;
    block.forward(backend, ropes, hidden.row_block(segments[begin].first_row, rows), options);
    begin = end;
  }
}

}  // namespace

Matrix forward_segments(const Model& model, const Backend& backend, std::span<const std::int32_t> ids,
                        std::span<const Segment> segments, ComputeType compute,
                        const std::function<void()>& step) {
  Matrix hidden(std::ssize(ids), model.config().row_size());
  std::int64_t longest = 0;
  for (const Segment& s : segments) {
    const std::int64_t position = first_position(segments, s);
    longest = std::max(longest, position + s.length);
    model.embed(ids.subspan(static_cast<std::size_t>(s.first_row), static_cast<std::size_t>(s.length)),
                s.length, position, hidden.view().row_block(s.first_row, s.length));
  }
  const std::vector<RopeTable> ropes = model.rope_tables(longest);
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    DecoderBlock block = model.load_block(layer);
    block.pack(backend, compute);
    forward_in_passes(backend, ropes, block, segments, hidden.view());
    model.release_block(layer);
    step();
  }
  return hidden;
}

void for_each_logits(const Model& model, const Backend& backend, const TokenWindows& windows,
                     const ForwardOptions& options, const LogitsFn& consume) {
  const ModelConfig& config = model.config();
  const std::int64_t seqlen = windows.seqlen;
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
