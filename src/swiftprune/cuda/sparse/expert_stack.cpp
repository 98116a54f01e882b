#include "swiftprune/cuda/sparse/expert_stack.h"

#include <algorithm>
#include <vector>

#include "swiftprune/core/parallel.h"
#include "swiftprune/cuda/sparse/packed_order.h"
#include "swiftprune/sparse/pack.h"

namespace swiftprune::cuda {
namespace {

bool is_bitmap(const PackedTensor& part, Stored stored) {
  return kind_of(part) == PackedPiece::Kind::kBitmap && stored_of(part) == stored;
}

// All as bitmaps that store what the first one does, or else 16 bits.
std::vector<PackedTensor> as_bitmaps(std::span<const PackedTensor> parts) {
  const Stored first = stored_of(parts.front());
  const bool same =
      std::ranges::all_of(parts, [&](const PackedTensor& part) { return is_bitmap(part, first); });
  const Stored stored = same ? first : Stored::kHalf;
  std::vector<PackedTensor> bitmaps(parts.begin(), parts.end());
  parallel_for(std::ssize(bitmaps), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      PackedTensor& part = bitmaps[static_cast<std::size_t>(i)];
      if (is_bitmap(part, stored)) continue;
      const std::vector<std::uint16_t> bits = unpack(part);
      part = pack({bits, part.rows(), part.cols(), part.shape().dtype}, {PackedKind::kBitmap16});
    }
  });
  return bitmaps;
}

}  // namespace

std::optional<std::string> ExpertStack::problem(const PackedShape& first, const PackedShape& other,
                                                DType dtype) {
  const bool grid = is_grid(first.kind);
  if (grid != is_grid(other.kind) || (grid && first.grid != other.grid)) {
    return fmt::format("found {} beside {}, expected one grid for all experts of a layer, or none",
                       describe(other), describe(first));
  }
  if (grid || other.dtype == dtype) return std::nullopt;
  return fmt::format("found {}, expected {} as the model's other packed weights", name_of(other.dtype),
                     name_of(dtype));
}

ExpertStack::ExpertStack(DeviceMemory& memory, std::span<const PackedTensor> parts, std::int64_t linears,
                         DType dtype, cudaStream_t stream)
    : linears_(linears), dtype_(dtype) {
  expect(!parts.empty() && std::ssize(parts) % linears == 0 && size_of(dtype) == 2,
         "ExpertStack: linears of experts, products of 16 bits");
  experts_ = std::ssize(parts) / linears;
  rows_ = parts.front().rows();
  cols_ = parts.front().cols();
  for (const PackedTensor& part : parts) {
    expect(
        part.rows() == rows_ && part.cols() == cols_ && !problem(parts.front().shape(), part.shape(), dtype),
        "ExpertStack: linears that stack");
  }
  piece_ = is_grid(parts.front().kind()) ? make_grid(memory, parts, false, stream)
                                         : make_bitmap(memory, as_bitmaps(parts), stream);
}

StackedWeight ExpertStack::weight() const {
  if (piece_.kind == PackedPiece::Kind::kGrid) return piece_.grid_weight(cols_);
  return piece_.bitmap();
}

// False, with nothing done, when a dense copy is faster: an expert's is small enough to stay in the GPU's cache.
bool ExpertStack::multiply(std::int64_t panel, DeviceView x, const void* bias, DeviceView y,
                           cudaStream_t stream) const {
  const std::int64_t blocks = ceil_div(cols_, kCompactBlock);
  const CompactArgs args = compact_args(x, y.cols, bias, y, false);
  if (piece_.kind == PackedPiece::Kind::kBitmap) {
    const BitmapWeight weight = piece_.bitmap().from(panel, blocks);
    if (x.rows > kMaxDecodeTokens) return batch_bitmap(weight, args, stream);
    multiply_bitmap(weight, args, stream);
    return true;
  }
  if (x.rows > kMaxDecodeTokens) return false;
  multiply_grid(piece_.grid_weight(cols_).from(panel, blocks), args, stream);
  return true;
}

void ExpertStack::expand(std::int64_t panel, std::int64_t rows, void* dense, cudaStream_t stream) const {
  const std::int64_t blocks = ceil_div(cols_, kCompactBlock);
  if (piece_.kind == PackedPiece::Kind::kBitmap) {
    expand_bitmap(piece_.bitmap().from(panel, blocks), dtype_, rows, cols_, dense, stream);
  } else {
    expand_grid(piece_.grid_weight(cols_).from(panel, blocks), dtype_, rows, cols_, dense, stream);
  }
}

void ExpertStack::linear(Products& products, std::int64_t expert, DeviceView x, const void* bias,
                         DeviceView y, DeviceView scratch, cudaStream_t stream) const {
  expect(x.dtype == dtype_ && x.cols == cols_ && y.cols == outputs() && y.rows == x.rows,
         "ExpertStack::linear: shapes agree");
  // Linears of whole panels follow each other as if they were one.
  const std::int64_t together = rows_ % kPanelRows == 0 ? outputs() : rows_;
  const std::int64_t panels = ceil_div(rows_, kPanelRows);
  const auto panel_of = [&](std::int64_t row) { return (expert * linears_ + row / rows_) * panels; };
  bool multiplied = true;
  for (std::int64_t row = 0; row < outputs() && multiplied; row += together) {
    const void* of_rows =
        bias == nullptr ? nullptr : static_cast<const std::byte*>(bias) + row * size_of(y.dtype);
    multiplied = multiply(panel_of(row), x, of_rows, y.col_block(row, together), stream);
  }
  if (multiplied) return;  // else not the first one either
  const DeviceView dense = view_of(scratch.data, dtype_, outputs(), cols_);
  expect(scratch.numel() >= dense.numel(), "ExpertStack::linear: room to expand");
  for (std::int64_t row = 0; row < outputs(); row += together)
    expand(panel_of(row), together, dense.row(row), stream);
  products.linear(x, dense, bias, y);
}

}  // namespace swiftprune::cuda
