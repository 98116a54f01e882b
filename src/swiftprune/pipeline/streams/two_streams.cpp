#include "swiftprune/pipeline/streams/two_streams.h"

#include <algorithm>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/pipeline/root_mean_square.h"

namespace swiftprune {
namespace {

using enum LinearInput;

// weights_t /= rms(x_t)
void divide_by_rms(ConstMatrixView x, std::span<float> weights) {
  parallel_for(x.rows, 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      weights[static_cast<std::size_t>(t)] /= static_cast<float>(root_mean_square(x.row_span(t)));
    }
  });
}

ConstMatrixView rows_of(ConstMatrixView m, std::int64_t first, std::int64_t count) {
  return m.data == nullptr ? m : m.row_block(first, count);
}

}  // namespace

TwoStreams::TwoStreams(const Model& model, const Backend& backend, const TokenWindows& windows)
    : model_(model),
      backend_(backend),
      windows_(windows),
      ropes_(model.rope_tables(windows.seqlen)),
      hidden_(model.embed_windows(windows, 0, windows.num_windows())),
      dense_hidden_(hidden_.clone()) {}

void TwoStreams::start_block(const DecoderBlock& dense, const DecoderBlock& pruned) {
  dense_ = &dense;
  pruned_ = &pruned;
  if (!model_.config().parallel_residual) return;
  block_input_ = hidden_.clone();
  dense_block_input_ = dense_hidden_.clone();
}

void TwoStreams::for_rows(const std::function<void(std::int64_t, std::int64_t)>& body) const {
  for_window_groups(windows_.num_windows(), windows_.seqlen, [&](std::int64_t first, std::int64_t count) {
    check_interrupt();
    body(first * windows_.seqlen, count * windows_.seqlen);
  });
}

// Window by window, as the statistics want them.
void TwoStreams::add(ActivationStats& stats, const AlignedWindow& rows) const {
  const std::int64_t length = windows_.seqlen;
  for (std::int64_t first = 0; first < rows.x.rows; first += length) {
    AlignedWindow window;
    window.x = rows.x.row_block(first, length);
    window.dense_x = rows.dense_x.row_block(first, length);
    window.residual = rows_of(rows.residual, first, length);
    window.dense_residual = rows_of(rows.dense_residual, first, length);
    if (!rows.weights.empty()) {
      window.weights =
          rows.weights.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(length));
    }
    stats.add_window(backend_, window);
  }
}

void TwoStreams::collect(LinearInput input, ActivationStats* stats) {
  expect(dense_ != nullptr, "collect: start_block() comes first");
  switch (input) {
    case kMlp:
      add_output(kAttentionOutput);
      [[fallthrough]];
    case kAttention:
      if (stats != nullptr) collect_normed(input, stats);
      break;
    case kAttentionOutput:
    case kMlpOutput:
      collect_output(input, stats);
      break;
  }
}

void TwoStreams::finish_block() {
  add_output(kMlpOutput);
  dense_ = pruned_ = nullptr;
}

void TwoStreams::collect_normed(LinearInput input, ActivationStats* stats) {
  const bool from_input = input == kMlp && model_.config().parallel_residual;
  const Matrix& source = from_input ? block_input_ : hidden_;
  const Matrix& dense_source = from_input ? dense_block_input_ : dense_hidden_;
  for_rows([&](std::int64_t first, std::int64_t rows) {
    const Matrix x = pruned_->input_of(backend_, input, source.view().row_block(first, rows));
    const Matrix dense = dense_->input_of(backend_, input, dense_source.view().row_block(first, rows));
    add(*stats, {.x = x.view(), .dense_x = dense.view()});
  });
}

Matrix TwoStreams::inner(const DecoderBlock& block, LinearInput which, ConstMatrixView hidden) const {
  if (which == kMlpOutput) return block.mlp(backend_, block.input_of(backend_, kMlp, hidden).view());
  BlockForwardOptions options;
  options.sequence_length = windows_.seqlen;
  return block.attention(backend_, ropes_, block.input_of(backend_, kAttention, hidden).view(), options);
}

void TwoStreams::collect_output(LinearInput which, ActivationStats* stats) {
  const bool from_input = which == kMlpOutput && model_.config().parallel_residual;
  const Matrix& source = from_input ? block_input_ : hidden_;
  const Matrix& dense_source = from_input ? dense_block_input_ : dense_hidden_;
  inner_ = Matrix();
  for_rows([&](std::int64_t first, std::int64_t rows) {
    const Matrix x = inner(*pruned_, which, source.view().row_block(first, rows));
    const Matrix dense = inner(*dense_, which, dense_source.view().row_block(first, rows));
    Matrix dense_out = dense_->project(backend_, which, dense.view());
    const MatrixView dense_hidden = dense_hidden_.view().row_block(first, rows);
    if (stats != nullptr) {
      std::vector<float> weights(static_cast<std::size_t>(rows), 1.0f);
      divide_by_rms(dense_hidden, weights);
      if (dense_->norms_output(which)) divide_by_rms(dense_out.view(), weights);
      add(*stats, {x.view(), dense.view(), hidden_.view().row_block(first, rows), dense_hidden, weights});
    }
    dense_->add_output(backend_, which, dense_out.view(), dense_hidden);
    if (inner_.empty()) inner_ = Matrix(hidden_.rows(), x.cols());
    std::copy_n(x.data(), x.numel(), inner_.row(first));
  });
}

void TwoStreams::add_output(LinearInput which) {
  for_rows([&](std::int64_t first, std::int64_t rows) {
    Matrix out = pruned_->project(backend_, which, std::as_const(inner_).view().row_block(first, rows));
    pruned_->add_output(backend_, which, out.view(), hidden_.view().row_block(first, rows));
  });
}

}  // namespace swiftprune
