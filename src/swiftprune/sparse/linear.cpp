#include "swiftprune/sparse/linear.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/sparse/grid_codes.h"
#include "swiftprune/sparse/kernels.h"

namespace swiftprune {
namespace {

using namespace sparse_kernels;

constexpr std::int64_t kBytesPerTask = 128 * 1024;  // of weights: long beside the cost of handing it out
constexpr std::int64_t kMaxPanelsPerTask = 32;
constexpr int kMaxDecodeTokens = 8;           // of one call, in any table
constexpr std::int64_t kTilePairs = 128;      // columns of a tile / 2: three float panels fill 48 KB
constexpr int kTasksPerThread = 4;            // of a product with tiles: the threads end together
constexpr std::int64_t kTokensPerPass = 512;  // of a product with tiles: bounds the copy of x

const Table& table() {
  static const Table& chosen = []() -> const Table& {
    const auto checked = [](const Table& table) -> const Table& {
      expect(std::max({table.decode_tokens, table.decode_int8_tokens, table.decode_grid_tokens}) <=
                 kMaxDecodeTokens,
             "the sums of a decode call fit");
      return table;
    };
    const CpuFeatures& cpu = cpu_features();
    if (cpu.avx512_bf16 && avx512_bf16_table() != nullptr) return checked(*avx512_bf16_table());
    if (cpu.avx512 && avx512_table() != nullptr) return checked(*avx512_table());
    if (cpu.avx2 && avx2_table() != nullptr) return checked(*avx2_table());
    if (cpu.neon_dot && neon_dot_table() != nullptr) return checked(*neon_dot_table());
    if (cpu.neon && neon_table() != nullptr) return checked(*neon_table());
    return checked(kBaselineTable);
  }();
  return chosen;
}

// Index into the table's functions, of the kind and of a grid's bits.
int kernel_kind(PackedKind kind) {
  switch (kind) {
    case PackedKind::kBitmap16:
    case PackedKind::kBitmapInt8:
    case PackedKind::kBitmapFp8:
    case PackedKind::kBitmapGrid:
      return kBitmap;
    case PackedKind::kNm16:
    case PackedKind::kNmGrid:
      return kNm;
    case PackedKind::kBlock16:
      return kBlock;
    case PackedKind::kDense16:
    case PackedKind::kDenseInt8:
    case PackedKind::kDenseFp8:
    case PackedKind::kDenseGrid:
      break;
  }
  return kDense;
}

std::size_t kernel_bits(const PackedTensor& w) {
  return static_cast<std::size_t>(std::ranges::find(kQuantBits, w.shape().grid.bits) -
                                  std::begin(kQuantBits));
}

// Grows and keeps its memory: a forward must not wait for the allocator.
class Scratch {
 public:
  template <class T>
  T* get(std::int64_t count) {
    const auto bytes = static_cast<std::size_t>(count) * sizeof(T);
    if (bytes > size_) {
      memory_.reset(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64})));
      size_ = bytes;
    }
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<std::byte[], Free> memory_;
  std::size_t size_ = 0;
};

std::int64_t panels_per_task(const PackedTensor& w) {
  const std::int64_t bytes_per_panel = std::ssize(w.bytes()) / w.shape().num_panels() + 1;
  return std::clamp(round_up(kBytesPerTask / bytes_per_panel, 4), std::int64_t{4}, kMaxPanelsPerTask);
}

// Kernels read whole column pairs (8 bits: quads): x with a ragged end is copied once with zeros after it.
ConstMatrixView whole_steps(ConstMatrixView x, std::int64_t cols, Matrix& copy) {
  if (cols == x.cols) return x;
  copy = Matrix::zeros(x.rows, cols);
  for (std::int64_t t = 0; t < x.rows; ++t) std::copy_n(x.row(t), x.cols, copy.row(t));
  return copy.view();
}

struct Product {
  const PackedTensor& weight;
  ConstMatrixView x;  // its columns are whole steps
  std::span<const float> bias;
  MatrixView y;
  Weights view;

  float bias_of(std::int64_t row) const { return bias.empty() ? 0.0f : bias[static_cast<std::size_t>(row)]; }
};

// -- Copies of x in the kernels' order --

// Round to nearest even, as f32_to_bf16, in a form that compilers vectorize.
std::uint16_t bf16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

// One block of `tokens` tokens: [I / width, tokens, width]; tokens past the last of x are zero.
template <class T>
void pack_block(ConstMatrixView x, std::int64_t tokens, std::int64_t width, T* out) {
  const auto bytes = static_cast<std::size_t>(width) * sizeof(T);
  std::vector<T> row(static_cast<std::size_t>(x.cols), T{});
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (t < x.rows) {
      if constexpr (std::is_same_v<T, float>) {
        std::copy_n(x.row(t), x.cols, row.begin());
      } else {
        std::transform(x.row(t), x.row(t) + x.cols, row.begin(), bf16_bits);
      }
    } else if (t == x.rows) {
      std::fill(row.begin(), row.end(), T{});
    }
    T* to = out + t * width;
    for (std::int64_t c = 0; c < x.cols; c += width, to += tokens * width)
      std::memcpy(to, row.data() + c, bytes);
  }
}

// x [N, I] as blocks of `tokens`.
template <class T>
void pack_blocks(ConstMatrixView x, std::int64_t tokens, std::int64_t width, T* out) {
  parallel_for(ceil_div(x.rows, tokens), 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t b = first; b < last; ++b) {
      const std::int64_t count = std::min(tokens, x.rows - b * tokens);
      pack_block(x.row_block(b * tokens, count), tokens, width, out + b * tokens * x.cols);
    }
  });
}

// -- A few tokens --

struct DecodePlan {
  DecodeFn kernel = nullptr;
  std::int64_t block = 0;  // tokens of a call
  std::int64_t width = 2;  // of the copy of x
  bool bf16 = false;
};

// No kernel when products with tiles are better.
DecodePlan plan_decode(const PackedTensor& w, std::int64_t tokens, ComputeType compute) {
  const Table& kernels = table();
  if (tokens > 2 * kernels.decode_tokens) return {};
  const int kind = kernel_kind(w.kind());
  const bool f16 = w.shape().dtype == DType::kF16;
  DecodePlan plan;
  plan.block = std::min<std::int64_t>(
      static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(tokens))), kernels.decode_tokens);
  plan.bf16 =
      compute == ComputeType::kBF16 && !f16 && plan.block == 8 && kernels.decode_bf16[kind] != nullptr;
  plan.kernel = plan.bf16 ? kernels.decode_bf16[kind] : kernels.decode[kind][f16 ? 1 : 0];
  if (w.kind() == PackedKind::kNm16) plan.width = w.shape().group_m;
  return plan;
}

void decode(const Product& product, const DecodePlan& plan) {
  const ConstMatrixView& x = product.x;
  const std::int64_t block_bytes = plan.block * x.cols * (plan.bf16 ? 2 : 4);
  const auto* blocks = reinterpret_cast<const std::byte*>(x.data);
  if (plan.block > 1) {
    thread_local Scratch scratch;
    auto* copy = scratch.get<std::byte>(ceil_div(x.rows, plan.block) * block_bytes);
    if (plan.bf16) {
      pack_blocks(x, plan.block, plan.width, reinterpret_cast<std::uint16_t*>(copy));
    } else {
      pack_blocks(x, plan.block, plan.width, reinterpret_cast<float*>(copy));
    }
    blocks = copy;
  }
  const std::int64_t panels = product.weight.shape().num_panels();
  parallel_for(panels, panels_per_task(product.weight), [&](std::int64_t first, std::int64_t last) {
    alignas(64) std::array<float, kMaxDecodeTokens * kMaxPanelsPerTask * kRows> sums;
    const std::int64_t stride = (last - first) * kRows;
    const std::int64_t rows = std::min(stride, product.weight.rows() - first * kRows);
    for (std::int64_t t0 = 0; t0 < x.rows; t0 += plan.block) {
      plan.kernel({.weights = &product.view,
                   .first_panel = first,
                   .last_panel = last,
                   .tokens = static_cast<int>(plan.block),
                   .x = blocks + t0 / plan.block * block_bytes,
                   .y = sums.data(),
                   .y_stride = stride});
      for (std::int64_t t = t0; t < std::min(x.rows, t0 + plan.block); ++t) {
        float* y = product.y.row(t) + first * kRows;
        const float* sum = sums.data() + (t - t0) * stride;
        for (std::int64_t r = 0; r < rows; ++r) y[r] = sum[r] + product.bias_of(first * kRows + r);
      }
    }
  });
}

void decode_int8(const Product& product, const Table& kernels, DecodeInt8Fn kernel) {
  const std::int64_t tokens = product.x.rows;
  const std::int64_t token_bytes = product.view.steps * 8;
  thread_local Scratch scratch;
  auto* quantized = scratch.get<std::byte>(tokens * token_bytes);
  std::array<float, kMostByteTokens> scales;
  for (std::int64_t t = 0; t < tokens; ++t) {
    float largest = 0.0f;
    for (std::int64_t c = 0; c < product.weight.cols(); ++c) {
      largest = std::max(largest, std::abs(product.x.at(t, c)));
    }
    scales[static_cast<std::size_t>(t)] = largest / 32767.0f;
    kernels.quantize(product.x.row(t), product.weight.cols(), largest / 32767.0f,
                     quantized + t * token_bytes);
  }
  parallel_for(product.weight.shape().num_panels(), panels_per_task(product.weight),
               [&](std::int64_t first, std::int64_t last) {
                 std::array<std::int64_t, kMaxDecodeTokens * kMaxPanelsPerTask * kRows> sums;
                 const std::int64_t stride = (last - first) * kRows;
                 const std::int64_t rows = std::min(stride, product.weight.rows() - first * kRows);
                 for (std::int64_t t0 = 0; t0 < tokens; t0 += kernels.decode_int8_tokens) {
                   const auto count = std::min<std::int64_t>(kernels.decode_int8_tokens, tokens - t0);
                   kernel({.weights = &product.view,
                           .first_panel = first,
                           .last_panel = last,
                           .tokens = static_cast<int>(count),
                           .x = quantized + t0 * token_bytes,
                           .y = sums.data(),
                           .y_stride = stride});
                   for (std::int64_t i = 0; i < count * rows; ++i) {
                     const std::int64_t t = t0 + i / rows;
                     const std::int64_t row = first * kRows + i % rows;
                     const double scale = static_cast<double>(product.weight.scales()[row]) *
                                          static_cast<double>(scales[static_cast<std::size_t>(t)]);
                     const double sum =
                         static_cast<double>(sums[static_cast<std::size_t>(i / rows * stride + i % rows)]);
                     product.y.at(t, row) = static_cast<float>(scale * sum) + product.bias_of(row);
                   }
                 }
               });
}

// Of n numbers, n a multiple of 32; in lanes, so that compilers vectorize.
float largest_size(const float* x, std::int64_t n) {
  std::array<float, kChunkCols> lanes{};
  for (std::int64_t first = 0; first < n; first += kChunkCols) {
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      const float size = std::abs(x[first + static_cast<std::int64_t>(i)]);
      lanes[i] = size > lanes[i] ? size : lanes[i];
    }
  }
  return *std::ranges::max_element(lanes);
}

// One token for the kernels of grids: x = scale · (256·high + low), and its sums over each group.
void quantize_for_grid(const float* x, const Weights& w, float scale, std::byte* out) {
  auto* high = reinterpret_cast<std::int8_t*>(out);
  const std::int64_t cols = w.steps * 4;
  std::int8_t* low = high + cols;
  auto* sums = reinterpret_cast<std::int32_t*>(out + 2 * cols);
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  const std::int64_t width = w.group_chunks * kChunkCols;
  for (std::int64_t first = 0; first < cols; first += width) {
    std::uint32_t sum = 0;  // wraps where x is no number
    for (std::int64_t c = first; c < std::min(cols, first + width); ++c) {
      // Adding and taking away 1.5·2^23 rounds to the nearest integer, ties to even, in a vector's lanes.
      const float rounded = x[c] * inverse + 12582912.0f;
      const auto q = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(rounded) -
                                               std::bit_cast<std::uint32_t>(12582912.0f));
      const std::int32_t h = (q >> 8) + ((q >> 7) & 1);  // rounded: low stays a signed byte
      high[c] = static_cast<std::int8_t>(h);
      low[c] = static_cast<std::int8_t>(q & 255);
      sum += static_cast<std::uint32_t>(q);
    }
    *sums++ = static_cast<std::int32_t>(sum);
  }
}

// As the tables of 1, 2, 4, 8 tokens a call; tokens that fill up a call are zero.
void decode_grid(const Product& product, const Table& kernels, DecodeGridFn kernel) {
  const Weights& view = product.view;
  const std::int64_t tokens = product.x.rows;
  const std::int64_t x_stride = round_up(view.steps * 8 + ceil_div(view.chunks, view.group_chunks) * 4, 64);
  const auto block =
      std::min<std::int64_t>(kernels.decode_grid_tokens,
                             static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(tokens))));
  thread_local Scratch scratch;
  auto* quantized = scratch.get<std::byte>(round_up(tokens, block) * x_stride);
  std::array<float, kMostByteTokens> scales;
  for (std::int64_t t = 0; t < tokens; ++t) {
    scales[static_cast<std::size_t>(t)] =
        largest_size(product.x.row(t), product.x.cols) / static_cast<float>(kLargestGridInput);
    quantize_for_grid(product.x.row(t), view, scales[static_cast<std::size_t>(t)], quantized + t * x_stride);
  }
  std::memset(quantized + tokens * x_stride, 0,
              static_cast<std::size_t>((round_up(tokens, block) - tokens) * x_stride));
  parallel_for(product.weight.shape().num_panels(), panels_per_task(product.weight),
               [&](std::int64_t first, std::int64_t last) {
                 alignas(64) std::array<float, kMaxDecodeTokens * kMaxPanelsPerTask * kRows> sums;
                 const std::int64_t stride = (last - first) * kRows;
                 const std::int64_t rows = std::min(stride, product.weight.rows() - first * kRows);
                 for (std::int64_t t0 = 0; t0 < tokens; t0 += block) {
                   kernel({.weights = &view,
                           .first_panel = first,
                           .last_panel = last,
                           .tokens = static_cast<int>(block),
                           .x = quantized + t0 * x_stride,
                           .x_stride = x_stride,
                           .y = sums.data(),
                           .y_stride = stride});
                   for (std::int64_t t = t0; t < std::min(tokens, t0 + block); ++t) {
                     float* y = product.y.row(t) + first * kRows;
                     const float* sum = sums.data() + (t - t0) * stride;
                     const float scale = scales[static_cast<std::size_t>(t)];
                     for (std::int64_t r = 0; r < rows; ++r) {
                       y[r] = sum[r] * scale + product.bias_of(first * kRows + r);
                     }
                   }
                 }
               });
}

// -- Products with tiles --

struct TilePlan {
  const Gemm* gemm = nullptr;
  ExpandFn expand = nullptr;
  bool bf16 = false;
  bool in_place = false;  // the packed weight is a tile already

  std::int64_t bytes_per_pair() const { return bf16 ? 64 : 128; }
};

TilePlan plan_tiles(const PackedTensor& w, ComputeType compute) {
  const Table& kernels = table();
  const int kind = kernel_kind(w.kind());
  const bool int8 = is_int8(w.kind());
  const bool fp8 = is_fp8(w.kind());
  const bool grid = is_grid(w.kind());
  const bool f16 = w.shape().dtype == DType::kF16 && !int8 && !fp8;
  TilePlan plan;
  plan.bf16 = compute == ComputeType::kBF16 && kernels.gemm_bf16.tokens != 0 && !f16 && !fp8;
  if (grid) plan.expand = kernels.expand_bf16_grid[kind][kernel_bits(w)];
  plan.bf16 = plan.bf16 && (!grid || plan.expand != nullptr);
  plan.gemm = plan.bf16 ? &kernels.gemm_bf16 : &kernels.gemm_f32;
  if (grid) {
    if (!plan.bf16) plan.expand = kernels.expand_f32_grid[kind][kernel_bits(w)];
    if (plan.expand == nullptr) plan.expand = kBaselineTable.expand_f32_grid[kind][kernel_bits(w)];
  } else if (fp8) {
    plan.expand = kBaselineTable.expand_f32_fp8[kind];
  } else if (plan.bf16) {
    plan.expand = int8 ? kernels.expand_bf16_int8[kind] : kernels.expand_bf16[kind];
  } else {
    plan.expand = int8 ? kernels.expand_f32_int8[kind] : kernels.expand_f32[kind][f16 ? 1 : 0];
  }
  plan.in_place = plan.bf16 && w.kind() == PackedKind::kDense16;
  return plan;
}

// Of 16-bit weights that are one stream of values a panel, dense or by a bitmap: on average; else 0.
std::int64_t stream_bytes_per_pair(const PackedTensor& w) {
  if (w.kind() == PackedKind::kDense16) return 64;
  if (w.kind() != PackedKind::kBitmap16) return 0;
  return static_cast<std::int64_t>(64.0 * w.density());
}

// Where the stream of a panel goes on behind `pair`; that of a dense panel that has ended with the panel that is expanded in
// its place next.
const void* stream_position(const Product& product, std::int64_t panel, std::int64_t panels,
                            std::int64_t pair, std::int64_t cursor) {
  const auto* values = static_cast<const std::uint16_t*>(product.view.values);
  if (product.weight.kind() == PackedKind::kBitmap16)
    return values + product.view.offsets[panel] + static_cast<std::uint64_t>(cursor);
  const std::int64_t pairs = product.view.steps;
  return values + (pair < pairs ? panel * pairs + pair : (panel + panels) * pairs) * 32;
}

// Panels [first, last), at most gemm->panels, times all tokens of the pass -> c [tokens rounded up,
// panels·16].
void multiply_panels(const Product& product, const TilePlan& plan, std::int64_t first, std::int64_t last,
                     const std::byte* x_blocks, float* c) {
  const std::int64_t pairs = product.x.cols / 2;
  const std::int64_t count = last - first;
  const std::int64_t blocks = ceil_div(product.x.rows, plan.gemm->tokens);
  const std::int64_t x_bytes_per_pair = std::int64_t{plan.gemm->tokens} * (plan.bf16 ? 4 : 8);
  thread_local Scratch scratch;
  auto* tiles = scratch.get<std::byte>(count * kTilePairs * plan.bytes_per_pair());
  std::array<const void*, 8> tile_of{}, ahead{};
  const std::int64_t ahead_bytes = plan.in_place ? 0 : stream_bytes_per_pair(product.weight);
  std::array<std::int64_t, 8> cursor{};
  std::array<GridCursor, 8> grid_cursor{};
  for (std::int64_t k = 0; k < pairs; k += kTilePairs) {
    const std::int64_t k_end = std::min(pairs, k + kTilePairs);
    for (std::int64_t p = 0; p < count; ++p) {
      const auto i = static_cast<std::size_t>(p);
      if (plan.in_place) {
        tile_of[i] = static_cast<const std::byte*>(product.view.values) + ((first + p) * pairs + k) * 64;
        continue;
      }
      std::byte* tile = tiles + p * kTilePairs * plan.bytes_per_pair();
      cursor[i] = plan.expand({&product.view, first + p, k, k_end, cursor[i], &grid_cursor[i], tile});
      tile_of[i] = tile;
      if (ahead_bytes > 0) ahead[i] = stream_position(product, first + p, count, k_end, cursor[i]);
    }
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::int64_t tokens =
          std::min<std::int64_t>(plan.gemm->tokens, product.x.rows - b * plan.gemm->tokens);
      plan.gemm->multiply({.tokens = static_cast<int>(tokens),
                           .tiles = tile_of.data(),
                           .num_panels = static_cast<int>(count),
                           .pairs = k_end - k,
                           .x = x_blocks + (b * pairs + k) * x_bytes_per_pair,
                           .c = c + b * plan.gemm->tokens * count * kRows,
                           .c_stride = count * kRows,
                           .ahead = b == 0 && ahead_bytes > 0 ? ahead.data() : nullptr,
                           .ahead_bytes = ahead_bytes});
    }
  }
}

void multiply_tiles(const Product& product, const TilePlan& plan) {
  const std::int64_t tokens = plan.gemm->tokens;
  const std::int64_t padded_tokens = round_up(product.x.rows, tokens);
  thread_local Scratch x_scratch;
  auto* x_blocks = x_scratch.get<std::byte>(padded_tokens * product.x.cols * (plan.bf16 ? 2 : 4));
  if (plan.bf16) {
    pack_blocks(product.x, tokens, 2, reinterpret_cast<std::uint16_t*>(x_blocks));
  } else {
    pack_blocks(product.x, tokens, 2, reinterpret_cast<float*>(x_blocks));
  }
  const auto multiply = [&](std::int64_t first, std::int64_t last) {
    const std::int64_t stride = (last - first) * kRows;
    thread_local Scratch c_scratch;
    float* c = c_scratch.get<float>(padded_tokens * stride);
    std::memset(c, 0, static_cast<std::size_t>(padded_tokens * stride) * sizeof(float));
    multiply_panels(product, plan, first, last, x_blocks, c);
    const std::int64_t rows = std::min(stride, product.weight.rows() - first * kRows);
    const float* scales = product.weight.scales();
    for (std::int64_t t = 0; t < product.x.rows; ++t) {
      float* y = product.y.row(t) + first * kRows;
      for (std::int64_t r = 0; r < rows; ++r) {
        const float sum = c[t * stride + r] * (scales != nullptr ? scales[first * kRows + r] : 1.0f);
        y[r] = sum + product.bias_of(first * kRows + r);
      }
    }
  };
  // A thread takes some neighbours one after another, whose weights lie one behind the other.
  const std::int64_t panels = product.weight.shape().num_panels(), together = plan.gemm->panels;
  const std::int64_t tasks = std::int64_t{kTasksPerThread} * num_threads();
  const std::int64_t chunk = round_up(std::max<std::int64_t>(1, panels / tasks), together);
  parallel_for(panels, chunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t p = first; p < last; p += together) multiply(p, std::min(last, p + together));
  });
}

}  // namespace

Linear::Linear(PackedTensor weight) : weight_(std::move(weight)) {}

void Linear::forward(ConstMatrixView x, std::span<const float> bias, MatrixView y,
                     ComputeType compute) const {
  expect(x.cols == in_features() && y.cols == out_features() && x.rows == y.rows,
         "Linear: x [N, I], y [N, O]");
  expect(bias.empty() || std::ssize(bias) == out_features(), "Linear: bias [O] or empty");
  if (x.rows == 0) return;
  const Table& kernels = table();
  const bool int8 = is_int8(weight_.kind());
  const bool bytes_each = is_8bit(weight_.kind());
  const bool grid = is_grid(weight_.kind());
  const Weights view = kernel_view(weight_);
  Matrix copy;
  const ConstMatrixView whole = whole_steps(x, view.steps * (bytes_each || grid ? 4 : 2), copy);
  const int kind = kernel_kind(weight_.kind());
  if (grid && kind != kBlock && x.rows <= kernels.most_grid_tokens[kind]) {
    const DecodeGridFn kernel = kernels.decode_grid[kind][kernel_bits(weight_)];
    if (kernel != nullptr) return decode_grid({weight_, whole, bias, y, view}, kernels, kernel);
  }
  const std::size_t bytes_kind = kind == kBitmap ? 1 : 0;
  const DecodeInt8Fn decode_bytes = kernels.decode_int8[bytes_kind];
  if (int8 && decode_bytes != nullptr && x.rows <= kernels.most_int8_tokens[bytes_kind]) {
    return decode_int8({weight_, whole, bias, y, view}, kernels, decode_bytes);
  }
  if (!bytes_each && !grid) {
    const DecodePlan plan = plan_decode(weight_, x.rows, compute);
    if (plan.kernel != nullptr) return decode({weight_, whole, bias, y, view}, plan);
  }
  const TilePlan plan = plan_tiles(weight_, compute);
  for (std::int64_t t = 0; t < x.rows; t += kTokensPerPass) {
    const std::int64_t count = std::min(kTokensPerPass, x.rows - t);
    multiply_tiles({weight_, whole.row_block(t, count), bias, y.row_block(t, count), view}, plan);
  }
}

}  // namespace swiftprune
