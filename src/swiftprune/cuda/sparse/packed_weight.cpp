#include "swiftprune/cuda/sparse/packed_weight.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>

#include "swiftprune/core/parallel.h"
#include "swiftprune/cuda/kernels.h"
#include "swiftprune/cuda/sparse/packed_order.h"
#include "swiftprune/sparse/pack.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune::cuda {
namespace {

constexpr std::int64_t kStructuredTokens = 256;  // fewer are no gain for cuSPARSELt
constexpr std::int64_t kTwoFourAlone = 4;        // more gain by sharing their inputs among panels
constexpr std::int64_t kTwoFourGridAlone = 4;    // the same with codes
// More tokens repay the expansion of a grid; up to here they are multiplied kMaxDecodeTokens at a time.
constexpr std::int64_t kGridTokens = 96;

bool is_two_four(const PackedTensor& part) {
  return part.kind() == PackedKind::kNm16 && part.shape().group_n == 2 && part.shape().group_m == 4;
}

DevicePacked::Kind kind_of(const PackedTensor& part) {
  const bool bitmap = part.kind() == PackedKind::kBitmap16 || part.kind() == PackedKind::kBitmapInt8 ||
                      part.kind() == PackedKind::kBitmapFp8;
  if (bitmap) return DevicePacked::Kind::kBitmap;
  if (is_grid(part.kind()) && part.shape().grid.bits <= 4)
    return keeps_two_of_four(part) ? DevicePacked::Kind::kTwoFourGrid : DevicePacked::Kind::kGrid;
  return is_two_four(part) ? DevicePacked::Kind::kTwoFour : DevicePacked::Kind::kDense;
}

bool is_few_bits(DevicePacked::Kind kind) {
  return kind == DevicePacked::Kind::kGrid || kind == DevicePacked::Kind::kTwoFourGrid;
}

std::string_view kind_name(DevicePacked::Kind kind, Stored stored) {
  switch (kind) {
    case DevicePacked::Kind::kBitmap:
      return name_of(stored == Stored::kHalf   ? PackedKind::kBitmap16
                     : stored == Stored::kInt8 ? PackedKind::kBitmapInt8
                                               : PackedKind::kBitmapFp8);
    case DevicePacked::Kind::kTwoFour:
      return "2:4";
    case DevicePacked::Kind::kGrid:
      return name_of(PackedKind::kDenseGrid);
    case DevicePacked::Kind::kTwoFourGrid:
      return name_of(PackedKind::kNmGrid);
    case DevicePacked::Kind::kEntries:  // what a bitmap becomes
    case DevicePacked::Kind::kDense:
      break;
  }
  return "dense16";
}

// The part as the device takes it.
PackedTensor device_form(const PackedTensor& part) {
  if (kind_of(part) != DevicePacked::Kind::kDense || part.kind() == PackedKind::kDense16 ||
      is_grid(part.kind())) {
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

CompactArgs compact_args(DeviceView x, std::int64_t rows, const void* bias, DeviceView y, bool accumulate) {
  CompactArgs args;
  args.dtype = x.dtype;
  args.rows = rows;
  args.cols = x.cols;
  args.x = x.data;
  args.x_stride = x.stride;
  args.tokens = x.rows;
  args.y = y.data;
  args.y_dtype = y.dtype;
  args.y_stride = y.stride;
  args.accumulate = accumulate;
  args.bias = bias;
  return args;
}

template <class T>
DeviceBuffer to_device(DeviceMemory& memory, std::span<const T> values, cudaStream_t stream) {
  DeviceBuffer buffer = upload(memory, values, "packed weights", stream);
  check(cudaStreamSynchronize(stream));  // `values` may go
  return buffer;
}

std::vector<std::uint16_t> rounded_grid(const PackedTensor& part, DType dtype) {
  const Matrix values = unpack_f32(part);
  std::vector<std::uint16_t> bits(values.values().size());
  convert_from_f32(values.values(), dtype, std::as_writable_bytes(std::span(bits)));
  return bits;
}

}  // namespace

BitmapWeight DevicePacked::Piece::bitmap() const {
  return {.chunks = values.as<uint4>(),
          .starts = starts.as<std::uint32_t>(),
          .most = most,
          .stored = stored,
          .scales = scales.as<float>()};
}
TwoFourWeight DevicePacked::Piece::two_four() const {
  return {.values = values.as<uint4>(), .indices = indices.as<std::uint32_t>()};
}

GridWeight DevicePacked::Piece::grid_weight(std::int64_t cols) const {
  return {
      .codes = values.as<uint4>(),
      .scales = scales.as<__half>(),
      .zeros = zeros.as<std::uint8_t>(),
      .middle = static_cast<std::uint32_t>(grid.middle()),
      .shift = grid.group == 0 ? GridWeight::kWholeRow : std::countr_zero(static_cast<unsigned>(grid.group)),
      .groups = static_cast<int>(grid.groups_of(cols))};
}

TwoFourGridWeight DevicePacked::Piece::two_four_grid(std::int64_t cols) const {
  return {.grid = grid_weight(cols), .indices = indices.as<uint2>()};
}

DevicePacked::Piece DevicePacked::make_bitmap(DeviceMemory& memory, std::span<const PackedTensor> parts,
                                              cudaStream_t stream) const {
  constexpr std::int64_t kPanelsAtOnce = 16;
  const std::int64_t blocks = ceil_div(cols_, kCompactBlock);
  Piece piece;
  piece.kind = Kind::kBitmap;
  piece.stored = stored_of(parts.front());
  // body(part, its panel, the piece's panel)
  const auto each_panel = [&](const auto& body) {
    std::int64_t first_panel = 0;
    for (const PackedTensor& part : parts) {
      parallel_for(part.shape().num_panels(), kPanelsAtOnce, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t p = begin; p < end; ++p) body(part, p, first_panel + p);
      });
      first_panel += part.shape().num_panels();
    }
  };
  std::int64_t panels = 0;
  for (const PackedTensor& part : parts) panels += part.shape().num_panels();
  std::vector<std::uint32_t> starts(static_cast<std::size_t>(panels * blocks + 1));  // sizes, then their sums
  each_panel([&](const PackedTensor& part, std::int64_t p, std::int64_t panel) {
    for (std::int64_t b = 0; b < blocks; ++b) {
      starts[static_cast<std::size_t>(panel * blocks + b + 1)] =
          static_cast<std::uint32_t>(chunk_bytes(part, p, b) / kChunkUnit);
    }
  });
  piece.most = *std::max_element(starts.begin(), starts.end());
  std::partial_sum(starts.begin(), starts.end(), starts.begin());  // 2^32 units are 64 GB
  const std::size_t bytes = std::size_t{starts.back()} * kChunkUnit;
  const auto chunks = std::make_unique_for_overwrite<std::byte[]>(bytes);
  each_panel([&](const PackedTensor& part, std::int64_t p, std::int64_t panel) {
    fill_chunks(part, p, starts.data() + panel * blocks, blocks, chunks.get());
  });
  if (piece.stored != Stored::kHalf) {
    std::vector<float> scales;
    for (const PackedTensor& part : parts)
      scales.insert(scales.end(), part.scales(), part.scales() + part.shape().num_panels() * kPanelRows);
    piece.scales = to_device<float>(memory, scales, stream);
  }
  piece.values = to_device<std::byte>(memory, {chunks.get(), bytes}, stream);
  piece.starts = to_device<std::uint32_t>(memory, starts, stream);
  return piece;
}

DevicePacked::Piece DevicePacked::make_two_four(DeviceMemory& memory, std::span<const PackedTensor> parts,
                                                cudaStream_t stream) const {
  const std::int64_t blocks = ceil_div(cols_, kCompactBlock);
  std::int64_t panels = 0;
  for (const PackedTensor& part : parts) panels += part.shape().num_panels();
  const auto num_values = static_cast<std::size_t>(panels * blocks * kPanelValues);
  const auto num_indices = static_cast<std::size_t>(panels * blocks * kLanes);
  const auto values = std::make_unique_for_overwrite<std::uint32_t[]>(num_values);
  const auto indices = std::make_unique_for_overwrite<std::uint32_t[]>(num_indices);
  std::int64_t first_panel = 0;
  for (const PackedTensor& part : parts) {
    parallel_for(part.shape().num_panels(), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        const std::int64_t first = (first_panel + p) * blocks;
        order_two_four(part, p, blocks, values.get() + first * kPanelValues, indices.get() + first * kLanes);
      }
    });
    first_panel += part.shape().num_panels();
  }
  Piece piece;
  piece.kind = Kind::kTwoFour;
  piece.values = to_device<std::uint32_t>(memory, {values.get(), num_values}, stream);
  piece.indices = to_device<std::uint32_t>(memory, {indices.get(), num_indices}, stream);
  return piece;
}

DevicePacked::Piece DevicePacked::make_grid(DeviceMemory& memory, std::span<const PackedTensor> parts,
                                            cudaStream_t stream) const {
  constexpr std::int64_t kPanelsAtOnce = 4;
  const std::int64_t blocks = ceil_div(cols_, kCompactBlock);
  const std::int64_t units = ceil_div(cols_, std::int64_t{TwoFourGridWeight::kUnitCols});
  Piece piece;
  piece.kind = kind_of(parts.front());
  const bool two_four = piece.kind == Kind::kTwoFourGrid;
  const std::int64_t panel_words = two_four ? units * kPanelTwoFourCodes : blocks * kPanelCodes;
  const std::int64_t panel_indices = two_four ? units * kPanelTwoFourIndices : 0;
  piece.grid = parts.front().shape().grid;
  const std::int64_t groups = piece.grid.groups_of(cols_);
  std::int64_t panels = 0;
  for (const PackedTensor& part : parts) panels += part.shape().num_panels();
  std::vector<std::uint32_t> codes(static_cast<std::size_t>(panels * panel_words));
  std::vector<std::uint32_t> indices(static_cast<std::size_t>(panels * panel_indices));
  std::vector<std::uint16_t> scales(static_cast<std::size_t>(panels * groups * kPanelRows));
  std::vector<std::uint8_t> zeros(piece.grid.asymmetric ? scales.size() : 0);
  std::int64_t first_panel = 0;
  for (const PackedTensor& part : parts) {
    const QuantizedWeight weight = unpack_quantized(part);
    parallel_for(part.shape().num_panels(), kPanelsAtOnce, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        const std::int64_t panel = first_panel + p;
        std::uint32_t* const words = codes.data() + panel * panel_words;
        if (two_four) {
          order_two_four_codes(weight, p, units, words, indices.data() + panel * panel_indices);
        } else {
          order_codes(weight, p, blocks, words);
        }
        for (std::int64_t g = 0; g < groups; ++g) {
          for (std::int64_t row = 0; row < std::min(kPanelRows, weight.rows - p * kPanelRows); ++row) {
            const auto from = static_cast<std::size_t>((p * kPanelRows + row) * groups + g);
            const auto to = static_cast<std::size_t>((panel * groups + g) * kPanelRows + row);
            scales[to] = weight.scales[from];
            if (piece.grid.asymmetric) zeros[to] = weight.zeros[from];
          }
        }
      }
    });
    first_panel += part.shape().num_panels();
  }
  piece.values = to_device<std::uint32_t>(memory, codes, stream);
  if (two_four) piece.indices = to_device<std::uint32_t>(memory, indices, stream);
  piece.scales = to_device<std::uint16_t>(memory, scales, stream);
  if (!zeros.empty()) piece.zeros = to_device<std::uint8_t>(memory, zeros, stream);
  return piece;
}

DevicePacked::Piece DevicePacked::make_dense(DeviceMemory& memory, std::span<const PackedTensor> parts,
                                             cudaStream_t stream) const {
  std::vector<std::uint16_t> values;
  for (const PackedTensor& part : parts) {
    const std::vector<std::uint16_t> bits = is_grid(part.kind()) ? rounded_grid(part, dtype_) : unpack(part);
    values.insert(values.end(), bits.begin(), bits.end());
  }
  Piece piece;
  piece.values = to_device<std::uint16_t>(memory, values, stream);
  return piece;
}

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
    Piece piece = kind_of(forms[first]) == Kind::kBitmap    ? make_bitmap(memory, group, stream)
                  : kind_of(forms[first]) == Kind::kTwoFour ? make_two_four(memory, group, stream)
                  : is_few_bits(kind_of(forms[first]))      ? make_grid(memory, group, stream)
                                                            : make_dense(memory, group, stream);
    piece.first_row = rows_;
    piece.rows = rows;
    rows_ += rows;
    kinds += kinds.empty() ? "" : "+";
    kinds += kind_name(piece.kind, piece.stored);
    if (is_few_bits(piece.kind)) kinds += fmt::format(" {}", format(piece.grid));
    bytes_ += piece.values.bytes() + piece.indices.bytes() + piece.starts.bytes() + piece.scales.bytes() +
              piece.zeros.bytes();
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
                     [](const Piece& piece) { return piece.kind == Kind::kDense; });
}

bool DevicePacked::has_grids() const {
  return std::any_of(pieces_.begin(), pieces_.end(),
                     [](const Piece& piece) { return is_few_bits(piece.kind); });
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
    const bool two_four = std::all_of(pieces_.begin(), pieces_.end(),
                                      [](const Piece& piece) { return piece.kind == Kind::kTwoFourGrid; });
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
  const Piece& piece = pieces_.front();
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
  for (const Piece& piece : pieces_) {
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
  Piece piece;
  piece.rows = rows_;
  piece.values = std::move(dense_);
  bytes_ = piece.values.bytes();
  pieces_.clear();
  pieces_.push_back(std::move(piece));
}

bool DevicePacked::can_be_entries() const {
  return cols_ <= kMostEntryCols && std::all_of(pieces_.begin(), pieces_.end(), [](const Piece& piece) {
           return piece.kind == Kind::kBitmap && piece.stored == Stored::kHalf;
         });
}

DevicePacked DevicePacked::as_entries(DeviceMemory& memory, cudaStream_t stream) const {
  expect(can_be_entries(), "as_entries: bitmaps of 16 bits");
  const DeviceMatrix dense(memory, dtype_, rows_, cols_, "dense weights");
  expand(dense.view().data, stream);
  Piece piece;
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
                     [](const Piece& piece) { return piece.kind == Kind::kTwoFour; });
}

void DevicePacked::keep_structured(DeviceMemory& memory, StructuredProducts& library,
                                   const StructuredProducts::Algorithm& algorithm, cudaStream_t stream) {
  expect(can_be_structured(), "keep_structured: a weight that the library takes");
  const DeviceMatrix dense(memory, dtype_, rows_, cols_, "dense weights");
  expand(dense.view().data, stream);
  structured_ = Structured{&library, algorithm, library.compress(dense.view())};
}

void DevicePacked::expand(void* dense, cudaStream_t stream) const {
  for (const Piece& piece : pieces_) {
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
