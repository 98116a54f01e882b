// evaluation/block_errors.h on the device: both models' blocks stream through side by side.
#include <algorithm>
#include <numeric>
#include <vector>

#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/forward/block_stream.h"
#include "swiftprune/cuda/forward/head.h"
#include "swiftprune/cuda/pipeline/stream_ops.h"
#include "swiftprune/cuda/stages.h"
#include "swiftprune/model/observed_linear.h"

namespace swiftprune::cuda {
namespace {

// Most outputs that one input's linears have together.
std::int64_t widest_group(const Model& model) {
  std::int64_t widest = 0;
  for (const BlockConfig& block : model.config().blocks) {
    for (const auto& group : linears_by_input(block)) {
      std::int64_t outputs = 0;
      for (const LinearTensors& linear : group) outputs += linear.outputs;
      widest = std::max(widest, outputs);
    }
  }
  return widest;
}

class DevicePairedBlocks final : public PairedBlocks {
 public:
  DevicePairedBlocks(const Model& dense, const Model& pruned, TokenWindows windows, ComputeType compute,
                     const GpuOptions& device)
      : device_(device.index),
        windows_(std::move(windows)),
        memory_(device.memory_bytes),
        products_(memory_, stream_),
        dense_(memory_, products_, dense, device_, nullptr, rows_per_pass(windows_), windows_.seqlen,
               compute_dtype(dense, compute), stream_),
        pruned_(memory_, products_, pruned, device_, nullptr, rows_per_pass(windows_), windows_.seqlen,
                compute_dtype(pruned, compute), stream_),
        config_(dense.config()),
        dense_hidden_(embed(memory_, dense, windows_, stream_)),
        pruned_hidden_(embed(memory_, pruned, windows_, stream_)) {
    const std::int64_t rows = rows_per_pass(windows_);
    const std::int64_t inputs = widest_input(dense.config());
    for (DeviceMatrix* m : {&before_, &own_})
      *m = DeviceMatrix(memory_, DType::kF32, rows, dense.config().row_size(), "hidden states");
    x_ =
        DeviceBuffer(memory_, static_cast<std::uint64_t>(rows * inputs) * sizeof(float), "inputs of linears");
    dense_y_ = DeviceMatrix(memory_, DType::kF32, rows, widest_group(dense), "outputs of linears");
    pruned_y_ = DeviceMatrix(memory_, DType::kF32, rows, widest_group(pruned), "outputs of linears");
    const auto bytes = static_cast<std::uint64_t>(rows) * sizeof(double);
    differences_ = DeviceBuffer(memory_, bytes, "squares");
    references_ = DeviceBuffer(memory_, bytes, "squares");
  }

  BlockSquares run(std::int64_t layer) override {
    check(cudaSetDevice(device_));
    BlockWeights& dense = dense_.load(layer);
    BlockWeights& pruned = pruned_.load(layer);
    const std::int64_t rows = rows_per_pass(windows_);
    const std::int64_t passes = (windows_.num_windows() * windows_.seqlen + rows - 1) / rows;
    dense_.choose_forms(dense, rows, passes);
    pruned_.choose_forms(pruned, rows, passes);
    BlockSquares squares;
    squares.linears.resize(linears_of(dense.config()).size());
    const DeviceObserver observer = [&](LinearInput input, DeviceView x) {
      add_linears(dense, pruned, input, x, squares);
    };
    for_passes(windows_, [&](std::int64_t first, std::int64_t count) {
      const DeviceView of_dense = dense_hidden_.view().row_block(first, count);
      const DeviceView of_pruned = pruned_hidden_.view().row_block(first, count);
      const DeviceView before = before_.view().row_block(0, count), own = own_.view().row_block(0, count);
      copy(of_dense, before, stream_);
      copy(of_dense, own, stream_);
      pruned_.forward().run(pruned, own);
      pruned_.forward().run(pruned, of_pruned);
      dense_.forward().run(dense, of_dense, &observer);
      const auto hidden = [&](DeviceView rows_of) { return hidden_of(config_, rows_of); };
      squares.own += squares_of(hidden(own), hidden(of_dense));
      squares.contribution += squares_of(hidden(before), hidden(of_dense));
      squares.total += squares_of(hidden(of_pruned), hidden(of_dense));
    });
    return squares;
  }

 private:
  // What the linears that read x [rows, I] make of it, both models', without biases.
  void add_linears(const BlockWeights& dense, const BlockWeights& pruned, LinearInput input, DeviceView x,
                   BlockSquares& squares) {
    const auto group = static_cast<std::size_t>(input);
    const auto of_dense = products_by_input(dense.config()), of_pruned = products_by_input(pruned.config());
    std::size_t index = 0;  // among all linears of the block, which come by input
    for (std::size_t i = 0; i < group; ++i) {
      for (const auto& linears : of_dense[i]) index += linears.size();
    }
    for (std::size_t p = 0; p < std::min(of_dense[group].size(), of_pruned[group].size()); ++p) {
      add_product(dense, pruned, of_dense[group][p], of_pruned[group][p], {input, p, index}, x, squares);
      index += of_dense[group][p].size();
    }
  }

  struct Place {
    LinearInput input;
    std::size_t product = 0,
                first = 0;  // number among those of its input, and of its first linear in the block
  };
  void add_product(const BlockWeights& dense, const BlockWeights& pruned, const std::vector<LinearTensors>& a,
                   const std::vector<LinearTensors>& b, const Place& place, DeviceView x,
                   BlockSquares& squares) {
    if (a.front().inputs != b.front().inputs || !is_observed(a.front(), config_.hidden_size)) return;
    const auto rows = [&](const BlockWeights& block) { return block.group_rows(place.input, place.product); };
    const DeviceView dense_y = view_of(dense_y_.view().data, DType::kF32, x.rows, rows(dense));
    const DeviceView pruned_y = view_of(pruned_y_.view().data, DType::kF32, x.rows, rows(pruned));
    dense_.forward().product(dense, place.input, read_of(x, a.front(), x.dtype), dense_y, place.product);
    pruned_.forward().product(pruned, place.input, read_of(x, a.front(), pruned_.forward().compute()),
                              pruned_y, place.product);
    std::int64_t a_first = 0, b_first = 0;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      if (a[i].outputs == b[i].outputs) {
        squares.linears[place.first + i] +=
            squares_of(pruned_y.col_block(b_first, b[i].outputs), dense_y.col_block(a_first, a[i].outputs));
      }
      a_first += a[i].outputs;
      b_first += b[i].outputs;
    }
  }

  // What the linear reads of x, in `dtype`.
  DeviceView read_of(DeviceView x, const LinearTensors& linear, DType dtype) {
    if (linear.inputs == x.cols && dtype == x.dtype) return x;
    const DeviceView read = view_of(x_.data(), dtype, x.rows, linear.inputs);
    CopyHeadsArgs args;
    args.x = x.col_block(linear.first_input, linear.inputs).data;
    args.x_dtype = x.dtype;
    args.x_row_stride = x.stride;
    args.y = read.data;
    args.y_dtype = dtype;
    args.y_row_stride = read.stride;
    args.rows = x.rows;
    args.size = linear.inputs;
    copy_heads(args, stream_);
    return read;
  }

  // |a - b|², |b|² of F32 matrices
  Squares squares_of(DeviceView a, DeviceView b) {
    row_squares(strided(a), strided(b), a.rows, a.cols, differences_.as<double>(), references_.as<double>(),
                stream_);
    return {sum_of(differences_, a.rows), sum_of(references_, a.rows)};
  }
  double sum_of(const DeviceBuffer& numbers, std::int64_t count) {
    std::vector<double> host(static_cast<std::size_t>(count));
    check(cudaMemcpyAsync(host.data(), numbers.data(), host.size() * sizeof(double), cudaMemcpyDeviceToHost,
                          stream_));
    stream_.synchronize();
    return std::accumulate(host.begin(), host.end(), 0.0);
  }

  const int device_;
  const TokenWindows windows_;
  DeviceMemory memory_;
  Stream stream_;
  Products products_;
  BlockStream dense_, pruned_;
  const ModelConfig& config_;                  // of the dense model
  DeviceMatrix dense_hidden_, pruned_hidden_;  // [N, row_size]
  DeviceMatrix before_, own_, dense_y_, pruned_y_;
  DeviceBuffer x_;  // a part of an input, or one in another type
  DeviceBuffer differences_, references_;
};

}  // namespace

std::unique_ptr<PairedBlocks> make_paired_blocks(const Model& dense, const Model& pruned,
                                                 TokenWindows windows, ComputeType compute,
                                                 const GpuOptions& device) {
  check(cudaSetDevice(device.index));
  return std::make_unique<DevicePairedBlocks>(dense, pruned, std::move(windows), compute, device);
}

}  // namespace swiftprune::cuda
