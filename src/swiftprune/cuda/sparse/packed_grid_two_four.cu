// Few tokens, and batches, times 2:4 of codes of up to 4 bits on a grid: the counterpart of packed_grid.cu with sparse
// tensor core products, which takes two blocks of columns at a time, so that a lane reads 16 bytes of codes.
#include "swiftprune/cuda/sparse/packed_batch.cuh"
#include "swiftprune/cuda/sparse/packed_codes.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kUnitSteps = TwoFourGridWeight::kUnitCols / 32;
constexpr int kUnitWarps = 12;  // of a block of threads
constexpr int kUnitBlocks = 2;  // of threads, of a multiprocessor, by their registers
constexpr int kUnitsAhead = 2;  // in registers

// What a lane reads of one unit: codes, indices, and scales and zero points of rows 2g and 2g + 1 for each part of it
// that has its own.
template <int kParts>
struct Unit {
  uint4 codes;
  uint2 indices;
  std::uint32_t scales[kParts];  // two of F16
  std::uint16_t zeros[kParts];   // two bytes, where the grid has them
};
// Of one panel, for one lane.
template <int kParts, bool kZeros>
class UnitStream {
 public:
  __device__ UnitStream(const TwoFourGridWeight& weight, std::int64_t panel, int units, int lane)
      : codes_(weight.grid.codes + panel * units * kWarp + lane),
        indices_(weight.indices + panel * units * kWarp + lane),
        scales_(reinterpret_cast<const std::uint32_t*>(weight.grid.scales) +
                panel * weight.grid.groups * (kRows / 2) + lane / 4),
        zeros_(reinterpret_cast<const std::uint16_t*>(weight.grid.zeros) +
               panel * weight.grid.groups * (kRows / 2) + lane / 4),
        grid_(weight.grid) {}
  __device__ __forceinline__ Unit<kParts> fetch(int u) const {
    Unit<kParts> unit;
    unit.codes = __ldcs(codes_ + u * kWarp);
    unit.indices = __ldcs(indices_ + u * kWarp);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int step = part * kUnitSteps / kParts;
      const int at = grid_.group_of(2 * u + step / 2, step % 2) * (kRows / 2);
      unit.scales[part] = __ldg(scales_ + at);
      if constexpr (kZeros) unit.zeros[part] = __ldg(zeros_ + at);
    }
    return unit;
  }

 private:
  const uint4* codes_;
  const uint2* indices_;
  const std::uint32_t* scales_;
  const std::uint16_t* zeros_;
  const GridWeight& grid_;
};

// A lane's inputs of one step of 32 columns: pairs t, t + 4, t + 8, t + 12; those beyond the last column are zero.
template <class T, bool kWhole>
__device__ __forceinline__ void load_pairs(const T* x, int column, int cols, int t,
                                           std::uint32_t (&pairs)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = column + 8 * i + 2 * t;
    if constexpr (kWhole) {
      pairs[i] = *reinterpret_cast<const std::uint32_t*>(x + at);
    } else {
      const auto* bits = reinterpret_cast<const std::uint16_t*>(x + at);
      pairs[i] =
          at < cols ? bits[0] | static_cast<std::uint32_t>(bits[1]) << 16 : 0u;  // whole groups of four
    }
  }
}

// sum += scales·((codes - zeros) · inputs) of one unit. load(step, tile, pairs): a lane's inputs
template <class T, int kTiles, int kParts, bool kZeros, class Load>
__device__ __forceinline__ void multiply_unit(const Unit<kParts>& unit, std::uint32_t middle,
                                              float (&sum)[kTiles][4], const Load& load) {
  const std::uint32_t words[kUnitSteps] = {unit.codes.x, unit.codes.y, unit.codes.z, unit.codes.w};
  float part[kTiles][4] = {};
#pragma unroll
  for (int s = 0; s < kUnitSteps; ++s) {
    const int of = s * kParts / kUnitSteps;
    const ZeroPairs zeros = zero_pairs<T, kZeros>(middle, kZeros ? unit.zeros[of] : 0u);
    const uint4 a = {code_pair<T>(words[s], 0, zeros.upper), code_pair<T>(words[s], 1, zeros.lower),
                     code_pair<T>(words[s], 2, zeros.upper), code_pair<T>(words[s], 3, zeros.lower)};
    const std::uint32_t indices = s < 2 ? unit.indices.x : unit.indices.y;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      std::uint32_t pairs[4];
      load(s, j, pairs);
      if (s % 2 == 0) {
        multiply_24<0>(part[j], a, pairs, indices, T{});
      } else {
        multiply_24<1>(part[j], a, pairs, indices, T{});
      }
    }
    if ((s + 1) % (kUnitSteps / kParts) == 0) add_scaled<kTiles>(unit.scales[of], part, sum);
  }
}

// Up to eight tokens. kParts: of a unit, with scales of their own. kWhole: all columns exist and pairs of x are aligned.
template <class T, bool kWhole, int kParts, bool kZeros>
__global__ __launch_bounds__(kUnitWarps* kWarp,
                             kUnitBlocks) void two_four_grid_kernel(TwoFourGridWeight weight,
                                                                    CompactArgs args, int units,
                                                                    int warp_bytes) {
  extern __shared__ uint4 dynamic[];
  let_next_start();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  auto* const shared = reinterpret_cast<std::byte*>(dynamic);
  const int first = units * warp / warps;
  const int last = units * (warp + 1) / warps;  // beyond first: warps_per_panel() gives each a unit
  const UnitStream<kParts, kZeros> stream(weight, blockIdx.x, units, lane);
  const std::uint32_t middle = twice<T>(weight.grid.middle);
  Unit<kParts> held[kUnitsAhead];
#pragma unroll
  for (int i = 0; i < kUnitsAhead; ++i) held[i] = stream.fetch(min(first + i, last - 1));
  wait_for_inputs();

  const T* const x = static_cast<const T*>(args.x) + token_of(args, 0, g) * args.x_stride;
  float sum[1][4] = {};
  const auto take = [&](const Unit<kParts>& unit, int u) {
    multiply_unit<T, 1, kParts, kZeros>(unit, middle, sum, [&](int s, int, std::uint32_t(&pairs)[4]) {
      load_pairs<T, kWhole>(x, TwoFourGridWeight::kUnitCols * u + 32 * s, static_cast<int>(args.cols), t,
                            pairs);
    });
  };
  int u = first;
  // Without a branch inside, so that what comes next is fetched early; the last ones are fetched more than once.
  for (; u + kUnitsAhead <= last; u += kUnitsAhead) {
#pragma unroll
    for (int i = 0; i < kUnitsAhead; ++i) {
      const Unit<kParts> unit = held[i];
      held[i] = stream.fetch(min(u + i + kUnitsAhead, last - 1));
      take(unit, u + i);
    }
  }
#pragma unroll
  for (int i = 0; i < kUnitsAhead - 1; ++i) {
    if (u + i < last) take(held[i], u + i);
  }
  keep_sums<1>(sum, reinterpret_cast<float*>(shared + warp * warp_bytes), 2 * g, 2 * g + 1, lane);
  __syncthreads();
  write_sums<T, 1>(args, shared, warp_bytes);
}

// A step of a batch is a unit, whatever its groups.
template <class Number, int kMostTokens, bool kZeros>
class TwoFourGridBatch {
 public:
  using Weight = TwoFourGridWeight;
  using T = Number;
  static constexpr int kTokens = kMostTokens;
  static constexpr int kStepBlocks = TwoFourGridWeight::kUnitCols / static_cast<int>(kCompactBlock);
  static constexpr int kPitch = kStepBlocks * static_cast<int>(kCompactBlock) * 2 + 16;
  static constexpr int kSlots = kTokens > 32 ? 3 : 4;
  static constexpr int kUnroll = 2;  // steps
  static constexpr int kResident = kTokens > 16 ? 2 : 3;
  static __device__ int row_of(int g, int second) { return 2 * g + second; }
  static __device__ float scaled(const Weight&, float sum, std::int64_t) { return sum; }

  __device__ TwoFourGridBatch(const Weight& weight, int panel, int blocks, int first, int last, std::byte*,
                              int lane)
      : stream_(weight, panel, (blocks + kStepBlocks - 1) / kStepBlocks, lane),
        middle_(twice<T>(weight.grid.middle)),
        last_(last) {
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) load(i, first + i);
  }
  __device__ __forceinline__ void fetch(int) {}
  // at: step modulo kUnroll
  __device__ __forceinline__ void multiply(int at, int step, const std::byte* inputs,
                                           float (&sum)[kTokens / 8][4], int lane) {
    // Lanes 8i .. 8i + 7 name the rows of matrix i: eight tokens' inputs of eight columns.
    const unsigned address = shared_address(inputs) + lane % 8 * kPitch + lane / 8 * 16;
    multiply_unit<T, kTokens / 8, kUnitSteps, kZeros>(
        held_[at], middle_, sum, [&](int s, int j, std::uint32_t(&pairs)[4]) {
          load_matrices(pairs, address + 8 * j * kPitch + 64 * s);
        });
    load(at, step + kUnroll);
  }

 private:
  __device__ __forceinline__ void load(int i, int step) {
    if (step < last_) held_[i] = stream_.fetch(step);
  }
  UnitStream<kUnitSteps, kZeros> stream_;
  std::uint32_t middle_;
  int last_;
  Unit<kUnitSteps> held_[kUnroll];
};

}  // namespace

bool batch_two_four_grid(const TwoFourGridWeight& weight, const CompactArgs& args, cudaStream_t stream) {
  if (args.tokens > kMostTwoFourBatch || !has_batches()) return false;
  const auto typed = [&](auto zero, auto zeros) {
    const auto launch = [&](auto tokens) {
      launch_batch<TwoFourGridBatch<decltype(zero), decltype(tokens)::value, decltype(zeros)::value>>(
          weight, args, 0, stream);
    };
    if (args.tokens <= 8) return launch(std::integral_constant<int, 8>{});
    if (args.tokens <= 16) return launch(std::integral_constant<int, 16>{});
    if (args.tokens <= 32) return launch(std::integral_constant<int, 32>{});
    launch(std::integral_constant<int, 64>{});
  };
  const auto either = [&](auto zero) {
    weight.grid.zeros != nullptr ? typed(zero, std::true_type{}) : typed(zero, std::false_type{});
  };
  args.dtype == DType::kF16 ? either(__half{}) : either(__nv_bfloat16{});
  return true;
}

void multiply_two_four_grid(const TwoFourGridWeight& weight, const CompactArgs& all, cudaStream_t stream) {
  if (all.rows == 0) return;
  constexpr std::int64_t kTokens = 8;
  const int units = grid_units_of(all.cols);
  const std::int64_t panels = panels_of(all.rows);
  constexpr int kBytes = kSumBytes<1>;
  const int warps = warps_per_panel(panels, units, kUnitBlocks * kUnitWarps, kBytes, kUnitWarps);
  const bool whole =
      all.cols % TwoFourGridWeight::kUnitCols == 0 && all.x_stride % 8 == 0 && is_aligned(all.x);
  for (std::int64_t first = 0; first < all.tokens; first += kTokens) {
    const CompactArgs args = tokens_of(all, first, std::min(kTokens, all.tokens - first));
    const auto typed = [&](auto zero, auto parts) {
      using T = decltype(zero);
      constexpr int kParts = decltype(parts)::value;
      const auto launch = [&](auto kernel) {
        launch_panels(kernel, panels, warps, warps * kBytes, stream, weight, args, units, kBytes);
      };
      const bool zeros = weight.grid.zeros != nullptr;
      if (whole && zeros) return launch(two_four_grid_kernel<T, true, kParts, true>);
      if (whole) return launch(two_four_grid_kernel<T, true, kParts, false>);
      if (zeros) return launch(two_four_grid_kernel<T, false, kParts, true>);
      launch(two_four_grid_kernel<T, false, kParts, false>);
    };
    const auto parted = [&](auto zero) {
      if (weight.grid.shift == 5) return typed(zero, std::integral_constant<int, 4>{});
      if (weight.grid.shift == 6) return typed(zero, std::integral_constant<int, 2>{});
      typed(zero, std::integral_constant<int, 1>{});
    };
    args.dtype == DType::kF16 ? parted(__half{}) : parted(__nv_bfloat16{});
  }
}

}  // namespace swiftprune::cuda
