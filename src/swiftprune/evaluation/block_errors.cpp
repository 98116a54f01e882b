#include "swiftprune/evaluation/block_errors.h"
#include "swiftprune/model/observed_linear.h"

#include <algorithm>
#include <utility>

namespace swiftprune {
namespace {

// |a - b|², |b|²: b is the reference.
void add(Squares& squares, ConstMatrixView a, ConstMatrixView b) {
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (std::int64_t c = 0; c < a.cols; ++c) {
      const double d = double{a.at(r, c)} - double{b.at(r, c)}, v = double{b.at(r, c)};
      squares.difference += d * d;
      squares.reference += v * v;
    }
  }
}

Matrix output(const Backend& backend, const BlockLinear& linear, ConstMatrixView x, ComputeType compute) {
  Matrix y(x.rows, linear.tensors.outputs);
  if (linear.compact) {
    linear.compact->forward(x, {}, y.view(), compute);
  } else {
    backend.linear(x, *linear.packed, {}, y.view());
  }
  add_low_rank(linear, backend, x, y.view());
  return y;
}

// What the linear reads of x, where that is a part of it; else nothing.
Matrix part_of(ConstMatrixView x, const LinearTensors& linear) {
  return linear.inputs == x.cols ? Matrix() : copy_of(x.col_block(linear.first_input, linear.inputs));
}

bool same_shape(const LinearTensors& a, const LinearTensors& b) {
  return a.outputs == b.outputs && a.inputs == b.inputs && a.input == b.input;
}

class CpuPairedBlocks final : public PairedBlocks {
 public:
  CpuPairedBlocks(const Model& dense, const Model& pruned, const Backend& backend, TokenWindows windows,
                  ComputeType compute)
      : dense_(dense),
        pruned_(pruned),
        backend_(backend),
        windows_(std::move(windows)),
        compute_(compute),
        ropes_(dense.rope_tables(windows_.seqlen)),
        dense_hidden_(dense.embed_windows(windows_, 0, windows_.num_windows())),
        pruned_hidden_(pruned.embed_windows(windows_, 0, windows_.num_windows())) {}

  BlockSquares run(std::int64_t layer) override {
    DecoderBlock dense = dense_.load_block(layer), pruned = pruned_.load_block(layer);
    dense.pack(backend_, compute_);
    pruned.pack(backend_, compute_);
    BlockSquares squares;
    const auto& a = dense.linears();
    const auto& b = pruned.linears();
    squares.linears.resize(a.size());
    const InputObserver observe = [&](LinearInput input, ConstMatrixView x) {
      for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        if (a[i].tensors.input != input || !same_shape(a[i].tensors, b[i].tensors)) continue;
        if (!is_observed(a[i].tensors, dense_.config().hidden_size)) continue;
        const Matrix part = part_of(x, a[i].tensors);
        const ConstMatrixView read = part.empty() ? x : part.view();
        add(squares.linears[i], output(backend_, b[i], read, compute_).view(),
            output(backend_, a[i], read, compute_).view());
      }
    };
    BlockForwardOptions options;
    options.sequence_length = windows_.seqlen;
    const Matrix before = dense_hidden_.clone();
    Matrix own = dense_hidden_.clone();
    pruned.forward(backend_, ropes_, own.view(), options);
    pruned.forward(backend_, ropes_, pruned_hidden_.view(), options);
    options.observer = &observe;
    dense.forward(backend_, ropes_, dense_hidden_.view(), options);
    const auto hidden = [&](const Matrix& rows) { return hidden_of(dense_.config(), rows.view()); };
    add(squares.own, hidden(own), hidden(dense_hidden_));
    add(squares.contribution, hidden(before), hidden(dense_hidden_));
    add(squares.total, hidden(pruned_hidden_), hidden(dense_hidden_));
    dense_.release_block(layer);
    pruned_.release_block(layer);
    return squares;
  }

 private:
  const Model& dense_;
  const Model& pruned_;
  const Backend& backend_;
  const TokenWindows windows_;
  const ComputeType compute_;
  const std::vector<RopeTable> ropes_;
  Matrix dense_hidden_, pruned_hidden_;  // [N, row_size]
};

BlockError error_of(const BlockSquares& squares, const BlockConfig& dense, const BlockConfig& pruned,
                    std::int64_t hidden_size) {
  BlockError error;
  error.own =
      squares.contribution.difference > 0.0 ? squares.own.difference / squares.contribution.difference : 0.0;
  error.total = squares.total.relative();
  const std::vector<LinearTensors> a = linears_of(dense), b = linears_of(pruned);
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (same_shape(a[i], b[i]) && is_observed(a[i], hidden_size))
      error.linears.push_back({a[i].name, squares.linears[i].relative()});
  }
  return error;
}

}  // namespace

std::unique_ptr<PairedBlocks> make_cpu_paired_blocks(const Model& dense, const Model& pruned,
                                                     const Backend& backend, TokenWindows windows,
                                                     ComputeType compute) {
  return std::make_unique<CpuPairedBlocks>(dense, pruned, backend, std::move(windows), compute);
}

std::optional<std::vector<BlockError>> block_errors(const Model& dense, const Model& pruned,
                                                    const PairedBlocksMaker& make_blocks,
                                                    const TokenWindows& windows, std::int64_t max_tokens,
                                                    const ProgressFn& progress) {
  if (dense.config().num_layers() != pruned.config().num_layers() ||
      dense.config().hidden_size != pruned.config().hidden_size) {
    return std::nullopt;
  }
  const std::int64_t count = std::clamp<std::int64_t>(max_tokens / windows.seqlen, 1, windows.num_windows());
  const auto begin = windows.ids.begin();
  const auto blocks = make_blocks({windows.seqlen, {begin, begin + count * windows.seqlen}});
  std::vector<BlockError> errors;
  for (std::int64_t layer = 0; layer < dense.config().num_layers(); ++layer) {
    check_interrupt();
    const auto index = static_cast<std::size_t>(layer);
    errors.push_back(error_of(blocks->run(layer), dense.config().blocks[index], pruned.config().blocks[index],
                              dense.config().hidden_size));
    errors.back().layer = layer;
    if (progress) progress("block errors", layer + 1, dense.config().num_layers());
  }
  return errors;
}

}  // namespace swiftprune
