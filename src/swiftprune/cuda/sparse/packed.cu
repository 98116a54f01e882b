// Few tokens times packed weights: a warp takes 64-column blocks of a panel of 16 rows, turns them into the
// fragments of tensor core products in registers, and the warps of a block of threads share the columns of
// one panel. Every byte of the weights is read once, whatever the number of tokens. Bitmaps meet tensor cores
// this way in SpInfer (Fan et al., EuroSys 2025).
#include <algorithm>

#include "swiftprune/cuda/sparse/packed_batch.cuh"
#include "swiftprune/cuda/sparse/packed_bitmap.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kAhead = 4;          // blocks of 2:4 in registers
constexpr int kBitmapWarps = 32;   // of a multiprocessor, by their registers
constexpr int kTwoFourWarps = 28;  // the same
constexpr int kTwoFourPanelWarps = 12;
constexpr int kMostDirect = 4;                                         // tokens
constexpr int kSlotsInputs = 3;                                        // blocks of x in shared memory, a warp
constexpr int kInputPitch = static_cast<int>(kCompactBlock) * 2 + 16;  // bytes of a row: no bank conflicts

// One block of x, [tokens, 64 columns], to shared memory; columns that do not exist become zero. kWhole: all
// do, and rows are aligned.
template <class T, bool kWhole>
__device__ __forceinline__ void fetch_inputs(const CompactArgs& args, int b, std::byte* slot, int lane) {
  constexpr int kChunks = static_cast<int>(kCompactBlock) / 8;
  const T* x = static_cast<const T*>(args.x) + kCompactBlock * b;
#pragma unroll 1
  for (int i = lane; i < kChunks * static_cast<int>(args.tokens); i += kWarp) {
    const int token = i / kChunks;
    const int chunk = i % kChunks;
    const T* source = x + token * args.x_stride + 8 * chunk;
    std::byte* target = slot + token * kInputPitch + 16 * chunk;
    if constexpr (kWhole) {
      copy_async(shared_address(target), source);
    } else {
      for (int e = 0; e < 8; ++e) {
        const bool inside = kCompactBlock * b + 8 * chunk + e < args.cols;
        reinterpret_cast<T*>(target)[e] = inside ? source[e] : from_float<T>(0.0f);
      }
    }
  }
}
__device__ __forceinline__ std::uint32_t input_pair(const std::byte* row, int pair) {
  return reinterpret_cast<const std::uint32_t*>(row)[pair];
}

// -- Bitmap -------------------------------------------------------------------------------------------------

template <class T, int kTiles, bool kWhole, Stored kStored>
__global__ __launch_bounds__(kMostWarps* kWarp, 2) void bitmap_kernel(BitmapWeight weight, CompactArgs args,
                                                                      int blocks, int slot_bytes,
                                                                      int warp_bytes) {
  extern __shared__ uint4 dynamic[];
  __shared__ alignas(128) Spread table[16];
  let_next_start();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int g = lane / 4;
  auto* const shared = reinterpret_cast<std::byte*>(dynamic);
  std::byte* const own = shared + warp * warp_bytes;
  const int first = blocks * warp / warps;
  const int last = blocks * (warp + 1) / warps;
  BitmapSum<T, kTiles, kWhole, kStored> part(weight, blockIdx.x, blocks, first, last, own, slot_bytes, lane);
  if (threadIdx.x < 16) table[threadIdx.x] = table_entry<kStored>(threadIdx.x);
  __syncthreads();
  wait_for_inputs();

  const T* x[kTiles];
#pragma unroll
  for (int j = 0; j < kTiles; ++j)
    x[j] = static_cast<const T*>(args.x) + token_of(args, j, g) * args.x_stride;
  float sum[kTiles][4] = {};
  part.add_to(sum, x, static_cast<int>(args.cols), table);
  keep_sums<kTiles>(sum, reinterpret_cast<float*>(own), 2 * g, 2 * g + 1, lane);
  __syncthreads();
  write_sums<T, kTiles>(args, shared, warp_bytes, weight.scales, kWidening<T, kStored>);
}

// -- 2:4 ----------------------------------------------------------------------------------------------------

// kDirect: x is read from global memory where it is needed, which is faster for very few tokens.
template <class T, int kTiles, bool kWhole, bool kDirect>
__global__ __launch_bounds__(kMostWarps* kWarp, 1) void two_four_kernel(TwoFourWeight weight,
                                                                        CompactArgs args, int blocks,
                                                                        int warp_bytes) {
  extern __shared__ uint4 dynamic[];
  let_next_start();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  auto* const shared = reinterpret_cast<std::byte*>(dynamic);
  std::byte* const own = shared + warp * warp_bytes;
  const int slot_bytes = kInputPitch * static_cast<int>(args.tokens);
  const int first = blocks * warp / warps;
  const int last = blocks * (warp + 1) / warps;
  const std::int64_t panel_block = std::int64_t{blockIdx.x} * blocks;
  uint4 a[kAhead][2];
  std::uint32_t indices[kAhead];
  const auto fetch = [&](int slot, int b) {
    const uint4* source = weight.values + (panel_block + b) * 2 * kWarp + lane;
    a[slot][0] = __ldcs(source);
    a[slot][1] = __ldcs(source + kWarp);
    indices[slot] = __ldcs(weight.indices + (panel_block + b) * kWarp + lane);
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (first + i < last) fetch(i, first + i);
  }
  wait_for_inputs();
#pragma unroll
  for (int i = 0; i < kSlotsInputs - 1; ++i) {
    if (!kDirect && first + i < last) fetch_inputs<T, kWhole>(args, first + i, own + i * slot_bytes, lane);
    commit_copies();
  }

  float sum[kTiles][4] = {};
  int slot = 0;
  int free_slot = kSlotsInputs - 1;
  for (int base = first; base < last; base += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int b = base + i;
      if (b < last) {
        if constexpr (!kDirect) {
          if (b + kSlotsInputs - 1 < last) {
            fetch_inputs<T, kWhole>(args, b + kSlotsInputs - 1, own + free_slot * slot_bytes, lane);
          }
          commit_copies();
          wait_copies<kSlotsInputs - 1>();
          __syncwarp();
        }
        const std::byte* inputs = own + slot * slot_bytes;
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
          const int token = token_of(args, j, g);
          const std::byte* row = inputs + token * kInputPitch;
          const auto* direct = reinterpret_cast<const std::byte*>(static_cast<const T*>(args.x) +
                                                                  token * args.x_stride + kCompactBlock * b);
          std::uint32_t x[2][4];
#pragma unroll
          for (int k = 0; k < 8; ++k) x[k / 4][k % 4] = input_pair(kDirect ? direct : row, 4 * k + t);
          multiply_24<0>(sum[j], a[i][0], x[0], indices[i], T{});
          multiply_24<1>(sum[j], a[i][1], x[1], indices[i], T{});
        }
        if (b + kAhead < last) fetch(i, b + kAhead);
        if constexpr (!kDirect) __syncwarp();
        free_slot = slot;
        slot = slot + 1 == kSlotsInputs ? 0 : slot + 1;
      }
    }
  }
  wait_copies<0>();
  __syncwarp();
  keep_sums<kTiles>(sum, reinterpret_cast<float*>(own), g, g + 8, lane);
  __syncthreads();
  write_sums<T, kTiles>(args, shared, warp_bytes);
}

// -- Batches ------------------------------------------------------------------------------------------------

// kMostTokens: of a batch. Warps of 2:4 hold what comes next in registers, those of bitmaps in shared memory.
template <class Number, int kMostTokens>
class TwoFourBatch {
 public:
  using Weight = TwoFourWeight;
  using T = Number;
  static constexpr int kTokens = kMostTokens;
  static constexpr int kStepBlocks = 2;
  static constexpr int kPitch = kStepBlocks * static_cast<int>(kCompactBlock) * 2 + 16;
  static constexpr int kSlots = kTokens > 32 ? 3 : 4;
  static constexpr int kUnroll = 2;  // steps
  static constexpr int kResident = kTokens > 32 ? 2 : 3;
  static __device__ int row_of(int g, int second) { return g + 8 * second; }
  static __device__ float scaled(const Weight&, float sum, std::int64_t) { return sum; }

  __device__ TwoFourBatch(const Weight& weight, int panel, int blocks, int first, int last, std::byte*,
                          int lane)
      : values_(weight.values + std::int64_t{panel} * blocks * 2 * kWarp + lane),
        indices_(weight.indices + std::int64_t{panel} * blocks * kWarp + lane),
        last_(min(kStepBlocks * last, blocks)) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) load(i, kStepBlocks * first + i);
  }
  __device__ __forceinline__ void fetch(int) {}
  // at: step modulo kUnroll
  __device__ __forceinline__ void multiply(int at, int step, const std::byte* inputs,
                                           float (&sum)[kTokens / 8][4], int lane) {
    // Lanes 8i .. 8i + 7 name the rows of matrix i: eight tokens' inputs of eight columns.
    const unsigned address = shared_address(inputs) + lane % 8 * kPitch + lane / 8 * 16;
#pragma unroll
    for (int i = 0; i < kStepBlocks; ++i) {
      const int held = kStepBlocks * at + i;
      const int b = kStepBlocks * step + i;
      if (b < last_) {
#pragma unroll
        for (int j = 0; j < kTokens / 8; ++j) {
          std::uint32_t x[2][4];
          load_matrices(x[0], address + 8 * j * kPitch + 128 * i);
          load_matrices(x[1], address + 8 * j * kPitch + 128 * i + 64);
          multiply_24<0>(sum[j], a_[held][0], x[0], words_[held], T{});
          multiply_24<1>(sum[j], a_[held][1], x[1], words_[held], T{});
        }
      }
      load(held, b + kHeld);
    }
  }

 private:
  static constexpr int kHeld = kStepBlocks * kUnroll;
  __device__ __forceinline__ void load(int i, int b) {
    if (b >= last_) return;
    a_[i][0] = __ldcs(values_ + b * 2 * kWarp);
    a_[i][1] = __ldcs(values_ + b * 2 * kWarp + kWarp);
    words_[i] = __ldcs(indices_ + b * kWarp);
  }
  const uint4* values_;
  const std::uint32_t* indices_;
  int last_;
  uint4 a_[kHeld][2];
  std::uint32_t words_[kHeld];
};

struct BitmapBatchWeight {
  BitmapWeight weight;
  int slot_bytes;
};
template <class Number, int kMostTokens, Stored kStored>
class BitmapBatch {
 public:
  using Weight = BitmapBatchWeight;
  using T = Number;
  static constexpr int kTokens = kMostTokens;
  static constexpr int kStepBlocks = 1;
  static constexpr int kPitch = kInputPitch;
  static constexpr int kSlots = 4;
  static constexpr int kUnroll = 1;
  static constexpr int kResident = 3;
  static __device__ int row_of(int g, int second) { return 2 * g + second; }
  static __device__ float scaled(const Weight& weight, float sum, std::int64_t row) {
    return kStored == Stored::kHalf ? sum : sum * weight.weight.scales[row] * kWidening<T, kStored>;
  }

  __device__ BitmapBatch(const Weight& weight, int panel, int blocks, int first, int last, std::byte* own,
                         int lane)
      : own_(own),
        slot_bytes_(weight.slot_bytes),
        first_(first),
        stream_(weight.weight, std::int64_t{panel} * blocks + first, last - first, lane),
        decoder_(table(), lane / 4) {
    if (threadIdx.x < 16)
      table()[threadIdx.x] = table_entry<kStored>(threadIdx.x);  // the first barrier is ahead
  }
  __device__ __forceinline__ void fetch(int step) {
    stream_.fetch(shared_address(own_ + (step - first_) % kSlots * slot_bytes_));
  }
  __device__ __forceinline__ void multiply(int, int step, const std::byte* inputs,
                                           float (&sum)[kTokens / 8][4], int lane) const {
    const std::byte* chunk = own_ + (step - first_) % kSlots * slot_bytes_;
    const int t = lane % 4;
    const unsigned values = shared_address(chunk + kValuesAt);
    const Words words = load_words(chunk + 32 * t);
    const uint4 starts = *reinterpret_cast<const uint4*>(chunk + 4 * kPairs + 16 * t);
    const std::uint32_t two_starts[4] = {starts.x, starts.y, starts.z, starts.w};
    std::uint32_t a[4][4];
#pragma unroll
    for (int f = 0; f < 4; ++f) {
      decoder_.template decode_as<kStored, T>(words.v[2 * f], values + (two_starts[f] & 0xffffu), a[f][0],
                                              a[f][1]);
      decoder_.template decode_as<kStored, T>(words.v[2 * f + 1], values + (two_starts[f] >> 16), a[f][2],
                                              a[f][3]);
    }
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      const Words x = load_words(inputs + (8 * j + lane / 4) * kPitch + 32 * t);
#pragma unroll
      for (int f = 0; f < 4; ++f) multiply_fragment(sum[j], a[f], x.v[2 * f], x.v[2 * f + 1]);
    }
  }

 private:
  static __device__ __forceinline__ Spread* table() {
    __shared__ alignas(128) Spread table[16];
    return table;
  }
  static __device__ __forceinline__ void multiply_fragment(float (&c)[4], const std::uint32_t (&a)[4],
                                                           std::uint32_t b0, std::uint32_t b1) {
    cuda::multiply(c, a, b0, b1, T{});
  }
  std::byte* own_;
  int slot_bytes_, first_;
  ChunkStream stream_;
  Decoder decoder_;
};

}  // namespace

bool batch_bitmap(const BitmapWeight& weight, const CompactArgs& args, cudaStream_t stream) {
  if (args.tokens > kMostBitmapBatch || !has_batches()) return false;
  const int slot_bytes = 16 * static_cast<int>(weight.most + 1);
  with_stored(weight.stored, [&](auto stored) {
    const auto launch = [&](auto zero) {
      using Policy = BitmapBatch<decltype(zero), static_cast<int>(kMostBitmapBatch), decltype(stored)::value>;
      launch_batch<Policy>({weight, slot_bytes}, args, Policy::kSlots * slot_bytes, stream);
    };
    args.dtype == DType::kF16 ? launch(__half{}) : launch(__nv_bfloat16{});
  });
  return true;
}

bool batch_two_four(const TwoFourWeight& weight, const CompactArgs& args, cudaStream_t stream) {
  if (args.tokens > kMostTwoFourBatch || !has_batches()) return false;
  const auto typed = [&](auto zero) {
    const auto launch = [&](auto tokens) {
      launch_batch<TwoFourBatch<decltype(zero), decltype(tokens)::value>>(weight, args, 0, stream);
    };
    if (args.tokens <= 8) return launch(std::integral_constant<int, 8>{});
    if (args.tokens <= 16) return launch(std::integral_constant<int, 16>{});
    if (args.tokens <= 32) return launch(std::integral_constant<int, 32>{});
    launch(std::integral_constant<int, 64>{});
  };
  args.dtype == DType::kF16 ? typed(__half{}) : typed(__nv_bfloat16{});
  return true;
}

void multiply_bitmap(const BitmapWeight& weight, const CompactArgs& args, cudaStream_t stream) {
  if (args.tokens == 0 || args.rows == 0) return;
  const int blocks = blocks_of(args.cols);
  const std::int64_t panels = panels_of(args.rows);
  const int slot_bytes = 16 * static_cast<int>(weight.most + 1);  // decoding reads beyond the last value
  with_case(args, [&](auto zero, auto tiles, auto whole) {
    constexpr int kTiles = decltype(tiles)::value;
    const int warp_bytes = std::max(kChunkSlots * slot_bytes, kSumBytes<kTiles>);
    const int warps = warps_per_panel(panels, blocks, kBitmapWarps, warp_bytes);
    with_stored(weight.stored, [&](auto stored) {
      launch_panels(bitmap_kernel<decltype(zero), kTiles, decltype(whole)::value, decltype(stored)::value>,
                    panels, warps, warps * warp_bytes, stream, weight, args, blocks, slot_bytes, warp_bytes);
    });
  });
}

void multiply_two_four(const TwoFourWeight& weight, const CompactArgs& args, cudaStream_t stream) {
  if (args.tokens == 0 || args.rows == 0) return;
  const int blocks = blocks_of(args.cols);
  const std::int64_t panels = panels_of(args.rows);
  with_case(args, [&](auto zero, auto tiles, auto whole) {
    constexpr int kTiles = decltype(tiles)::value;
    const int warp_bytes =
        std::max(kSlotsInputs * kInputPitch * static_cast<int>(args.tokens), kSumBytes<kTiles>);
    constexpr bool kWhole = decltype(whole)::value;
    const int warps = warps_per_panel(panels, blocks, kTwoFourWarps, warp_bytes, kTwoFourPanelWarps);
    const auto launch = [&](auto kernel) {
      launch_panels(kernel, panels, warps, warps * warp_bytes, stream, weight, args, blocks, warp_bytes);
    };
    if (kTiles == 1 && kWhole && args.tokens <= kMostDirect) {
      launch(two_four_kernel<decltype(zero), 1, true, true>);
    } else {
      launch(two_four_kernel<decltype(zero), kTiles, kWhole, false>);
    }
  });
}

}  // namespace swiftprune::cuda
