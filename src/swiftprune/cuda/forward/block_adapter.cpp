#include "swiftprune/cuda/forward/block_adapter.h"

#include <algorithm>

namespace swiftprune::cuda {
namespace {

constexpr std::string_view kWhat = "low-rank parts beside the linears";

}  // namespace

BlockAdapter::BlockAdapter(DeviceMemory& memory, Products& products, const Model& model, std::int64_t rows,
                           DType compute, cudaStream_t stream)
    : memory_(memory), products_(products), model_(model), compute_(compute), stream_(stream) {
  std::int64_t rank = 0;
  for (const BlockConfig& block : model.config().blocks) {
    for (const LinearTensors& linear : linears_of(block))
      rank = std::max(rank, model.adapter()->rank_of(linear.name));
  }
  inner_ = DeviceBuffer(memory, static_cast<std::uint64_t>(rows * rank * size_of(compute)), kWhat);
}

DeviceMatrix BlockAdapter::upload_compute(const Matrix& values) {
  DeviceMatrix result = uploaded(memory_, values, compute_, kWhat, stream_);
  bytes_ += result.view().numel() * size_of(compute_);
  return result;
}

BlockAdapter::OfBlock BlockAdapter::make(std::int64_t layer) {
  OfBlock made;
  const auto products = products_by_input(model_.config().blocks[static_cast<std::size_t>(layer)]);
  for (std::size_t input = 0; input < products.size(); ++input) {
    for (std::size_t product = 0; product < products[input].size(); ++product) {
      std::int64_t first = 0;
      for (const LinearTensors& linear : products[input][product]) {
        if (const auto part = model_.adapter()->load(linear.name)) {
          made[input][product].push_back({first, upload_compute(part->left), upload_compute(part->right)});
        }
        first += linear.outputs;
      }
    }
  }
  return made;
}

const BlockAdapter::OfBlock& BlockAdapter::load(std::int64_t layer) {
  return blocks_.get(layer, stream_, [&] { return make(layer); });
}

void BlockAdapter::load_all() {
  blocks_.keep_all();
  for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) load(layer);
}

void BlockAdapter::add(const BlockWeights& block, LinearInput input, std::size_t product, DeviceView x,
                       DeviceView y) {
  for (const Part& part : load(block.layer())[static_cast<std::size_t>(input)][product]) {
    const DeviceView inner = view_of(inner_.data(), compute_, x.rows, part.right.view().rows);
    products_.linear(x, part.right.view(), nullptr, inner);
    products_.run({.a = inner,
                   .b = part.left.view(),
                   .c = y.col_block(part.first, part.left.view().rows),
                   .b_transposed = true,
                   .beta = 1.0f});
  }
}

}  // namespace swiftprune::cuda
