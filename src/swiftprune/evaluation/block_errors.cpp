#include "swiftprune/evaluation/block_errors.h"

#include <algorithm>

namespace swiftprune {
namespace {

// |a - b|², |b|²: b is the reference.
struct Squares {
  double difference = 0.0, reference = 0.0;

  void add(ConstMatrixView a, ConstMatrixView b) {
    for (std::int64_t r = 0; r < a.rows; ++r) {
      for (std::int64_t c = 0; c < a.cols; ++c) {
        const double d = double{a.at(r, c)} - double{b.at(r, c)}, v = double{b.at(r, c)};
        difference += d * d;
        reference += v * v;
      }
    }
  }
  double relative() const { return reference > 0.0 ? difference / reference : 0.0; }
};

Matrix output(const Backend& backend, const BlockLinear& linear, ConstMatrixView x, ComputeType compute) {
  Matrix y(x.rows, linear.tensors.outputs);
  if (linear.compact) {
    linear.compact->forward(x, {}, y.view(), compute);
  } else {
    backend.linear(x, *linear.packed, {}, y.view());
  }
  return y;
}

bool same_shape(const LinearTensors& a, const LinearTensors& b) {
  return a.outputs == b.outputs && a.inputs == b.inputs && a.input == b.input;
}

BlockError error_of_block(const Backend& backend, const std::vector<RopeTable>& ropes,
                          const DecoderBlock& dense, const DecoderBlock& pruned, std::int64_t seqlen,
                          Matrix& dense_hidden, Matrix& pruned_hidden, ComputeType compute) {
  BlockError error;
  const auto& a = dense.linears();
  const auto& b = pruned.linears();
  std::vector<Squares> squares(std::min(a.size(), b.size()));
  const InputObserver observe = [&](LinearInput input, ConstMatrixView x) {
    for (std::size_t i = 0; i < squares.size(); ++i) {
      if (a[i].tensors.input != input || !same_shape(a[i].tensors, b[i].tensors)) continue;
      squares[i].add(output(backend, b[i], x, compute).view(), output(backend, a[i], x, compute).view());
    }
  };
  BlockForwardOptions options;
  options.sequence_length = seqlen;
  const Matrix before = dense_hidden.clone();
  Matrix own = dense_hidden.clone();
  pruned.forward(backend, ropes, own.view(), options);
  pruned.forward(backend, ropes, pruned_hidden.view(), options);
  options.observer = &observe;
  dense.forward(backend, ropes, dense_hidden.view(), options);

  Squares added, contribution, all;
  added.add(own.view(), dense_hidden.view());
  contribution.add(before.view(), dense_hidden.view());
  all.add(pruned_hidden.view(), dense_hidden.view());
  error.own = contribution.difference > 0.0 ? added.difference / contribution.difference : 0.0;
  error.total = all.relative();
  for (std::size_t i = 0; i < squares.size(); ++i) {
    if (same_shape(a[i].tensors, b[i].tensors)) {
      error.linears.push_back({a[i].tensors.name, squares[i].relative()});
    }
  }
  return error;
}

}  // namespace

std::optional<std::vector<BlockError>> block_errors(const Model& dense, const Model& pruned,
                                                    const Backend& backend, const TokenWindows& windows,
                                                    std::int64_t max_tokens, ComputeType compute,
                                                    const ProgressFn& progress) {
  if (dense.config().num_layers() != pruned.config().num_layers() ||
      dense.config().hidden_size != pruned.config().hidden_size) {
    return std::nullopt;
  }
  const std::int64_t count = std::clamp<std::int64_t>(max_tokens / windows.seqlen, 1, windows.num_windows());
  const std::vector<RopeTable> ropes = dense.rope_tables(windows.seqlen);
  Matrix dense_hidden = dense.embed_windows(windows, 0, count);
  Matrix pruned_hidden = pruned.embed_windows(windows, 0, count);
  std::vector<BlockError> errors;
  for (std::int64_t layer = 0; layer < dense.config().num_layers(); ++layer) {
    check_interrupt();
    DecoderBlock a = dense.load_block(layer), b = pruned.load_block(layer);
    a.pack(backend, compute);
    b.pack(backend, compute);
    errors.push_back(
        error_of_block(backend, ropes, a, b, windows.seqlen, dense_hidden, pruned_hidden, compute));
    errors.back().layer = layer;
    dense.release_block(layer);
    pruned.release_block(layer);
    if (progress) progress("block errors", layer + 1, dense.config().num_layers());
  }
  return errors;
}

}  // namespace swiftprune
