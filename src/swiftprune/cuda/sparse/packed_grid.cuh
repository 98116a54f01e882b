// Codes on a grid times few tokens: a warp turns 64-column blocks of a panel of 16 rows into fragments of tensor core
// products in registers, as in packed.cu; the fragments hold the codes less their zero point, and the scale of a group
// multiplies its sums in float.
#pragma once

#include "swiftprune/cuda/sparse/packed_codes.cuh"
#include "swiftprune/cuda/sparse/packed_launch.cuh"

namespace swiftprune::cuda {

// Blocks in registers: as many as do not spill.
template <int kTiles, int kBits, int kParts, bool kZeros>
constexpr int kGridAhead = kTiles == 2 || kBits == 8 ? 2
                           : kParts == 1 && !kZeros  ? 4
                                                     : 3;

// Of one block of a panel, for one lane, once.
template <int kBits>
__device__ __forceinline__ void load_codes(const uint4* codes, std::uint32_t (&words)[kBits]) {
#pragma unroll
  for (int i = 0; i < kBits / 4; ++i) {
    const uint4 four = __ldcs(codes + i * kWarp);
    words[4 * i] = four.x;
    words[4 * i + 1] = four.y;
    words[4 * i + 2] = four.z;
    words[4 * i + 3] = four.w;
  }
}
// Columns 2q and 2q + 1 of a half of the block, of row 2g (second) or 2g + 1, less the zero point.
template <class T, int kBits>
__device__ __forceinline__ std::uint32_t code_pair_of(const std::uint32_t (&words)[kBits], int half,
                                                      int second, int q, std::uint32_t zero) {
  if constexpr (kBits == 8) return byte_pair<T>(words[4 * half + 2 * second + q / 2], q % 2, zero);
  return code_pair<T>(words[2 * second + half], q, zero);
}
// One code as it is.
template <int kBits>
__device__ __forceinline__ std::uint32_t code_of(const std::uint32_t (&words)[kBits], int half, int second,
                                                 int column) {
  if constexpr (kBits == 8) return words[4 * half + 2 * second + column / 4] >> (8 * (column % 4)) & 255u;
  return words[2 * second + half] >> (4 * (column / 2 + column % 2 * 4)) & 15u;
}

// What a lane reads of one block: its codes, and scales and zero points of its rows 2g and 2g + 1 for each part of the
// block that has its own.
template <int kBits, int kParts>
struct GridBlock {
  std::uint32_t codes[kBits];
  std::uint32_t scales[kParts];  // two of F16
  std::uint16_t zeros[kParts];   // two bytes, where the grid has them
};
// Of one panel, for one lane.
template <int kBits, int kParts, bool kZeros>
class GridStream {
 public:
  __device__ GridStream(const GridWeight& weight, std::int64_t panel, int blocks, int lane)
      : codes_(weight.codes + panel * blocks * (kBits / 4) * kWarp + lane),
        scales_(reinterpret_cast<const std::uint32_t*>(weight.scales) + panel * weight.groups * (kRows / 2) +
                lane / 4),
        zeros_(reinterpret_cast<const std::uint16_t*>(weight.zeros) + panel * weight.groups * (kRows / 2) +
               lane / 4),
        weight_(weight) {}
  __device__ __forceinline__ GridBlock<kBits, kParts> fetch(int b) const {
    GridBlock<kBits, kParts> block;
    load_codes<kBits>(codes_ + b * (kBits / 4) * kWarp, block.codes);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int at = weight_.group_of(b, part) * (kRows / 2);
      block.scales[part] = __ldg(scales_ + at);
      if constexpr (kZeros) block.zeros[part] = __ldg(zeros_ + at);
    }
    return block;
  }

 private:
  const uint4* codes_;
  const std::uint32_t* scales_;
  const std::uint16_t* zeros_;
  const GridWeight& weight_;
};

// A lane's inputs of one block, eight of each half; those beyond the last column are zero.
struct GridInputs {
  uint4 halves[2];
};
template <class T, bool kWhole>
__device__ __forceinline__ GridInputs load_inputs_of(const T* x, int b, int cols, int t) {
  GridInputs inputs;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int column = static_cast<int>(kCompactBlock) * b + 32 * half + 8 * t;
    if constexpr (kWhole) {
      inputs.halves[half] = *reinterpret_cast<const uint4*>(x + column);
    } else {
      const auto* bits = reinterpret_cast<const std::uint16_t*>(x + column);
      std::uint32_t words[4];
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t low = column + 2 * i < cols ? bits[2 * i] : 0;
        const std::uint32_t high = column + 2 * i + 1 < cols ? bits[2 * i + 1] : 0;
        words[i] = low | high << 16;
      }
      inputs.halves[half] = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
  return inputs;
}

// sum += scales·((codes - zeros) · inputs) of one block. middle: zero_word() of grids without zeros.
template <class T, int kTiles, int kBits, int kParts, bool kZeros>
__device__ __forceinline__ void multiply_block(const GridBlock<kBits, kParts>& block, std::uint32_t middle,
                                               const GridInputs (&inputs)[kTiles], float (&sum)[kTiles][4]) {
  float part[kTiles][4] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const ZeroPairs zeros = zero_pairs<T, kZeros, kBits>(middle, kZeros ? block.zeros[half % kParts] : 0u);
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      const std::uint32_t a[4] = {code_pair_of<T, kBits>(block.codes, half, 0, 2 * f, zeros.upper),
                                  code_pair_of<T, kBits>(block.codes, half, 1, 2 * f, zeros.lower),
                                  code_pair_of<T, kBits>(block.codes, half, 0, 2 * f + 1, zeros.upper),
                                  code_pair_of<T, kBits>(block.codes, half, 1, 2 * f + 1, zeros.lower)};
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const uint4& in = inputs[j].halves[half];
        multiply(part[j], a, f == 0 ? in.x : in.z, f == 0 ? in.y : in.w, T{});
      }
    }
    if (half == 0 && kParts == 1) continue;
    add_scaled<kTiles>(block.scales[half % kParts], part, sum);
  }
}

// A warp's blocks first .. last - 1 of a panel, at least one, for one lane. Made before the inputs are there: the first
// blocks are then on their way. kParts: of a block, with scales of their own. kWhole: all columns exist and rows of x are
// aligned.
template <class T, int kTiles, bool kWhole, int kBits, int kParts, bool kZeros>
class GridSum {
 public:
  __device__ __forceinline__ GridSum(const GridWeight& weight, std::int64_t panel, int blocks, int first,
                                     int last, int lane)
      : stream_(weight, panel, blocks, lane),
        middle_(zero_word<T, kBits>(weight.middle)),
        first_(first),
        last_(last),
        t_(lane % 4) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) held_[i] = stream_.fetch(min(first + i, last - 1));
  }
  // sum += of rows 2g and 2g + 1; x: the inputs of the lane's token of each tile
  __device__ __forceinline__ void add_to(float (&sum)[kTiles][4], const T* const (&x)[kTiles], int cols) {
    const auto load = [&](int b, GridInputs(&inputs)[kTiles]) {
#pragma unroll
      for (int j = 0; j < kTiles; ++j) inputs[j] = load_inputs_of<T, kWhole>(x[j], b, cols, t_);
    };
    int b = first_;
    // Without a branch inside, so that what comes next is fetched early; the last ones are fetched more than once.
    for (; b + kAhead <= last_; b += kAhead) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        GridInputs inputs[kTiles];
        load(b + i, inputs);
        const GridBlock<kBits, kParts> block = held_[i];
        held_[i] = stream_.fetch(min(b + i + kAhead, last_ - 1));
        multiply_block<T, kTiles, kBits, kParts, kZeros>(block, middle_, inputs, sum);
      }
    }
#pragma unroll
    for (int i = 0; i < kAhead - 1; ++i) {
      if (b + i < last_) {
        GridInputs inputs[kTiles];
        load(b + i, inputs);
        multiply_block<T, kTiles, kBits, kParts, kZeros>(held_[i], middle_, inputs, sum);
      }
    }
  }

 private:
  static constexpr int kAhead = kGridAhead<kTiles, kBits, kParts, kZeros>;
  GridStream<kBits, kParts, kZeros> stream_;
  std::uint32_t middle_;
  int first_, last_, t_;
  GridBlock<kBits, kParts> held_[kAhead];
};

}  // namespace swiftprune::cuda
