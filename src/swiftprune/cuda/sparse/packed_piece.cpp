#include "swiftprune/cuda/sparse/packed_piece.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <numeric>
#include <vector>

#include "swiftprune/core/parallel.h"
#include "swiftprune/cuda/sparse/packed_order.h"
#include "swiftprune/sparse/pack.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune::cuda {
namespace {

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

// body(part, its first panel of the piece's). Threads take a part each where there are many, else panels of one.
template <class Body>
void for_each_part(std::span<const PackedTensor> parts, const Body& body) {
  constexpr std::size_t kMany = 64;
  std::vector<std::int64_t> first_panels{0};
  for (const PackedTensor& part : parts)
    first_panels.push_back(first_panels.back() + part.shape().num_panels());
  const auto some = [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      body(parts[i], first_panels[i]);
  };
  if (parts.size() >= kMany) {
    parallel_for(std::ssize(parts), 1, some);
  } else {
    some(0, std::ssize(parts));
  }
}

std::int64_t num_panels(std::span<const PackedTensor> parts) {
  std::int64_t panels = 0;
  for (const PackedTensor& part : parts) panels += part.shape().num_panels();
  return panels;
}

bool is_two_four(const PackedTensor& part) {
  return part.kind() == PackedKind::kNm16 && part.shape().group_n == 2 && part.shape().group_m == 4;
}

}  // namespace

PackedPiece::Kind kind_of(const PackedTensor& part) {
  const bool bitmap = part.kind() == PackedKind::kBitmap16 || part.kind() == PackedKind::kBitmapInt8 ||
                      part.kind() == PackedKind::kBitmapFp8;
  if (bitmap) return PackedPiece::Kind::kBitmap;
  if (is_grid(part.kind()) && part.shape().grid.bits <= 4)
    return keeps_two_of_four(part) ? PackedPiece::Kind::kTwoFourGrid : PackedPiece::Kind::kGrid;
  return is_two_four(part) ? PackedPiece::Kind::kTwoFour : PackedPiece::Kind::kDense;
}

bool is_few_bits(PackedPiece::Kind kind) {
  return kind == PackedPiece::Kind::kGrid || kind == PackedPiece::Kind::kTwoFourGrid;
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

BitmapWeight PackedPiece::bitmap() const {
  return {.chunks = values.as<uint4>(),
          .starts = starts.as<std::uint32_t>(),
          .most = most,
          .stored = stored,
          .scales = scales.as<float>()};
}
TwoFourWeight PackedPiece::two_four() const {
  return {.values = values.as<uint4>(), .indices = indices.as<std::uint32_t>()};
}

GridWeight PackedPiece::grid_weight(std::int64_t cols) const {
  return {
      .codes = values.as<uint4>(),
      .scales = scales.as<__half>(),
      .zeros = zeros.as<std::uint8_t>(),
      .middle = static_cast<std::uint32_t>(grid.middle()),
      .shift = grid.group == 0 ? GridWeight::kWholeRow : std::countr_zero(static_cast<unsigned>(grid.group)),
      .groups = static_cast<int>(grid.groups_of(cols)),
      .bits = grid.bits == 8 ? 8 : 4};
}

TwoFourGridWeight PackedPiece::two_four_grid(std::int64_t cols) const {
  return {.grid = grid_weight(cols), .indices = indices.as<uint2>()};
}

std::uint64_t PackedPiece::bytes() const {
  return values.bytes() + starts.bytes() + indices.bytes() + scales.bytes() + zeros.bytes();
}

PackedPiece make_bitmap(DeviceMemory& memory, std::span<const PackedTensor> parts, cudaStream_t stream) {
  constexpr std::int64_t kPanelsAtOnce = 16;
  const std::int64_t cols = parts.front().cols();
  const std::int64_t blocks = ceil_div(cols, kCompactBlock);
  PackedPiece piece;
  piece.kind = PackedPiece::Kind::kBitmap;
  piece.stored = stored_of(parts.front());
  // body(part, its panel, the piece's panel)
  const auto each_panel = [&](const auto& body) {
    for_each_part(parts, [&](const PackedTensor& part, std::int64_t first_panel) {
      parallel_for(part.shape().num_panels(), kPanelsAtOnce, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t p = begin; p < end; ++p) body(part, p, first_panel + p);
      });
    });
  };
  const std::int64_t panels = num_panels(parts);
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

PackedPiece make_two_four(DeviceMemory& memory, std::span<const PackedTensor> parts, cudaStream_t stream) {
  const std::int64_t cols = parts.front().cols();
  const std::int64_t blocks = ceil_div(cols, kCompactBlock);
  const std::int64_t panels = num_panels(parts);
  const auto num_values = static_cast<std::size_t>(panels * blocks * kPanelValues);
  const auto num_indices = static_cast<std::size_t>(panels * blocks * kLanes);
  const auto values = std::make_unique_for_overwrite<std::uint32_t[]>(num_values);
  const auto indices = std::make_unique_for_overwrite<std::uint32_t[]>(num_indices);
  for_each_part(parts, [&](const PackedTensor& part, std::int64_t first_panel) {
    parallel_for(part.shape().num_panels(), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        const std::int64_t first = (first_panel + p) * blocks;
        order_two_four(part, p, blocks, values.get() + first * kPanelValues, indices.get() + first * kLanes);
      }
    });
  });
  PackedPiece piece;
  piece.kind = PackedPiece::Kind::kTwoFour;
  piece.values = to_device<std::uint32_t>(memory, {values.get(), num_values}, stream);
  piece.indices = to_device<std::uint32_t>(memory, {indices.get(), num_indices}, stream);
  return piece;
}

PackedPiece make_grid(DeviceMemory& memory, std::span<const PackedTensor> parts, bool two_four,
                      cudaStream_t stream) {
  constexpr std::int64_t kPanelsAtOnce = 4;
  const std::int64_t cols = parts.front().cols();
  const std::int64_t blocks = ceil_div(cols, kCompactBlock);
  const std::int64_t units = ceil_div(cols, std::int64_t{TwoFourGridWeight::kUnitCols});
  PackedPiece piece;
  piece.kind = two_four ? PackedPiece::Kind::kTwoFourGrid : PackedPiece::Kind::kGrid;
  piece.grid = parts.front().shape().grid;
  const bool bytes = piece.grid.bits == 8;
  const std::int64_t panel_words =
      two_four ? units * kPanelTwoFourCodes : blocks * (bytes ? kPanelByteCodes : kPanelCodes);
  const std::int64_t panel_indices = two_four ? units * kPanelTwoFourIndices : 0;
  const std::int64_t groups = piece.grid.groups_of(cols);
  const std::int64_t panels = num_panels(parts);
  std::vector<std::uint32_t> codes(static_cast<std::size_t>(panels * panel_words));
  std::vector<std::uint32_t> indices(static_cast<std::size_t>(panels * panel_indices));
  std::vector<std::uint16_t> scales(static_cast<std::size_t>(panels * groups * kPanelRows));
  std::vector<std::uint8_t> zeros(piece.grid.asymmetric ? scales.size() : 0);
  for_each_part(parts, [&](const PackedTensor& part, std::int64_t first_panel) {
    const QuantizedWeight weight = unpack_quantized(part);
    parallel_for(part.shape().num_panels(), kPanelsAtOnce, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        const std::int64_t panel = first_panel + p;
        std::uint32_t* const words = codes.data() + panel * panel_words;
        if (two_four) {
          order_two_four_codes(weight, p, units, words, indices.data() + panel * panel_indices);
        } else if (bytes) {
          order_byte_codes(weight, p, blocks, words);
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
  });
  piece.values = to_device<std::uint32_t>(memory, codes, stream);
  if (two_four) piece.indices = to_device<std::uint32_t>(memory, indices, stream);
  piece.scales = to_device<std::uint16_t>(memory, scales, stream);
  if (!zeros.empty()) piece.zeros = to_device<std::uint8_t>(memory, zeros, stream);
  return piece;
}

PackedPiece make_dense(DeviceMemory& memory, std::span<const PackedTensor> parts, DType dtype,
                       cudaStream_t stream) {
  std::vector<std::uint16_t> values;
  for (const PackedTensor& part : parts) {
    const std::vector<std::uint16_t> bits = is_grid(part.kind()) ? rounded_grid(part, dtype) : unpack(part);
    values.insert(values.end(), bits.begin(), bits.end());
  }
  PackedPiece piece;
  piece.values = to_device<std::uint16_t>(memory, values, stream);
  return piece;
}

}  // namespace swiftprune::cuda
