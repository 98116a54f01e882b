#include "swiftprune/cuda/sparse/packed_weight.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/sparse/packed_order.h"
#include "swiftprune/sparse/pack.h"

namespace swiftprune::cuda {
namespace {

using Kind = PackedPiece::Kind;

constexpr std::int64_t kStructuredTokens = 256;  // fewer are no gain for cuSPARSELt
constexpr std::int64_t kTwoFourAlone = 4;        // more gain by sharing their inputs among panels
constexpr std::int64_t kTwoFourGridAlone = 4;    // the same with codes
// More tokens repay the expansion of a grid; up to here they are multiplied kMaxDecodeTokens at a time.
constexpr std::int64_t kGridTokens = 96;

std::string_view kind_name(Kind kind, Stored stored) {
  switch (kind) {
    case Kind::kBitmap:
      return name_of(stored == Stored::kHalf   ? PackedKind::kBitmap16
                     : stored == Stored::kInt8 ? PackedKind::kBitmapInt8
                                               : PackedKind::kBitmapFp8);
    case Kind::kTwoFour:
      return "2:4";
    case Kind::kGrid:
      return name_of(PackedKind::kDenseGrid);
    case Kind::kTwoFourGrid:
      return name_of(PackedKind::kNmGrid);
    case Kind::kEntries:  // what a bitmap becomes
    case Kind::kDense:
      break;
  }
  return "dense16";
}

// The part as the device takes it.
PackedTensor device_form(const PackedTensor& part) {
  if (kind_of(part) != Kind::kDense || part.kind() == PackedKind::kDense16 || is_grid(part.kind())) {
    return part;
  }
  const std::vector<std::uint16_t> bits = unpack(part);
  const WeightBits weight{bits, part.rows(), part.cols(), part.shape().dtype};
  PackedTensor bitmap = pack(weight, {.kind = PackedKind::kBitmap16});
  if (bitmap.bytes().size() < bits.size() * sizeof(std::uint16_t)) return bitmap;
  return pack(weight, {.kind = PackedKind::kDense16});
}

// Panels follow each other only when those before the last part are full.
bool can_follow(const PackedTensor& before, const PackedTensor& part) {
  return kind_of(before) == kind_of(part) && stored_of(before) == stored_of(part) &&
         before.shape().grid == part.shape().grid && before.rows() % kPanelRows == 0;
}

}  // namespace

DevicePacked::DevicePacked(DeviceMemory& memory, std::span<const PackedTensor> parts, DType dtype,
                           cudaStream_t stream)
    : dtype_(dtype) {
  expect(!parts.empty() && size_of(dtype) == 2, "DevicePacked: a weight, products of 16 bits");
  cols_ = parts.front().cols();
  std::vector<PackedTensor> forms;
  std::string kinds;
  double values = 0.0;
  for (const PackedTensor& part : parts) {
    expect(part.cols() == cols_ && (is_grid(part.kind()) || part.shape().dtype == dtype_),
           "DevicePacked: parts of one width and dtype");
    forms.push_back(device_form(part));
    values += static_cast<double>(forms.back().shape().num_values);
  }
  for (std::size_t first = 0, end = 0; first < forms.size(); first = end) {
    std::int64_t rows = forms[first].rows();
    for (end = first + 1; end < forms.size() && can_follow(forms[end - 1], forms[end]); ++end) {
      rows += forms[end].rows();
    }
    const auto group = std::span(forms).subspan(first, end - first);
    PackedPiece piece = kind_of(forms[first]) == Kind::kBitmap    ? make_bitmap(memory, group, stream)
                        : kind_of(forms[first]) == Kind::kTwoFour ? make_two_four(memory, group, stream)
                        : is_few_bits(kind_of(forms[first]))
                            ? make_grid(memory, group, kind_of(forms[first]) == Kind::kTwoFourGrid, stream)
                            : make_dense(memory, group, dtype, stream);
    piece.first_row = rows_;
    piece.rows = rows;
    rows_ += rows;
    kinds += kinds.empty() ? "" : "+";
    kinds += kind_name(piece.kind, piece.stored);
    if (is_few_bits(piece.kind)) kinds += fmt::format(" {}", format(piece.grid));
    bytes_ += piece.bytes();
    pieces_.push_back(std::move(piece));
  }
  const double density = values / static_cast<double>(rows_) / static_cast<double>(cols_);
  description_ = fmt::format("{}x{} {} {} {:.2f}", rows_, cols_, kinds, name_of(dtype_),
                             std::round(density * 20.0) / 20.0);
}

void linear_at_rest(Products& products, DeviceView x, DeviceView weight, const void* bias, DeviceView y,
                    bool accumulate, cudaStream_t stream) {
  if (!multiply_few(weight.data, weight.stride, compact_args(x, weight.rows, bias, y, accumulate), stream))
    products.linear(x, weight, bias, y, accumulate);
}

bool DevicePacked::is_dense() const {
  return std::all_of(pieces_.begin(), pieces_.end(),
                     [](const PackedPiece& piece) { return piece.kind == Kind::kDense; });
}

bool DevicePacked::has_grids() const {
  return std::any_of(pieces_.begin(), pieces_.end(),
                     [](const PackedPiece& piece) { return is_few_bits(piece.kind); });
}

void DevicePacked::linear(Products& products, DeviceView x, const void* bias, DeviceView y, bool accumulate,
                          Scratch scratch, cudaStream_t stream) const {
  expect(x.dtype == dtype_ && x.cols == cols_ && y.cols == rows_ && y.rows == x.rows, "linear: shapes agree");
  expect(!accumulate || y.dtype == DType::kF32, "linear: sums in F32");
  if (x.rows <= kMaxDecodeTokens || is_dense()) {
    multiply_packed(products, x, bias, y, accumulate, stream);
    return;
  }
  if (has_grids() && x.rows <= kGridTokens) {
    const bool two_four = std::all_of(pieces_.begin(), pieces_.end(), [](const PackedPiece& piece) {
      return piece.kind == Kind::kTwoFourGrid;
    });
    const std::int64_t most = two_four ? kMostTwoFourBatch : kMaxDecodeTokens;
    for (std::int64_t row = 0; row < x.rows; row += most) {
      const std::int64_t count = std::min(most, x.rows - row);
      multiply_packed(products, x.row_block(row, count), bias, y.row_block(row, count), accumulate, stream);
    }
    return;
  }
  if (pieces_.size() == 1 && dense_.data() == nullptr && multiply_batch(x, bias, y, accumulate, stream))
    return;
  if (structured_ && bias == nullptr && x.rows >= kStructuredTokens &&
      multiply_structured(products, x, y, accumulate, scratch, stream)) {
    return;
  }
  void* dense = dense_.data();
  if (dense == nullptr) {
    expect(scratch.bytes >= static_cast<std::uint64_t>(2 * rows_ * cols_), "linear: room to expand");
    dense = scratch.data;
    expand(dense, stream);
  }
  products.linear(x, view_of(dense, dtype_, rows_, cols_), bias, y, accumulate);
}

// False, with nothing done, when there is no kernel for so many tokens.
bool DevicePacked::multiply_batch(DeviceView x, const void* bias, DeviceView y, bool accumulate,
                                  cudaStream_t stream) const {
  const PackedPiece& piece = pieces_.front();
  const CompactArgs args = compact_args(x, piece.rows, bias, y, accumulate);
  if (piece.kind == Kind::kBitmap) return batch_bitmap(piece.bitmap(), args, stream);
  return piece.kind == Kind::kTwoFour && batch_two_four(piece.two_four(), args, stream);
}

// False, with nothing done, when the library does not take these operands.
bool DevicePacked::multiply_structured(Products& products, DeviceView x, DeviceView y, bool accumulate,
                                       Scratch scratch, cudaStream_t stream) const {
  if (x.stride != x.cols || y.stride != y.cols) return false;
  const std::int64_t whole = x.rows / 8 * 8;
  const auto multiply = [&](DeviceView from, DeviceView to) {
    return structured_->library->linear(structured_->weight, from, to, structured_->algorithm);
  };
  if (y.dtype == dtype_) {
    if (!multiply(x.row_block(0, whole), y.row_block(0, whole))) return false;
  } else {  // the library writes 16 bits only
    const std::int64_t most = static_cast<std::int64_t>(scratch.bytes) / 2 / rows_ / 8 * 8;
    if (most == 0) return false;
    for (std::int64_t row = 0; row < whole; row += most) {
      const std::int64_t count = std::min(most, whole - row);
      const DeviceView part = view_of(scratch.data, dtype_, count, rows_);
      if (!multiply(x.row_block(row, count), part)) {
        expect(row == 0, "cuSPARSELt: the shape that it took");
        return false;
      }
      void* target = y.row(row);
      if (accumulate) {
        add(part.data, dtype_, static_cast<float*>(target), part.numel(), stream);
      } else {
        convert(part.data, dtype_, target, y.dtype, part.numel(), stream);
      }
    }
  }
  if (whole < x.rows) {
    multiply_packed(products, x.row_block(whole, x.rows - whole), nullptr, y.row_block(whole, x.rows - whole),
                    accumulate, stream);
  }
  return true;
}

void DevicePacked::multiply_packed(Products& products, DeviceView x, const void* bias, DeviceView y,
                                   bool accumulate, cudaStream_t stream) const {
  const auto bias_at = [&](std::int64_t row) {
    return bias == nullptr ? nullptr : static_cast<const std::byte*>(bias) + row * size_of(y.dtype);
  };
  for (const PackedPiece& piece : pieces_) {
    const DeviceView target = y.col_block(piece.first_row, piece.rows);
    const void* piece_bias = bias_at(piece.first_row);
    if (piece.kind == Kind::kDense) {
      linear_at_rest(products, x, view_of(piece.values.data(), dtype_, piece.rows, cols_), piece_bias, target,
                     accumulate, stream);
      continue;
    }
    const CompactArgs args = compact_args(x, piece.rows, piece_bias, target, accumulate);
    switch (piece.kind) {
      case Kind::kBitmap:
        multiply_bitmap(piece.bitmap(), args, stream);
        break;
      case Kind::kEntries:
        multiply_entries(piece.entries.weight(), args, stream);
        break;
      case Kind::kTwoFour:
        if (x.rows <= kTwoFourAlone || !batch_two_four(piece.two_four(), args, stream))
          multiply_two_four(piece.two_four(), args, stream);
        break;
      case Kind::kGrid:
        multiply_grid(piece.grid_weight(cols_), args, stream);
        break;
      case Kind::kTwoFourGrid:
        if (x.rows <= kTwoFourGridAlone || !batch_two_four_grid(piece.two_four_grid(cols_), args, stream))
          multiply_two_four_grid(piece.two_four_grid(cols_), args, stream);
        break;
      case Kind::kDense:
        break;
    }
  }
}

void DevicePacked::keep_dense(DeviceMemory& memory, cudaStream_t stream) {
  dense_ = DeviceBuffer(memory, static_cast<std::uint64_t>(2 * rows_ * cols_), "dense weights");
  expand(dense_.data(), stream);
}

void DevicePacked::become_dense(DeviceMemory& memory, cudaStream_t stream) {
  keep_dense(memory, stream);
  check(cudaStreamSynchronize(stream));  // the packed bytes go
  structured_.reset();
  PackedPiece piece;
  piece.rows = rows_;
  piece.values = std::move(dense_);
  bytes_ = piece.values.bytes();
  pieces_.clear();
  pieces_.push_back(std::move(piece));
}

bool DevicePacked::can_be_entries() const {
  return cols_ <= kMostEntryCols && std::all_of(pieces_.begin(), pieces_.end(), [](const PackedPiece& piece) {
           return piece.kind == Kind::kBitmap && piece.stored == Stored::kHalf;
         });
}

DevicePacked DevicePacked::as_entries(DeviceMemory& memory, cudaStream_t stream) const {
  expect(can_be_entries(), "as_entries: bitmaps of 16 bits");
  const DeviceMatrix dense(memory, dtype_, rows_, cols_, "dense weights");
  expand(dense.view().data, stream);
  PackedPiece piece;
  piece.kind = Kind::kEntries;
  piece.rows = rows_;
  piece.entries = EntryBuffers(memory, dense.view().data, rows_, cols_, stream);
  DevicePacked weight;
  weight.description_ = description_;
  weight.rows_ = rows_;
  weight.cols_ = cols_;
  weight.dtype_ = dtype_;
  weight.bytes_ = piece.entries.bytes();
  weight.pieces_.push_back(std::move(piece));
  return weight;
}

bool DevicePacked::can_be_structured() const {
  return dtype_ == DType::kBF16 && rows_ % 16 == 0 && cols_ % 16 == 0 &&
         StructuredProducts::why_not().empty() &&
         std::all_of(pieces_.begin(), pieces_.end(),
                     [](const PackedPiece& piece) { return piece.kind == Kind::kTwoFour; });
}

void DevicePacked::keep_structured(DeviceMemory& memory, StructuredProducts& library,
                                   const StructuredProducts::Algorithm& algorithm, cudaStream_t stream) {
  expect(can_be_structured(), "keep_structured: a weight that the library takes");
  const DeviceMatrix dense(memory, dtype_, rows_, cols_, "dense weights");
  expand(dense.view().data, stream);
  structured_ = Structured{&library, algorithm, library.compress(dense.view())};
}

void DevicePacked::expand(void* dense, cudaStream_t stream) const {
  for (const PackedPiece& piece : pieces_) {
    std::byte* target = static_cast<std::byte*>(dense) + 2 * piece.first_row * cols_;
    switch (piece.kind) {
      case Kind::kDense:
        check(cudaMemcpyAsync(target, piece.values.data(), static_cast<std::size_t>(2 * piece.rows * cols_),
                              cudaMemcpyDeviceToDevice, stream));
        break;
      case Kind::kBitmap:
        expand_bitmap(piece.bitmap(), dtype_, piece.rows, cols_, target, stream);
        break;
      case Kind::kEntries:
        expand_entries(piece.entries.weight(), cols_, target, stream);
        break;
      case Kind::kTwoFour:
        expand_two_four(piece.two_four(), piece.rows, cols_, target, stream);
        break;
      case Kind::kGrid:
        expand_grid(piece.grid_weight(cols_), dtype_, piece.rows, cols_, target, stream);
        break;
      case Kind::kTwoFourGrid:
        expand_two_four_grid(piece.two_four_grid(cols_), dtype_, piece.rows, cols_, target, stream);
        break;
    }
  }
}

}  // namespace swiftprune::cuda
