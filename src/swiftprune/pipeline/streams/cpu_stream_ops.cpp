#include "swiftprune/pipeline/streams/cpu_stream_ops.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/parallel.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/pipeline/root_mean_square.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kRowsAChunk = 64;

// weights_t /= rms(x_t)
void divide_by_rms(ConstMatrixView x, std::span<float> weights) {
  parallel_for(x.rows, kRowsAChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      weights[static_cast<std::size_t>(t)] /= static_cast<float>(root_mean_square(x.row_span(t)));
    }
  });
}

ConstMatrixView rows_between(ConstMatrixView m, std::int64_t first, std::int64_t count) {
  return m.data == nullptr ? m : m.row_block(first, count);
}

}  // namespace

CpuStreamOps::CpuStreamOps(const Model& model, const Backend& backend, const TokenWindows& windows)
    : model_(model), backend_(backend), windows_(windows), ropes_(model.rope_tables(windows.seqlen)) {}

void CpuStreamOps::assign(const Matrix& from, Matrix& to) {
  std::copy_n(from.data(), from.numel(), to.row(0));
}

void CpuStreamOps::for_rows(const std::function<void(std::int64_t, std::int64_t)>& body) const {
  for_window_groups(windows_.num_windows(), windows_.seqlen, [&](std::int64_t first, std::int64_t count) {
    check_interrupt();
    body(first * windows_.seqlen, count * windows_.seqlen);
  });
}

void CpuStreamOps::forward(const DecoderBlock& block, MatrixView hidden, const InputObserver* observer,
                           bool stays) const {
  BlockForwardOptions options;
  options.sequence_length = windows_.seqlen;
  options.observer = observer;
  options.observe_only = stays;
  if (!stays) return block.forward(backend_, ropes_, hidden, options);
  Matrix copy = copy_of(hidden);
  block.forward(backend_, ropes_, copy.view(), options);
}

Matrix CpuStreamOps::attention(const DecoderBlock& block, const Matrix& x, MatrixView hidden) const {
  BlockForwardOptions options;
  options.sequence_length = windows_.seqlen;
  return block.attention(backend_, ropes_, x.view(), hidden, options);
}

void CpuStreamOps::project_and_add(const DecoderBlock& block, LinearInput which, ConstMatrixView x,
                                   MatrixView hidden) const {
  Matrix out = project(block, which, x);
  add_projected(block, which, out, hidden);
}

ConstMatrixView CpuStreamOps::keep_inner(std::int64_t first, const Matrix& x) {
  const std::int64_t all = windows_.num_windows() * windows_.seqlen;
  if (first == 0 && (inner_.rows() != all || inner_.cols() != x.cols())) {
    inner_ = Matrix();  // before the next one, which may be large
    inner_ = Matrix(all, x.cols());
  }
  parallel_for(x.rows(), kRowsAChunk, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) std::copy_n(x.row(r), x.cols(), inner_.row(first + r));
  });
  return inner_rows(first, x.rows());
}

void CpuStreamOps::add(ActivationStats& stats, ConstMatrixView x) const {
  for (std::int64_t first = 0; first < x.rows; first += windows_.seqlen)
    stats.add_window(backend_, x.row_block(first, windows_.seqlen));
}

void CpuStreamOps::add_relative(ActivationStats& stats, ConstMatrixView x, const Matrix& out) const {
  Matrix weighted(x.rows, x.cols);
  parallel_for(x.rows, kRowsAChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      const double scale = 1.0 / std::sqrt(root_mean_square(out.view().row_span(t)));
      for (std::int64_t i = 0; i < x.cols; ++i)
        weighted.at(t, i) = static_cast<float>(scale * double{x.at(t, i)});
    }
  });
  const ConstMatrixView counted = std::as_const(weighted).view();
  for (std::int64_t first = 0; first < x.rows; first += windows_.seqlen) {
    stats.add_window(backend_, x.row_block(first, windows_.seqlen),
                     counted.row_block(first, windows_.seqlen));
  }
}

void CpuStreamOps::add_windows(ActivationStats& stats, const AlignedWindow& rows) const {
  const std::int64_t length = windows_.seqlen;
  for (std::int64_t first = 0; first < rows.x.rows; first += length) {
    AlignedWindow window;
    window.x = rows.x.row_block(first, length);
    window.dense_x = rows.dense_x.row_block(first, length);
    window.residual = rows_between(rows.residual, first, length);
    window.dense_residual = rows_between(rows.dense_residual, first, length);
    if (!rows.weights.empty()) {
      window.weights =
          rows.weights.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(length));
    }
    stats.add_window(backend_, window);
  }
}

void CpuStreamOps::add_aligned(ActivationStats& stats, ConstMatrixView x, ConstMatrixView dense) const {
  add_windows(stats, {.x = x, .dense_x = dense});
}

void CpuStreamOps::add_aligned_output(ActivationStats& stats, const DecoderBlock& block, LinearInput which,
                                      ConstMatrixView x, ConstMatrixView dense, ConstMatrixView rows,
                                      ConstMatrixView dense_rows, const Matrix* dense_out) const {
  const ConstMatrixView residual = hidden_of(model_.config(), rows),
                        dense_residual = hidden_of(model_.config(), dense_rows);
  std::vector<float> weights(static_cast<std::size_t>(x.rows), 1.0f);
  divide_by_rms(dense_residual, weights);
  if (dense_out != nullptr) divide_by_rms(dense_out->view(), weights);
  const float scale = block.output_factor(which);
  if (scale == 1.0f) return add_windows(stats, {x, dense, residual, dense_residual, weights});
  // The projection's output joins the residual times `scale`: to it the residual is 1/scale as large.
  const auto divided = [&](ConstMatrixView of) {
    Matrix result = copy_of(of);
    for (float& value : result.values()) value /= scale;
    return result;
  };
  const Matrix of_pruned = divided(residual), of_dense = divided(dense_residual);
  add_windows(stats, {x, dense, of_pruned.view(), of_dense.view(), weights});
}

std::vector<float> CpuStreamOps::row_sizes(const Matrix& hidden) const {
  std::vector<float> sizes(static_cast<std::size_t>(hidden.rows()));
  parallel_for(hidden.rows(), kRowsAChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      sizes[static_cast<std::size_t>(t)] = static_cast<float>(root_mean_square(hidden.view().row_span(t)));
    }
  });
  return sizes;
}

std::vector<ExpertTokens> CpuStreamOps::route(const DecoderBlock& block, ConstMatrixView x) const {
  const Router& router = block.experts()->router();
  const Matrix scores = router.scores(backend_, x);
  return tokens_by_expert(router.route(scores.view()), block.experts()->count());
}

void CpuStreamOps::add_shared(const DecoderBlock& block, ConstMatrixView x, MatrixView y) const {
  const Matrix shared = block.shared_output(backend_, x);
  for (std::int64_t r = 0; r < y.rows; ++r) {
    for (std::int64_t i = 0; i < y.cols; ++i) y.at(r, i) += shared.at(r, i);
  }
}

void CpuStreamOps::add_empty_window(ActivationStats& stats) const {
  const ConstMatrixView none{nullptr, 0, stats.num_inputs(), stats.num_inputs()};
  stats.has_alignment() ? stats.add_window(backend_, AlignedWindow{.x = none, .dense_x = none})
                        : stats.add_window(backend_, none);
}

}  // namespace swiftprune
