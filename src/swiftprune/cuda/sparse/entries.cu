#include "swiftprune/cuda/sparse/entries.h"

#include <algorithm>
#include <array>

#include "swiftprune/cuda/sparse/packed_launch.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kGroups = kTileEntries / kGroupEntries;  // of a tile
constexpr int kStepWords = 3;                          // of a lane, of a tile
constexpr int kMostStep = 7;
constexpr int kEntryAhead = 2;  // tiles in registers
constexpr int kFirstTiles = 2;  // of a range: asked of memory at once
// Registers of a thread, as if so many blocks of threads ran on a multiprocessor: one does, and more gain nothing.
constexpr int kEntryResident = 2;

// -- The product --------------------------------------------------------------------------------------------

struct Tile {
  std::uint32_t steps[kStepWords];
  uint4 values[kGroups];
};

__device__ __forceinline__ void load_word(std::uint32_t& to, const void* from, bool there) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.u32 p, %2, 0;\n@p ld.global.L1::no_allocate.L2::128B.u32 %0, [%1];\n}"
      : "+r"(to)
      : "l"(from), "r"(static_cast<std::uint32_t>(there)));
}
__device__ __forceinline__ void load_four(uint4& to, const void* from, bool there) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.u32 p, %5, 0;\n@p ld.global.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, "
      "[%4];\n}"
      : "+r"(to.x), "+r"(to.y), "+r"(to.z), "+r"(to.w)
      : "l"(from), "r"(static_cast<std::uint32_t>(there)));
}

// To the L2 cache; 16 bytes at least.
__device__ __forceinline__ void prefetch(const void* from, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes));
#endif
}

// Where a warp's next tile lies.
class TileStream {
 public:
  // end: of the range
  __device__ TileStream(const EntryWeight& weight, uint4 range, std::uint32_t end, int lane)
      : at_(weight.tiles + range.x),
        left_(static_cast<int>(range.w)),
        tiles_(static_cast<int>(range.z)),
        lane_(lane) {
    constexpr std::uint32_t kUnits = kFirstTiles * kTileUnits;
    if (lane == 0 && range.x < end) prefetch(at_, 16 * min(end - range.x, kUnits));
  }
  __device__ __forceinline__ void skip(const std::uint32_t* lengths) { move_on(lengths); }
  // lengths: of the panels behind that of the range's first tile.
  __device__ __forceinline__ void fetch(Tile& tile, const std::uint32_t* lengths) {
    const bool there = tiles_ > 0;
    const auto* words = reinterpret_cast<const std::uint32_t*>(at_) + lane_;
#pragma unroll
    for (int i = 0; i < kStepWords; ++i) load_word(tile.steps[i], words + kWarp * i, there);
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const bool has = there && kGroupEntries * i < left_;
      if (!has) tile.values[i] = make_uint4(0, 0, 0, 0);
      load_four(tile.values[i], at_ + kStepUnits + kWarp * i + lane_, has);
    }
    move_on(lengths);
  }

 private:
  __device__ __forceinline__ void move_on(const std::uint32_t* lengths) {
    --tiles_;
    at_ += kTileUnits;
    left_ -= kTileEntries;
    if (left_ <= 0) {
      at_ += left_ / kGroupEntries * kWarp;
      left_ = 0;
      if (tiles_ > 0) left_ = static_cast<int>(lengths[panel_++]);
    }
  }
  const uint4* at_;
  int left_, tiles_, lane_;
  int panel_ = 0;
};

// bits: two 16-bit numbers.
__device__ __forceinline__ float low_of(std::uint32_t bits, __nv_bfloat16) {
  return __uint_as_float(bits << 16);
}
__device__ __forceinline__ float high_of(std::uint32_t bits, __nv_bfloat16) {
  return __uint_as_float(bits & 0xffff0000u);
}
__device__ __forceinline__ float low_of(std::uint32_t bits, __half) {
  return __low2float(*reinterpret_cast<const __half2*>(&bits));
}
__device__ __forceinline__ float high_of(std::uint32_t bits, __half) {
  return __high2float(*reinterpret_cast<const __half2*>(&bits));
}

template <int kTokens>
constexpr int kColumnBytes = 2 * kTokens;  // of the inputs in shared memory

// sum += value · inputs at `at`
template <class T, int kTokens>
__device__ __forceinline__ void add_product(float value, unsigned at, float (&sum)[kTokens]) {
  if constexpr (kTokens == 1) {
    std::uint16_t x;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(x) : "r"(at));
    sum[0] = fmaf(value, low_of(x, T{}), sum[0]);
  } else if constexpr (kTokens == 2) {
    std::uint32_t x;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(at));
    sum[0] = fmaf(value, low_of(x, T{}), sum[0]);
    sum[1] = fmaf(value, high_of(x, T{}), sum[1]);
  } else {
    std::uint32_t x, y;
    asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(x), "=r"(y) : "r"(at));
    sum[0] = fmaf(value, low_of(x, T{}), sum[0]);
    sum[1] = fmaf(value, high_of(x, T{}), sum[1]);
    sum[2] = fmaf(value, low_of(y, T{}), sum[2]);
    sum[3] = fmaf(value, high_of(y, T{}), sum[3]);
  }
}

// Steps of entries 4j .. 4j + 3 of a tile, a byte each.
__device__ __forceinline__ void unpack_steps(const Tile& tile, std::uint32_t (&fours)[kTileEntries / 4]) {
  constexpr std::uint32_t kThree = 0x07070707u, kTwo = 0x03030303u, kOne = 0x04040404u;
  const std::uint32_t(&s)[kStepWords] = tile.steps;
  fours[0] = s[0] & kThree;
  fours[1] = s[0] >> 3 & kThree;
  fours[2] = s[1] & kThree;
  fours[3] = s[1] >> 3 & kThree;
  fours[4] = s[2] & kThree;
  fours[5] = s[2] >> 3 & kThree;
  fours[6] = (s[0] >> 6 & kTwo) | (s[2] >> 4 & kOne);
  fours[7] = (s[1] >> 6 & kTwo) | (s[2] >> 5 & kOne);
}

// at: address of the inputs of the entry before; moves on.
template <class T, int kTokens>
__device__ __forceinline__ void multiply_tile(const Tile& tile, unsigned& at, float (&sum)[kTokens]) {
  std::uint32_t fours[kTileEntries / 4];
  unpack_steps(tile, fours);
  constexpr std::uint32_t kScale = kColumnBytes<kTokens>;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const uint4& eight = tile.values[j / 2];
    const std::uint32_t two[2] = {j % 2 == 0 ? eight.x : eight.z, j % 2 == 0 ? eight.y : eight.w};
    const unsigned a0 = __dp4a(fours[j], kScale, at);
    const unsigned a1 = __dp4a(fours[j], kScale * 0x0101u, at);
    const unsigned a2 = __dp4a(fours[j], kScale * 0x010101u, at);
    at = __dp4a(fours[j], kScale * 0x01010101u, at);
    add_product<T, kTokens>(low_of(two[0], T{}), a0, sum);
    add_product<T, kTokens>(high_of(two[0], T{}), a1, sum);
    add_product<T, kTokens>(low_of(two[1], T{}), a2, sum);
    add_product<T, kTokens>(high_of(two[1], T{}), at, sum);
  }
}

// The tokens' inputs by column, as multiply_tile() reads them.
template <class T, int kTokens>
__device__ __forceinline__ void stage_inputs(const CompactArgs& args, std::byte* shared) {
  const auto* x = static_cast<const T*>(args.x);
  const int threads = static_cast<int>(blockDim.x);
  const int cols = static_cast<int>(args.cols);
  if constexpr (kTokens == 1) {
    const int whole = reinterpret_cast<std::uintptr_t>(x) % 16 == 0 ? cols / 8 : 0;
    for (int i = static_cast<int>(threadIdx.x); i < whole; i += threads)
      reinterpret_cast<uint4*>(shared)[i] = reinterpret_cast<const uint4*>(x)[i];
    for (int c = 8 * whole + static_cast<int>(threadIdx.x); c < cols; c += threads)
      reinterpret_cast<T*>(shared)[c] = x[c];
  } else {
    auto* to = reinterpret_cast<T*>(shared);
    const int tokens = static_cast<int>(args.tokens);
#pragma unroll 4
    for (int c = static_cast<int>(threadIdx.x); c < cols; c += threads) {
      struct alignas(2 * kTokens) Column {
        T v[kTokens];
      } column;
#pragma unroll
      for (int t = 0; t < kTokens; ++t) column.v[t] = x[min(t, tokens - 1) * args.x_stride + c];
      reinterpret_cast<Column*>(to)[c] = column;
    }
  }
}

template <class T, int kTokens>
__global__ __launch_bounds__(kEntryWarps* kWarp,
                             kEntryResident) void entry_kernel(EntryWeight weight, CompactArgs args,
                                                               int sums_at, int lengths_at) {
  extern __shared__ uint4 dynamic[];
  let_next_start();
  auto* const shared = reinterpret_cast<std::byte*>(dynamic);
  auto* const sums = reinterpret_cast<float*>(shared + sums_at);  // [panels][tokens][rows][warps]
  auto* const lengths = reinterpret_cast<std::uint32_t*>(shared + lengths_at);  // [panels], then rows
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int range_at = static_cast<int>(blockIdx.x) * kEntryWarps + warp;
  const uint4 range = __ldg(weight.ranges + range_at);
  const std::uint32_t range_end = __ldg(&weight.ranges[range_at + 1].x);
  const int first_panel = static_cast<int>(__ldg(weight.first_panels + blockIdx.x));
  const int panels = static_cast<int>(__ldg(weight.first_panels + blockIdx.x + 1)) - first_panel;
  const std::uint32_t first_column = __ldg(weight.range_columns + range_at * kWarp + lane);
  std::uint32_t* const rows = lengths + panels;
  for (int i = static_cast<int>(threadIdx.x); i < panels; i += kEntryWarps * kWarp)
    lengths[i] = __ldg(weight.lengths + first_panel + i);
  for (int i = static_cast<int>(threadIdx.x); i < panels * kPanelEntryRows; i += kEntryWarps * kWarp)
    rows[i] = __ldg(weight.rows + first_panel * kPanelEntryRows + i);
  for (int i = static_cast<int>(threadIdx.x); i < panels * kTokens * kPanelEntryRows * kEntryWarps;
       i += kEntryWarps * kWarp)
    sums[i] = 0.0f;
  __syncthreads();
  int panel = static_cast<int>(range.y) - first_panel;
  TileStream stream(weight, range, range_end, lane);
  Tile held[kEntryAhead] = {};
#pragma unroll
  for (int i = 0; i < kEntryAhead; ++i) stream.fetch(held[i], lengths + panel + 1);
  wait_for_inputs();
  stage_inputs<T, kTokens>(args, shared);
  __syncthreads();

  const unsigned inputs = shared_address(shared);
  unsigned at = inputs + kColumnBytes<kTokens> * first_column;
  float sum[kTokens] = {};
  int left = static_cast<int>(range.w);
  // Of the next panel, on their way while this one is multiplied.
  const auto columns_of = [&](int p) {
    return p < panels ? __ldg(weight.panel_columns + (first_panel + p) * kWarp + lane) : std::uint16_t{0};
  };
  std::uint16_t next_column = columns_of(panel + 1);
  const auto finish_panel = [&] {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
#pragma unroll
      for (int offset = kEntryPieces / 2; offset > 0; offset /= 2)
        sum[t] += __shfl_xor_sync(kFullWarp, sum[t], offset);
      if (lane % kEntryPieces == 0) {
        sums[((panel * kTokens + t) * kPanelEntryRows + lane / kEntryPieces) * kEntryWarps + warp] = sum[t];
      }
      sum[t] = 0.0f;
    }
  };
  const int tiles = static_cast<int>(range.z);
  for (int base = 0; base < tiles; base += kEntryAhead) {
#pragma unroll
    for (int i = 0; i < kEntryAhead; ++i) {
      if (base + i >= tiles) break;
      multiply_tile<T, kTokens>(held[i], at, sum);
      stream.fetch(held[i], lengths + static_cast<int>(range.y) - first_panel + 1);
      left -= kTileEntries;
      if (left > 0 || base + i + 1 == tiles) continue;
      finish_panel();
      left = static_cast<int>(lengths[++panel]);
      at = inputs + kColumnBytes<kTokens> * next_column;
      next_column = columns_of(panel + 1);
    }
  }
  if (tiles > 0) finish_panel();
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < panels * kTokens * kPanelEntryRows;
       i += kEntryWarps * kWarp) {
    const int r = i % kPanelEntryRows;
    const int token = i / kPanelEntryRows % kTokens;
    const std::uint32_t row = rows[i / (kTokens * kPanelEntryRows) * kPanelEntryRows + r];
    if (row == EntryWeight::kNoRow || token >= args.tokens) continue;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kEntryWarps; ++w) total += sums[i * kEntryWarps + w];
    store_sum<T>(args, total, token, row);
  }
}

// -- Back to a dense matrix ---------------------------------------------------------------------------------

constexpr int kExpandWarps = 6;
constexpr int kHalfEntries = kTileEntries / 2;
// Of a lane: what half a tile's steps reach, and the column before; words of it are an odd number: no bank conflicts.
constexpr int kWindow = 118;
static_assert(kHalfEntries * kMostStep + 2 <= kWindow && kWindow / 2 % 2 == 1);

// Columns [start, end) of each lane's row to memory, from its window, which holds those from `start`, made even, on; what
// lies behind the window is zero. Half a warp writes a lane's: neighbours go together. row: null where there is none.
__device__ __forceinline__ void write_windows(std::uint16_t (*windows)[kWindow], std::uint16_t* row,
                                              int start, int end, bool pairs, int lane) {
  constexpr int kWriters = kWarp / 2;
  for (int i = 0; i < kWarp / 2; ++i) {
    const int l = 2 * i + lane / kWriters;
    auto* const to = reinterpret_cast<std::uint16_t*>(
        __shfl_sync(kFullWarp, reinterpret_cast<unsigned long long>(row), l));
    const int from = __shfl_sync(kFullWarp, start, l);
    const int end_there = __shfl_sync(kFullWarp, end, l);
    const int until = to != nullptr ? end_there : 0;
    auto* const window = reinterpret_cast<std::uint32_t*>(windows[l]);
    const int base = from & ~1;
    for (int c = base + 2 * (lane % kWriters); c < until; c += 2 * kWriters) {
      std::uint32_t two = 0;
      if (c - base < kWindow) {
        two = window[(c - base) / 2];
        window[(c - base) / 2] = 0;
      }
      const bool low = c >= from, high = c + 1 < until;
      if (pairs && low && high) {
        *reinterpret_cast<std::uint32_t*>(to + c) = two;
        continue;
      }
      if (low) to[c] = static_cast<std::uint16_t>(two);
      if (high) to[c + 1] = static_cast<std::uint16_t>(two >> 16);
    }
  }
}

// A block of threads a range, kExpandWarps tiles at a time, a warp each: from what the tiles before it step over follows
// where a tile's first entry stands. What lies behind the entry before a lane's first one in a tile, up to its last one
// there, is the lane's to write.
__global__ __launch_bounds__(kExpandWarps* kWarp) void expand_entries_kernel(EntryWeight weight, int cols,
                                                                             bool pairs,
                                                                             std::uint16_t* dense) {
  __shared__ alignas(4) std::uint16_t windows[kExpandWarps][kWarp][kWindow];
  __shared__ int stepped[kExpandWarps][kWarp];  // over, by each lane in a tile
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int range_at = static_cast<int>(blockIdx.x);
  const uint4 range = weight.ranges[range_at];
  const auto tiles = static_cast<int>(range.z);
  auto panel = static_cast<std::int64_t>(range.y);
  int left = static_cast<int>(range.w);
  bool begins = left == static_cast<int>(weight.lengths[panel]);
  TileStream stream(weight, range, weight.ranges[range_at + 1].x, lane);
  std::uint16_t* const window = windows[warp][lane];
  for (int i = 0; i < kWindow; ++i) window[i] = 0;
  int at = static_cast<int>(weight.range_columns[range_at * kWarp + lane]);
  for (int first = 0; first < tiles; first += kExpandWarps) {
    Tile tile = {};
    std::uint32_t fours[kTileEntries / 4];
    for (int k = 0; k < kExpandWarps && first + k < tiles; ++k) {
      if (k == warp) {
        stream.fetch(tile, weight.lengths + range.y + 1);
      } else {
        stream.skip(weight.lengths + range.y + 1);
      }
    }
    unpack_steps(tile, fours);
    std::uint32_t sum = 0;
#pragma unroll
    for (const std::uint32_t four : fours) sum = __dp4a(four, 0x01010101u, sum);
    stepped[warp][lane] = static_cast<int>(sum);
    __syncthreads();
    for (int k = 0; k < kExpandWarps && first + k < tiles; ++k) {
      if (begins && first + k > 0) at = static_cast<int>(weight.panel_columns[panel * kWarp + lane]);
      if (k == warp) {
        int column = at;
        const std::uint32_t of_panel = weight.rows[panel * kPanelEntryRows + lane / kEntryPieces];
        std::uint16_t* const row =
            of_panel == EntryWeight::kNoRow ? nullptr : dense + std::int64_t{of_panel} * cols;
        const bool ends = left <= kTileEntries && lane % kEntryPieces == kEntryPieces - 1;
        int start = begins && lane % kEntryPieces == 0 ? 0 : column + 1;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (kHalfEntries * half >= left) break;
#pragma unroll
          for (int e = kHalfEntries * half; e < kHalfEntries * (half + 1); ++e) {
            const uint4& eight = tile.values[e / kGroupEntries];
            const std::uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
            column += static_cast<int>(fours[e / 4] >> (8 * (e % 4)) & 7u);
            const auto bits = static_cast<std::uint16_t>(words[e / 2 % 4] >> (16 * (e % 2)));
            if (bits != 0) window[column - (start & ~1)] = bits;
          }
          __syncwarp();
          write_windows(windows[warp], row, start,
                        ends && kHalfEntries * (half + 1) >= left ? cols : column + 1, pairs, lane);
          __syncwarp();
          start = column + 1;
        }
      }
      at += stepped[k][lane];
      left -= kTileEntries;
      begins = left <= 0;
      if (!begins || first + k + 1 == tiles) continue;
      ++panel;
      left = static_cast<int>(weight.lengths[panel]);
    }
    __syncthreads();  // all have read what the others stepped over
  }
}

// -- Entries of a dense matrix ------------------------------------------------------------------------------

constexpr int kBuildThreads = 256;

unsigned row_grid(std::int64_t rows) {
  constexpr int kRowsEach = kBuildThreads / kWarp;
  return static_cast<unsigned>((rows + kRowsEach - 1) / kRowsEach);
}

// Calls body(column, step, filler entries before it, entries before both) for the stored weights of a row, a lane each.
template <class Body>
__device__ __forceinline__ int each_entry(const std::uint16_t* row, int cols, int lane, const Body& body) {
  int last = 0;
  int entries = 0;
  for (int base = 0; base < cols; base += kWarp) {
    const int c = base + lane;
    const std::uint16_t bits = c < cols ? row[c] : std::uint16_t{0};
    const std::uint32_t mask = __ballot_sync(kFullWarp, bits != 0);
    if (mask == 0) continue;
    const std::uint32_t below = mask & ((1u << lane) - 1u);
    const int before = below != 0 ? base + 31 - __clz(static_cast<int>(below)) : last;
    const int step = c - before;
    const int fillers = bits != 0 ? max(step - 1, 0) / kMostStep : 0;
    int sum = bits != 0 ? fillers + 1 : 0;
    const int own = sum;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int other = __shfl_up_sync(kFullWarp, sum, offset);
      if (lane >= offset) sum += other;
    }
    if (bits != 0) body(c, step - kMostStep * fillers, fillers, entries + sum - own, bits);
    entries += __shfl_sync(kFullWarp, sum, kWarp - 1);
    last = base + 31 - __clz(static_cast<int>(mask));
  }
  return entries;
}

__global__ __launch_bounds__(kBuildThreads) void count_entries_kernel(const std::uint16_t* dense,
                                                                      std::int64_t rows, int cols,
                                                                      std::uint32_t* counts) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t row = (std::int64_t{blockIdx.x} * kBuildThreads + threadIdx.x) / kWarp;
  if (row >= rows) return;
  const int entries = each_entry(dense + row * cols, cols, lane, [](auto...) {});
  if (lane == 0) counts[row] = static_cast<std::uint32_t>(entries);
}

__global__ __launch_bounds__(kBuildThreads) void fill_entries_kernel(const std::uint16_t* dense,
                                                                     std::int64_t rows, int cols,
                                                                     EntryFill fill) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t row = (std::int64_t{blockIdx.x} * kBuildThreads + threadIdx.x) / kWarp;
  if (row >= rows) return;
  const EntryPlace place = fill.places[row];
  const int entries = static_cast<int>(fill.counts[row]);
  const int piece_entries = max(1, (entries + kEntryPieces - 1) / kEntryPieces);
  const int tiles = static_cast<int>(fill.tiles_before[place.panel + 1] - fill.tiles_before[place.panel]);
  std::uint16_t* const tile_columns =
      fill.tile_columns + std::int64_t{fill.tiles_before[place.panel]} * kWarp;
  const auto leave_empty = [&](int piece, int column) {
    const int to = static_cast<int>(place.row) * kEntryPieces + piece;
    fill.panel_columns[std::int64_t{place.panel} * kWarp + to] = static_cast<std::uint16_t>(column);
    for (int t = 0; t < tiles; ++t) tile_columns[t * kWarp + to] = static_cast<std::uint16_t>(column);
  };
  std::byte* const panel = static_cast<std::byte*>(fill.tiles) + std::int64_t{fill.units[place.panel]} * 16;
  const auto put = [&](int entry, int step, int column, std::uint16_t bits) {
    const int piece = entry / piece_entries;
    const int i = entry % piece_entries;
    const int to = static_cast<int>(place.row) * kEntryPieces + piece;  // lane
    const int tile = i / kTileEntries;
    const int e = i % kTileEntries;
    std::byte* const at = panel + tile * (kTileUnits)*16;
    auto* const words = reinterpret_cast<std::uint32_t*>(at) + to;
    const int j = e / 4;
    const auto code = static_cast<std::uint32_t>(step);
    const int byte = 8 * (e % 4);
    if (j < 6) {
      atomicOr(words + kWarp * (j / 2), code << (byte + 3 * (j % 2)));
    } else {
      atomicOr(words + kWarp * (j - 6), (code & 3u) << (byte + 6));
      atomicOr(words + kWarp * 2, (code >> 2) << (byte + j));
    }
    if (bits != 0) {
      reinterpret_cast<std::uint16_t*>(at + kStepUnits * 16 + e / kGroupEntries * kWarp * 16 +
                                       to * 16)[e % kGroupEntries] = bits;
    }
    const auto before = static_cast<std::uint16_t>(column - step);
    if (i == 0) fill.panel_columns[std::int64_t{place.panel} * kWarp + to] = before;
    if (e == 0) tile_columns[tile * kWarp + to] = before;
    if (i + 1 < piece_entries && entry + 1 < entries) return;
    for (int t = tile + 1; t < tiles; ++t) tile_columns[t * kWarp + to] = static_cast<std::uint16_t>(column);
    if (entry + 1 < entries) return;
    for (int p = piece + 1; p < kEntryPieces; ++p) leave_empty(p, column);
  };
  if (entries == 0 && lane == 0) {
    for (int p = 0; p < kEntryPieces; ++p) leave_empty(p, 0);
  }
  each_entry(dense + row * cols, cols, lane,
             [&](int column, int step, int fillers, int entry, std::uint16_t bits) {
               for (int f = 0; f < fillers; ++f)
                 put(entry + f, kMostStep, column - step - kMostStep * (fillers - 1 - f), std::uint16_t{0});
               put(entry + fillers, step, column, bits);
             });
}

__global__ void pick_columns_kernel(const std::uint16_t* tile_columns, const std::uint32_t* first_tiles,
                                    int ranges, std::uint16_t* range_columns) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= ranges * kWarp) return;
  const std::uint32_t tile = first_tiles[i / kWarp];
  range_columns[i] =
      tile == EntryWeight::kNoRow ? std::uint16_t{0} : tile_columns[std::int64_t{tile} * kWarp + i % kWarp];
}

}  // namespace

void expand_entries(const EntryWeight& weight, std::int64_t cols, void* dense, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(weight.blocks * kEntryWarps);
  const bool pairs = cols % 2 == 0 && reinterpret_cast<std::uintptr_t>(dense) % 4 == 0;
  expand_entries_kernel<<<blocks, kExpandWarps * kWarp, 0, stream>>>(weight, static_cast<int>(cols), pairs,
                                                                     static_cast<std::uint16_t*>(dense));
  check_launch("expand_entries");
}

void count_entries(const void* dense, std::int64_t rows, std::int64_t cols, std::uint32_t* counts,
                   cudaStream_t stream) {
  count_entries_kernel<<<row_grid(rows), kBuildThreads, 0, stream>>>(static_cast<const std::uint16_t*>(dense),
                                                                     rows, static_cast<int>(cols), counts);
  check_launch("count_entries");
}

void fill_entries(const void* dense, std::int64_t rows, std::int64_t cols, const EntryFill& fill,
                  cudaStream_t stream) {
  fill_entries_kernel<<<row_grid(rows), kBuildThreads, 0, stream>>>(static_cast<const std::uint16_t*>(dense),
                                                                    rows, static_cast<int>(cols), fill);
  check_launch("fill_entries");
}

void pick_columns(const std::uint16_t* tile_columns, const std::uint32_t* first_tiles, std::int64_t ranges,
                  std::uint16_t* range_columns, cudaStream_t stream) {
  const auto grid = static_cast<unsigned>((ranges * kWarp + kBuildThreads - 1) / kBuildThreads);
  pick_columns_kernel<<<grid, kBuildThreads, 0, stream>>>(tile_columns, first_tiles, static_cast<int>(ranges),
                                                          range_columns);
  check_launch("pick_columns");
}

void multiply_entries(const EntryWeight& weight, const CompactArgs& args, cudaStream_t stream) {
  static const int most_shared = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  const auto shared_of = [&](int tokens) {  // inputs, sums, lengths and rows
    const std::int64_t inputs = (args.cols * 2 * tokens + 15) / 16 * 16;
    const std::int64_t sums =
        weight.most_panels * tokens * kPanelEntryRows * kEntryWarps * std::int64_t{sizeof(float)};
    return std::array{static_cast<int>(inputs), static_cast<int>(inputs + sums),
                      static_cast<int>(inputs + sums + 4 * weight.most_panels * (1 + kPanelEntryRows))};
  };
  const auto launch = [&](const CompactArgs& some, auto zero, auto tokens) {
    const auto [sums_at, lengths_at, bytes] = shared_of(decltype(tokens)::value);
    const auto kernel = entry_kernel<decltype(zero), decltype(tokens)::value>;
    // No more shared memory than one block of threads needs. With more, a launch that begins while the one before ends puts
    // two of its blocks, which have equal shares of the work, on one multiprocessor and none on another.
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxL1);
    launch_early(kernel, dim3(static_cast<unsigned>(weight.blocks)), kEntryWarps * kWarp, bytes, stream,
                 weight, some, sums_at, lengths_at);
    check_launch("a product with entries");
  };
  const std::int64_t most = shared_of(4)[2] <= most_shared ? kMostEntryTokens : 2;
  for (std::int64_t first = 0; first < args.tokens && args.rows > 0; first += most) {
    const CompactArgs some = tokens_of(args, first, std::min(most, args.tokens - first));
    const auto typed = [&](auto zero) {
      if (some.tokens == 1) return launch(some, zero, std::integral_constant<int, 1>{});
      if (some.tokens == 2) return launch(some, zero, std::integral_constant<int, 2>{});
      launch(some, zero, std::integral_constant<int, 4>{});
    };
    args.dtype == DType::kF16 ? typed(__half{}) : typed(__nv_bfloat16{});
  }
}

}  // namespace swiftprune::cuda
