#include "swiftprune/pipeline/streams/one_stream.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/pipeline/root_mean_square.h"

namespace swiftprune {

namespace {

constexpr std::int64_t kRowsATask = 64;

}  // namespace

using enum LinearInput;

OneStream::OneStream(const Model& model, const Backend& backend, const TokenWindows& windows)
    : model_(model),
      backend_(backend),
      windows_(windows),
      ropes_(model.rope_tables(windows.seqlen)),
      hidden_(model.embed_windows(windows, 0, windows.num_windows())),
      inner_(hidden_.rows(), std::max(model.config().num_heads * model.config().head_size,
                                      model.config().intermediate_size)) {}

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
  for_rows([&](std::int64_t first, std::int64_t rows) {
    const ConstMatrixView hidden = source.view().row_block(first, rows);
    const Matrix x = output == kMlpOutput
                         ? block_->mlp(backend_, block_->input_of(backend_, kMlp, hidden).view())
                         : block_->attention(backend_, ropes_,
                                             block_->input_of(backend_, kAttention, hidden).view(), options);
    const bool relative = stats != nullptr && stats->has_gram() && block_->norms_output(output);
    const Matrix weighted = relative ? relative_to_output(output, x.view()) : Matrix();
    for (std::int64_t row = 0; stats != nullptr && row < rows; row += windows_.seqlen) {
      const ConstMatrixView for_gram =
          relative ? weighted.view().row_block(row, windows_.seqlen) : ConstMatrixView{};
      stats->add_window(backend_, x.view().row_block(row, windows_.seqlen), for_gram);
    }
    inner_size_ = x.cols();
    parallel_for(rows, kRowsATask, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) std::copy_n(x.row(r), x.cols(), inner_.row(first + r));
    });
  });
}

Matrix OneStream::relative_to_output(LinearInput which, ConstMatrixView x) const {
  const Matrix out = block_->project(backend_, which, x);
  Matrix result(x.rows, x.cols);
  parallel_for(x.rows, kRowsATask, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      const double scale = 1.0 / std::sqrt(root_mean_square(out.view().row_span(t)));
      for (std::int64_t i = 0; i < x.cols; ++i)
        result.at(t, i) = static_cast<float>(scale * double{x.at(t, i)});
    }
  });
  return result;
}

void OneStream::finish_block() {
  add_output(kMlpOutput);
  block_ = nullptr;
}

void OneStream::add_output(LinearInput which) {
  for_rows([&](std::int64_t first, std::int64_t rows) {
    const ConstMatrixView inner = std::as_const(inner_).view().col_block(0, inner_size_);
    Matrix out = block_->project(backend_, which, inner.row_block(first, rows));
    block_->add_output(backend_, which, out.view(), hidden_.view().row_block(first, rows));
  });
}

}  // namespace swiftprune
