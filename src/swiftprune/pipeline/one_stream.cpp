#include "swiftprune/pipeline/one_stream.h"

#include <algorithm>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/model/forward.h"

namespace swiftprune {

using enum LinearInput;

OneStream::OneStream(const Model& model, const Backend& backend, const TokenWindows& windows)
    : model_(model),
      backend_(backend),
      windows_(windows),
      ropes_(model.rope_tables(windows.seqlen)),
      hidden_(model.embed_windows(windows, 0, windows.num_windows())) {}

void OneStream::start_block(const DecoderBlock& block) {
  block_ = &block;
  if (model_.config().parallel_residual) block_input_ = hidden_.clone();
}

void OneStream::for_rows(const std::function<void(std::int64_t, std::int64_t)>& body) const {
  for_window_groups(windows_.num_windows(), windows_.seqlen, [&](std::int64_t first, std::int64_t count) {
    check_interrupt();
    body(first * windows_.seqlen, count * windows_.seqlen);
  });
}

void OneStream::collect(LinearInput output, ActivationStats* stats) {
  expect(block_ != nullptr, "collect: start_block() comes first");
  if (output == kMlpOutput) add_output(kAttentionOutput);
  const bool from_input = output == kMlpOutput && model_.config().parallel_residual;
  const Matrix& source = from_input ? block_input_ : hidden_;
  BlockForwardOptions options;
  options.sequence_length = windows_.seqlen;
  inner_ = Matrix();
  for_rows([&](std::int64_t first, std::int64_t rows) {
    const ConstMatrixView hidden = source.view().row_block(first, rows);
    const Matrix x = output == kMlpOutput
                         ? block_->mlp(backend_, block_->input_of(backend_, kMlp, hidden).view())
                         : block_->attention(backend_, ropes_,
                                             block_->input_of(backend_, kAttention, hidden).view(), options);
    for (std::int64_t row = 0; stats != nullptr && row < rows; row += windows_.seqlen) {
      stats->add_window(backend_, x.view().row_block(row, windows_.seqlen));
    }
    if (inner_.empty()) inner_ = Matrix(hidden_.rows(), x.cols());
    std::copy_n(x.data(), x.numel(), inner_.row(first));
  });
}

void OneStream::finish_block() {
  add_output(kMlpOutput);
  block_ = nullptr;
}

void OneStream::add_output(LinearInput which) {
  for_rows([&](std::int64_t first, std::int64_t rows) {
    Matrix out = block_->project(backend_, which, std::as_const(inner_).view().row_block(first, rows));
    block_->add_output(backend_, which, out.view(), hidden_.view().row_block(first, rows));
  });
}

}  // namespace swiftprune
