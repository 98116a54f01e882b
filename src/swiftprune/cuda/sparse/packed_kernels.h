// Products of a few tokens with packed weights on the device, and their expansion: launchers over raw device
// pointers, asynchronous, with sums in a fixed order. Panels are those of sparse/packed_tensor.h.
#pragma once

#include <cstdint>
#include <variant>

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "swiftprune/tensor/dtype.h"

namespace swiftprune::cuda {

inline constexpr std::int64_t kMaxDecodeTokens = 16;   // of one launch
inline constexpr std::int64_t kMostBitmapBatch = 32;   // of one launch of batch_bitmap()
inline constexpr std::int64_t kMostTwoFourBatch = 64;  // of batch_two_four(), batch_two_four_grid()
inline constexpr std::int64_t kMostDenseTokens = 8;    // of one launch with a dense weight
inline constexpr std::int64_t kCompactBlock = 64;      // columns of a block

// What a bitmap stores of each kept weight. As the kernels read them: numbers of 16 bits; int8 as sign and
// magnitude; E4M3.
enum class Stored { kHalf, kInt8, kE4M3 };

// A bitmap in chunks of one block each, which a warp copies as they are: 32 mask words (one a pair of
// columns, bit 2·row + column of the pair), for each of them where its values begin (16 bits, in bytes), then
// the values (of one or two bytes), those of pairs 0, 8, 16, 24, 1, 9, ... after each other, then zeros to 16
// bytes.
struct BitmapWeight {
  const uint4* chunks = nullptr;          // of panel 0, block 0; then block 1 ...
  const std::uint32_t* starts = nullptr;  // [panels·blocks + 1], in uint4
  std::int64_t most = 0;                  // uint4 of a chunk at most
  Stored stored = Stored::kHalf;
  const float* scales = nullptr;  // [panels·16] of stored bytes, else null

  // What begins at a later panel.
  BitmapWeight from(std::int64_t panel, std::int64_t blocks) const {
    BitmapWeight rest = *this;
    rest.starts += panel * blocks;
    if (scales != nullptr) rest.scales += panel * 16;
    return rest;
  }
};
// 2:4 in the order of mma.sp's operands, a lane's four registers side by side: lane 4g + t of step s (32
// columns) holds the kept pairs of row g, group 8s + t; row g + 8; and both of group 8s + t + 4.
struct TwoFourWeight {
  const uint4* values = nullptr;           // [panels, 2·blocks, 32 lanes]
  const std::uint32_t* indices = nullptr;  // [panels, blocks, 32 lanes]: t = 2·(step % 2) + half of the step,
                                           // rows g (low bits) and g + 8, four bits a group
};

// Codes on a grid (tensor/quantized_weight.h). Up to 4 bits: a lane's 16 bytes of a block of a panel: lane 4g + t
// holds of rows 2g and 2g + 1 columns 8t .. 8t + 7, then of both columns 32 + 8t ..: words {row 2g, first half}, {2g,
// second}, {2g + 1, first}, {2g + 1, second}; of a word column 2q is nibble q, column 2q + 1 nibble q + 4. 8 bits: a lane's 16 bytes of half a block are
// columns 8t .. 8t + 7 of row 2g, then of row 2g + 1, a byte each.
struct GridWeight {
  // [panels, blocks, 32 lanes], of 8 bits [panels, blocks, 2 halves, 32 lanes]; beyond the last column: anything
  const uint4* codes = nullptr;
  const __half* scales = nullptr;       // [panels, groups, 16]
  const std::uint8_t* zeros = nullptr;  // [panels, groups, 16]; null: `middle`
  std::uint32_t middle = 8;
  int shift = 6;   // a group has 2^shift inputs: 32, 64, 128; kWholeRow: all
  int groups = 1;  // of a row
  int bits = 4;    // of a code as it lies here: 4 or 8
  static constexpr int kWholeRow = 31;

  // Of half a block; beyond the last column the last one.
  __host__ __device__ int group_of(int block, int half) const {
    const int at = (64 * block + 32 * half) >> shift;
    return at < groups ? at : groups - 1;
  }
  // What begins at a later panel.
  GridWeight from(std::int64_t panel, std::int64_t blocks) const {
    GridWeight rest = *this;
    rest.codes += panel * blocks * (bits / 4) * 32;
    rest.scales += panel * groups * 16;
    if (zeros != nullptr) rest.zeros += panel * groups * 16;
    return rest;
  }
};

// 2:4 of such codes in the order of mma.sp's operands, of which row g is row 2g of the panel and row g + 8 row 2g + 1. A
// unit is two blocks. Word s of a lane's 16 bytes is step s (32 columns): codes of the kept pairs of row 2g, group
// 8s + t; row 2g + 1; and both of group 8s + t + 4; pair q in nibbles q and q + 4. grid: `codes` in this order, the rest
// as it stands there.
struct TwoFourGridWeight {
  static constexpr int kUnitCols = 128;
  GridWeight grid;                 // codes [panels, units, 32 lanes]
  const uint2* indices = nullptr;  // [panels, units, 32 lanes]: a block a word, as TwoFourWeight has it
};

// Linears of one shape, each from a panel of its own on (expert_stack.h).
using StackedWeight = std::variant<GridWeight, BitmapWeight>;

struct CompactArgs {
  DType dtype = DType::kBF16;  // of weights and x: BF16 or F16
  std::int64_t rows = 0;       // O
  std::int64_t cols = 0;       // I
  const void* x = nullptr;     // [tokens, I]
  std::int64_t x_stride = 0;
  std::int64_t tokens = 0;       // 1 .. kMaxDecodeTokens
  void* y = nullptr;             // [tokens, O]
  DType y_dtype = DType::kBF16;  // dtype or F32
  std::int64_t y_stride = 0;
  bool accumulate = false;     // y +=, F32 only
  const void* bias = nullptr;  // [O] of y_dtype, or null
};
// May start before earlier work on the stream is done and then waits for it before x or y is touched; the
// weights must be there when it is launched.
void multiply_bitmap(const BitmapWeight& weight, const CompactArgs& args, cudaStream_t stream);
void multiply_two_four(const TwoFourWeight& weight, const CompactArgs& args, cudaStream_t stream);
void multiply_grid(const GridWeight& weight, const CompactArgs& args, cudaStream_t stream);
void multiply_two_four_grid(const TwoFourGridWeight& weight, const CompactArgs& args, cudaStream_t stream);
// The same for more tokens, whose inputs several panels share. False, with nothing done, for more than kMost.. of them
// and on devices without clusters of blocks of threads.
bool batch_bitmap(const BitmapWeight& weight, const CompactArgs& args, cudaStream_t stream);
bool batch_two_four(const TwoFourWeight& weight, const CompactArgs& args, cudaStream_t stream);
bool batch_two_four_grid(const TwoFourGridWeight& weight, const CompactArgs& args, cudaStream_t stream);
// The same for a dense weight [rows, cols] of args.dtype. False, with nothing done, for operands that it does not take:
// F32, more tokens than kMostDenseTokens (the library's products are then faster), columns that are no multiple of
// kCompactBlock, rows that are not aligned.
bool multiply_few(const void* weight, std::int64_t stride, const CompactArgs& args, cudaStream_t stream);

// dense [rows, cols] of dtype (BF16 or F16), contiguous; stored bytes times their row's scale, rounded
void expand_bitmap(const BitmapWeight& weight, DType dtype, std::int64_t rows, std::int64_t cols, void* dense,
                   cudaStream_t stream);
void expand_grid(const GridWeight& weight, DType dtype, std::int64_t rows, std::int64_t cols, void* dense,
                 cudaStream_t stream);
void expand_two_four_grid(const TwoFourGridWeight& weight, DType dtype, std::int64_t rows, std::int64_t cols,
                          void* dense, cudaStream_t stream);
void expand_two_four(const TwoFourWeight& weight, std::int64_t rows, std::int64_t cols, void* dense,
                     cudaStream_t stream);

}  // namespace swiftprune::cuda
