// The border to the per-ISA kernels of packed products: raw pointers only, one table per instruction set.
//
// Two ways through a weight. "decode" multiplies a few tokens straight from the packed stream. "expand"
// writes some columns of a panel as a plain tile, and "gemm" multiplies tiles with many tokens. Both sum in
// float32 in an order that depends on nothing but the shapes; zeros that a format leaves out change no bit of
// a sum.
#pragma once

#include <cstddef>
#include <cstdint>

namespace swiftprune::sparse_kernels {

inline constexpr int kRows = 16;  // of a panel

// A packed tensor (packed_tensor.h) as the kernels see it.
struct Weights {
  const void* values = nullptr;
  const void* masks = nullptr;             // bitmaps
  const void* indices = nullptr;           // nm16
  const std::uint64_t* offsets = nullptr;  // bitmaps, block16
  const std::uint32_t* columns = nullptr;  // block16
  std::int64_t steps = 0;                  // column pairs (8-bit kinds: quads) of a panel
  std::int64_t slots = 0;                  // nm16: per panel
  std::int64_t used_slots = 0;             // nm16: without the padding slot
  int group_n = 0;
  int group_m = 0;
  // Grid kinds; steps are quads there, of whole chunks of 32 columns.
  const std::uint16_t* scales = nullptr;  // f16 [panels, groups, 16]
  const std::uint8_t* zeros = nullptr;    // [panels, groups, 16], two rows a byte under 8 bits; null: middle
  int bits = 0;
  int middle = 0;
  std::int64_t chunks = 0;
  std::int64_t group_chunks = 0;  // chunks of a sum that one scale multiplies; the last may be shorter
  std::int64_t groups = 0;        // scales of a row
  bool row_groups = false;        // one scale a row, whatever the sum
};

// Where the codes of a bitmap grid's panel stand: codes read from each stream, and of all.
struct GridCursor {
  std::int64_t at[4] = {};
  std::int64_t total = 0;
};

// Panels [first_panel, last_panel) times a block of tokens. `tokens` is 1, 2, 4 or 8.
struct DecodeArgs {
  const Weights* weights = nullptr;
  std::int64_t first_panel = 0;
  std::int64_t last_panel = 0;
  int tokens = 0;
  const void* x = nullptr;  // [columns / width, tokens, width], float or bf16; width 2, in nm16 group_m
  float* y = nullptr;       // [tokens, y_stride]; column 0 is the first row of first_panel
  std::int64_t y_stride = 0;
};

// The same with int8 weights and 16-bit activations in the table's own layout: exact integer sums.
struct DecodeInt8Args {
  const Weights* weights = nullptr;
  std::int64_t first_panel = 0;
  std::int64_t last_panel = 0;
  int tokens = 0;
  const void* x = nullptr;    // tokens blocks of steps·8 bytes, written by `quantize`
  std::int64_t* y = nullptr;  // [tokens, y_stride]
  std::int64_t y_stride = 0;
};

// Grids: codes times 16-bit activations. A sum over a group of inputs is an exact integer; sums of groups,
// each times its scale, add in float32 from the first group to the last.
//   x = high·256 + low, both signed bytes.
struct DecodeGridArgs {
  const Weights* weights = nullptr;
  std::int64_t first_panel = 0;
  std::int64_t last_panel = 0;
  int tokens = 0;  // 1, 2, 4 or 8
  // A token: i8 high [steps, 4], i8 low [steps, 4], i32 sum of x over each group_chunks of chunks.
  const std::byte* x = nullptr;
  std::int64_t x_stride = 0;  // bytes
  float* y = nullptr;         // [tokens, y_stride]; in the scale of x
  std::int64_t y_stride = 0;
};
inline constexpr int kLargestGridInput = 127 * 256 + 127;

// Columns [2·first_pair, 2·last_pair) of one panel. `cursor` is where the stream of the panel stands: 0 at
// pair 0, and what the call before returned after that.
struct ExpandArgs {
  const Weights* weights = nullptr;
  std::int64_t panel = 0;
  std::int64_t first_pair =
      0;  // even for 8 bits, a multiple of 8 for block16 and nm16, whole chunks in grids
  std::int64_t last_pair = 0;
  std::int64_t cursor = 0;
  GridCursor* grid_cursor = nullptr;  // the same of grids, moved on by the call; zero at pair 0
  void* tile = nullptr;               // float [pairs, 2, 16], or bf16 [pairs, 16, 2]
};

// c += x · tileᵀ for one block of tokens and up to gemm_panels panels, `pairs` column pairs.
struct GemmArgs {
  int tokens = 0;  // of the block that are there; what is computed of the others is left out later
  const void* const* tiles = nullptr;  // [num_panels]
  int num_panels = 0;
  std::int64_t pairs = 0;
  const void* x = nullptr;  // [pairs, gemm_tokens, 2], float or bf16
  float* c = nullptr;       // [gemm_tokens, c_stride]
  std::int64_t c_stride = 0;
  // Where each panel's packed stream goes on, so many bytes a pair of this product: a kernel may ask memory for them while
  // it computes. Null: nothing. Addresses may lie beyond the weight.
  const void* const* ahead = nullptr;  // [num_panels]
  std::int64_t ahead_bytes = 0;
};

using DecodeFn = void (*)(const DecodeArgs&);
using DecodeInt8Fn = void (*)(const DecodeInt8Args&);
using DecodeGridFn = void (*)(const DecodeGridArgs&);
using ExpandFn = std::int64_t (*)(const ExpandArgs&);  // returns the cursor after the last pair
using GemmFn = void (*)(const GemmArgs&);

struct Gemm {
  int tokens = 0;  // a block of x; 0: this instruction set has no such product
  int panels = 0;  // at once
  GemmFn multiply = nullptr;
};

// Index of a 16-bit kind's function: kind, then dtype (0 BF16, 1 F16).
inline constexpr int kDense = 0, kBitmap = 1, kNm = 2, kBlock = 3;
// Tokens of a product straight from int8 weights or grids at most, by calls of a few.
inline constexpr int kMostByteTokens = 16;
struct Table {
  const char* name = "";
  int decode_tokens = 0;  // most tokens of one decode call; 0: no decode kernels
  DecodeFn decode[4][2] = {};
  DecodeFn decode_bf16[4] = {};  // BF16 weights, 8 tokens in bf16
  int decode_int8_tokens = 0;
  // x [n] with |x| <= 32767·scale -> the layout of DecodeInt8Args; n is rounded up to a quad with zeros.
  void (*quantize)(const float* x, std::int64_t n, float scale, void* out) = nullptr;
  DecodeInt8Fn decode_int8[2] = {};                              // dense, bitmap
  int most_int8_tokens[2] = {kMostByteTokens, kMostByteTokens};  // of a product; more take tiles
  ExpandFn expand_f32[4][2] = {};
  ExpandFn expand_f32_int8[2] = {};
  ExpandFn expand_f32_fp8[2] = {};  // E4M3 kinds; only the baseline has them
  Gemm gemm_f32 = {};
  ExpandFn expand_bf16[4] = {};       // of BF16 weights
  ExpandFn expand_bf16_int8[2] = {};  // int8 is exact in bf16
  Gemm gemm_bf16 = {};
  // Grids: dense, bitmap, N:M; then 8, 4 and 3 bits.
  ExpandFn expand_f32_grid[3][3] = {};
  ExpandFn expand_bf16_grid[3][3] = {};  // rounds to bf16
  int decode_grid_tokens = 0;            // most tokens of one decode call
  DecodeGridFn decode_grid[3][3] = {};
  int most_grid_tokens[3] = {kMostByteTokens, kMostByteTokens,
                             kMostByteTokens};  // of a product; more take tiles
};

extern const Table kBaselineTable;
// Null on processors that cannot have them.
const Table* avx2_table();
const Table* avx512_table();
const Table* avx512_bf16_table();
const Table* neon_table();
const Table* neon_dot_table();

// For the shuffles that stand in for vpexpand on AVX2 and NEON. Entry m lists, for the set bits of m in order, which
// of the packed values goes to which of eight places; other places become zero.
template <int kBytes>
struct alignas(32) ShuffleTable {
  std::uint8_t entry[256][kBytes];
};
extern const ShuffleTable<8> kExpand8;    // bytes
extern const ShuffleTable<16> kExpand16;  // 16-bit values
extern const ShuffleTable<32> kExpand32;  // 16-bit values into the upper halves of 32 bits: bf16 to float

}  // namespace swiftprune::sparse_kernels
