// What the streams (whole_stream.h, one_stream.h, two_streams.h) do to rows of hidden states, on the
// processor.
#pragma once

#include <functional>
#include <vector>

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/model/model.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

class CpuStreamOps {
 public:
  using Block = DecoderBlock;
  using Hidden = Matrix;  // [N, row_size] of all windows
  using Stats = ActivationStats;
  using Observer = InputObserver;
  using Expert = swiftprune::Expert;

  CpuStreamOps(const Model& model, const Backend& backend, const TokenWindows& windows);

  const ModelConfig& config() const { return model_.config(); }
  Matrix embed() const { return model_.embed_windows(windows_, 0, windows_.num_windows()); }
  static Matrix clone(const Matrix& hidden) { return hidden.clone(); }
  static void assign(const Matrix& from, Matrix& to);
  // Whole windows at a time.
  void for_rows(const std::function<void(std::int64_t first_row, std::int64_t rows)>& body) const;
  static MatrixView rows(Matrix& hidden, std::int64_t first, std::int64_t count) {
    return hidden.view().row_block(first, count);
  }

  // hidden rows become the block's output, or stay (as DecoderBlock::forward()).
  void forward(const DecoderBlock& block, MatrixView hidden, const InputObserver* observer, bool stays) const;
  // The steps of a block, as in DecoderBlock.
  Matrix input_of(const DecoderBlock& block, LinearInput input, ConstMatrixView hidden) const {
    return block.input_of(backend_, input, hidden);
  }
  Matrix attention(const DecoderBlock& block, const Matrix& x, MatrixView hidden) const;
  Matrix mlp(const DecoderBlock& block, const Matrix& x) const { return block.mlp(backend_, x.view()); }
  Matrix project(const DecoderBlock& block, LinearInput which, ConstMatrixView x) const {
    return block.project(backend_, which, x);
  }
  void add_projected(const DecoderBlock& block, LinearInput which, Matrix& y, MatrixView hidden) const {
    block.add_output(backend_, which, y.view(), hidden);
  }
  // The same where y may change.
  void add_output(const DecoderBlock& block, LinearInput which, MatrixView y, MatrixView hidden) const {
    block.add_output(backend_, which, y, hidden);
  }
  void project_and_add(const DecoderBlock& block, LinearInput which, ConstMatrixView x,
                       MatrixView hidden) const;
  static bool norms_output(const DecoderBlock& block, LinearInput which) { return block.norms_output(which); }

  // A result that is to stand while the same step runs again.
  static Matrix hold(Matrix x) { return x; }
  static ConstMatrixView view(const Matrix& x) { return x.view(); }
  static ConstMatrixView view(ConstMatrixView x) { return x; }
  // [N, I] the inputs of the output projection in hand, kept until all windows were there.
  ConstMatrixView keep_inner(std::int64_t first, const Matrix& x);
  ConstMatrixView inner_rows(std::int64_t first, std::int64_t count) const {
    return inner_.view().row_block(first, count);
  }

  // Statistics, window by window.
  static bool has_gram(const ActivationStats& stats) { return stats.has_gram(); }
  void add(ActivationStats& stats, ConstMatrixView x) const;
  // The Gram matrix counts each token by 1/rms(out).
  void add_relative(ActivationStats& stats, ConstMatrixView x, const Matrix& out) const;
  void add_aligned(ActivationStats& stats, ConstMatrixView x, ConstMatrixView dense) const;
  // Of the block's output projection `which`. Each token by 1/rms(dense residual), and by 1/rms(dense_out) where it is
  // given. residual, dense_residual: rows of hidden states.
  void add_aligned_output(ActivationStats& stats, const DecoderBlock& block, LinearInput which,
                          ConstMatrixView x, ConstMatrixView dense, ConstMatrixView residual,
                          ConstMatrixView dense_residual, const Matrix* dense_out) const;

  // -- A block's experts (expert_stream.h).
  static std::int64_t most_expert_rows() { return 4096; }  // at a time
  static std::int64_t num_experts(const DecoderBlock& block) { return block.experts()->count(); }
  static Matrix zeros_like(const Matrix& hidden) { return Matrix::zeros(hidden.rows(), hidden.cols()); }
  // [N] root_mean_square() of the rows
  std::vector<float> row_sizes(const Matrix& hidden) const;
  std::vector<ExpertTokens> route(const DecoderBlock& block, ConstMatrixView x) const;
  Matrix shared_inner(const DecoderBlock& block, ConstMatrixView x) const {
    return block.shared_inner(backend_, x);
  }
  // y += what the shared expert makes of x, where there is one.
  void add_shared(const DecoderBlock& block, ConstMatrixView x, MatrixView y) const;
  static Matrix gather(const Matrix& hidden, std::span<const std::int64_t> rows) {
    return gather_rows(hidden.view(), rows);
  }
  // The expert for one use.
  void use(const DecoderBlock& block, std::int64_t expert,
           const std::function<void(const Expert&)>& body) const {
    block.experts()->use(backend_, expert, body);
  }
  Matrix inner(const Expert& expert, ConstMatrixView x) const { return expert.inner(backend_, x); }
  Matrix project_expert(const Expert& expert, ConstMatrixView inner) const {
    return expert.project(backend_, inner);
  }
  static void add_gated(ConstMatrixView values, const ExpertTokens& tokens, Matrix& outputs) {
    add_rows(values, tokens, outputs.view());
  }
  // One window of any number of tokens.
  void add_window(ActivationStats& stats, ConstMatrixView x) const { stats.add_window(backend_, x); }
  void add_empty_window(ActivationStats& stats) const;
  // weights [T] of the tokens in all sums
  void add_weighted_window(ActivationStats& stats, ConstMatrixView x, ConstMatrixView dense,
                           std::span<const float> weights) const {
    stats.add_window(backend_, AlignedWindow{.x = x, .dense_x = dense, .weights = weights});
  }

 private:
  void add_windows(ActivationStats& stats, const AlignedWindow& rows) const;

  const Model& model_;
  const Backend& backend_;
  const TokenWindows& windows_;
  std::vector<RopeTable> ropes_;
  Matrix inner_;
};

}  // namespace swiftprune
