// Packed experts of a few tokens without a word from the host: a block of threads takes a panel of 16 rows of an expert
// that a token chose, whose number it reads on the device, and its warps share the panel's columns (packed_grid.cuh,
// packed_bitmap.cuh). Tensor core products take one token at a time: what binds is the reading of the weights.
#include "swiftprune/cuda/forward/packed_experts.h"

#include <algorithm>

#include "swiftprune/cuda/forward/activations.cuh"
#include "swiftprune/cuda/sparse/packed_bitmap.cuh"
#include "swiftprune/cuda/sparse/packed_grid.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kExpertWarps = 12;  // of a block of threads
constexpr int kExpertBlocks = 2;  // of threads, of a multiprocessor, by their registers

// A warp's part of a panel: blocks first .. last - 1, at least one.
struct PanelPart {
  std::int64_t panel;
  int blocks;  // of the panel
  int first, last;
};

// Policies: Weight, T; sum += of rows 2g and 2g + 1, for a warp whose lanes all have the inputs `x`; what scales the sums
// of a row.
template <class Number, bool kWhole, int kBits, bool kZeros>
struct GridExperts {
  using T = Number;
  using Weight = GridWeight;
  static constexpr bool kDecodes = false;

  static __device__ __forceinline__ void add(const Weight& weight, const PanelPart& part, const T* x,
                                             int cols, std::byte*, int, const Spread*, int lane,
                                             float (&sum)[1][4]) {
    const T* const rows[1] = {x};
    GridSum<T, 1, kWhole, kBits, 2, kZeros>(weight, part.panel, part.blocks, part.first, part.last, lane)
        .add_to(sum, rows, cols);
  }
  static __device__ __forceinline__ float scale(const Weight&, std::int64_t) { return 1.0f; }
};
template <class Number, bool kWhole, Stored kStoredAs>
struct BitmapExperts {
  using T = Number;
  using Weight = BitmapWeight;
  static constexpr bool kDecodes = true;
  static constexpr Stored kStored = kStoredAs;

  static __device__ __forceinline__ void add(const Weight& weight, const PanelPart& part, const T* x,
                                             int cols, std::byte* own, int slot_bytes, const Spread* table,
                                             int lane, float (&sum)[1][4]) {
    const T* const rows[1] = {x};
    BitmapSum<T, 1, kWhole, kStored>(weight, part.panel, part.blocks, part.first, part.last, own, slot_bytes,
                                     lane)
        .add_to(sum, rows, cols, table);
  }
  static __device__ __forceinline__ float scale(const Weight& weight, std::int64_t row) {
    return kStored == Stored::kHalf ? 1.0f : weight.scales[row] * kWidening<T, kStored>;
  }
};

// What bitmaps are decoded by, for all warps.
template <class Policy>
__device__ __forceinline__ void fill_table(Spread* table) {
  if constexpr (Policy::kDecodes) {
    if (threadIdx.x < 16) table[threadIdx.x] = table_entry<Policy::kStored>(threadIdx.x);
    __syncthreads();
  }
}

__device__ __forceinline__ float activated_by(ActivationKind kind, float x) {
  using enum ActivationKind;
  switch (kind) {
    case kSilu:
      return activated<kSilu>(x);
    case kGelu:
      return activated<kGelu>(x);
    case kGeluTanh:
      return activated<kGeluTanh>(x);
    case kRelu:
      return activated<kRelu>(x);
    case kReluSquared:
      return activated<kReluSquared>(x);
    case kQuickGelu:
      return activated<kQuickGelu>(x);
    case kClippedGelu:
      return activated<kClippedGelu>(x);
    case kMish:
      return activated<kMish>(x);
  }
  return x;
}

// Rows of the panel from the first token's column of a warp's sums.
__device__ __forceinline__ void keep_rows(float upper, float lower, float (&rows)[kRows], int lane) {
  if (lane % 4 != 0) return;
  rows[lane / 4 * 2] = upper;
  rows[lane / 4 * 2 + 1] = lower;
}

// A block of threads 16 inner channels of a token's expert: half of its warps gate, where there is one, the others up.
template <class Policy>
__global__ __launch_bounds__(kExpertWarps* kWarp, kExpertBlocks) void packed_up_kernel(
    FewExpertsArgs args, typename Policy::Weight weight, int blocks, int slot_bytes, ActivationKind kind,
    const typename Policy::T* x, typename Policy::T* inner) {
  extern __shared__ uint4 dynamic[];
  __shared__ alignas(128) Spread table[16];
  __shared__ float sums[kExpertWarps][kRows];
  fill_table<Policy>(table);
  start_early();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int parts = args.gated ? 2 : 1;
  const int warps = static_cast<int>(blockDim.x) / kWarp / parts;  // of a part
  const std::int64_t pair = blockIdx.y;
  const std::int64_t first_part = std::int64_t{args.chosen[pair]} * parts;
  const std::int64_t panels = gridDim.x;
  const int at = warp % warps;
  const PanelPart part{(first_part + warp / warps) * panels + blockIdx.x, blocks, blocks * at / warps,
                       blocks * (at + 1) / warps};
  float sum[1][4] = {};
  Policy::add(weight, part, x + pair / args.top_k * args.hidden, static_cast<int>(args.hidden),
              reinterpret_cast<std::byte*>(dynamic) + warp * kChunkSlots * slot_bytes, slot_bytes, table,
              lane, sum);
  keep_rows(sum[0][0], sum[0][2], sums[warp], lane);
  __syncthreads();
  const int r = static_cast<int>(threadIdx.x);
  const std::int64_t row = std::int64_t{blockIdx.x} * kRows + r;
  if (r >= kRows || row >= args.width) return;
  float values[2] = {0.0f, 1.0f};  // gate, or up alone; up
  for (int p = 0; p < parts; ++p) {
    float total = 0.0f;
    for (int w = 0; w < warps; ++w) total += sums[p * warps + w][r];
    total *= Policy::scale(weight, (first_part + p) * panels * kRows + row);
    if (args.up_bias != nullptr) {
      using T = typename Policy::T;
      total += to_float(static_cast<const T*>(args.up_bias)[(first_part + p) * args.width + row]);
    }
    values[p] = total;
  }
  const float value = args.clamped.limit > 0.0f ? clamped_gate(args.clamped, values[0], values[1])
                                                : activated_by(kind, values[0]) * values[1];
  inner[pair * args.width + row] = from_float<typename Policy::T>(value);
}

// A block of threads 16 outputs of a token: its warps share the columns of all experts that the token chose.
template <class Policy>
__global__ __launch_bounds__(kExpertWarps* kWarp, kExpertBlocks) void packed_down_kernel(
    FewExpertsArgs args, typename Policy::Weight weight, int blocks, int slot_bytes,
    const typename Policy::T* inner, float* y) {
  extern __shared__ uint4 dynamic[];
  __shared__ alignas(128) Spread table[16];
  __shared__ float sums[kExpertWarps][kRows];
  fill_table<Policy>(table);
  start_early();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const std::int64_t first_pair = std::int64_t{blockIdx.y} * args.top_k;
  const std::int64_t panels = gridDim.x;
  const int end = args.top_k * blocks * (warp + 1) / warps;
  float upper = 0.0f;
  float lower = 0.0f;
  for (int at = args.top_k * blocks * warp / warps; at < end;) {
    const int k = at / blocks;
    const int first = at % blocks;
    const int last = min(blocks, first + end - at);
    at += last - first;
    const std::int64_t pair = first_pair + k;
    const PanelPart part{args.chosen[pair] * panels + blockIdx.x, blocks, first, last};
    float sum[1][4] = {};
    Policy::add(weight, part, inner + pair * args.width, static_cast<int>(args.width),
                reinterpret_cast<std::byte*>(dynamic) + warp * kChunkSlots * slot_bytes, slot_bytes, table,
                lane, sum);
    const std::int64_t row = part.panel * kRows + lane / 4 * 2;
    upper += args.gates[pair] * Policy::scale(weight, row) * sum[0][0];
    lower += args.gates[pair] * Policy::scale(weight, row + 1) * sum[0][2];
  }
  keep_rows(upper, lower, sums[warp], lane);
  __syncthreads();
  const int r = static_cast<int>(threadIdx.x);
  const std::int64_t row = std::int64_t{blockIdx.x} * kRows + r;
  if (r >= kRows || row >= args.hidden) return;
  float total = 0.0f;
  for (int w = 0; w < warps; ++w) total += sums[w][r];
  if (args.down_bias != nullptr) {
    for (std::int64_t pair = first_pair; pair < first_pair + args.top_k; ++pair)
      total += args.gates[pair] * args.down_bias[std::int64_t{args.chosen[pair]} * args.hidden + row];
  }
  y[std::int64_t{blockIdx.y} * args.hidden + row] += total;
}

// Calls body(Policy{}, weight, bytes of a chunk's slot).
template <class Body>
void with_policy(const StackedWeight& stacked, DType dtype, bool whole, const Body& body) {
  const auto typed = [&](auto zero, auto is_whole) {
    using T = decltype(zero);
    constexpr bool kWhole = decltype(is_whole)::value;
    if (const auto* bitmap = std::get_if<BitmapWeight>(&stacked)) {
      const int slot_bytes = 16 * static_cast<int>(bitmap->most + 1);  // decoding reads beyond the last value
      return with_stored(bitmap->stored, [&](auto stored) {
        body(BitmapExperts<T, kWhole, decltype(stored)::value>{}, *bitmap, slot_bytes);
      });
    }
    const GridWeight& grid = std::get<GridWeight>(stacked);
    const bool zeros = grid.zeros != nullptr;
    if (grid.bits == 8) {
      zeros ? body(GridExperts<T, kWhole, 8, true>{}, grid, 0)
            : body(GridExperts<T, kWhole, 8, false>{}, grid, 0);
    } else {
      zeros ? body(GridExperts<T, kWhole, 4, true>{}, grid, 0)
            : body(GridExperts<T, kWhole, 4, false>{}, grid, 0);
    }
  };
  const auto of_type = [&](auto zero) {
    whole ? typed(zero, std::true_type{}) : typed(zero, std::false_type{});
  };
  dtype == DType::kF16 ? of_type(__half{}) : of_type(__nv_bfloat16{});
}

bool is_whole(std::int64_t cols, const void* x) { return cols % kCompactBlock == 0 && is_aligned(x); }

int expert_warps(std::int64_t panels, int blocks, int slot_bytes, int most) {
  return warps_per_panel(panels, blocks, kExpertBlocks * kExpertWarps, std::max(1, kChunkSlots * slot_bytes),
                         most);
}

}  // namespace

void packed_experts_up(const FewExpertsArgs& args, ActivationKind kind, const void* x,
                       const StackedWeight& gate_up, void* inner, cudaStream_t stream) {
  if (args.rows == 0) return;
  const std::int64_t panels = panels_of(args.width), pairs = args.rows * args.top_k;
  const int parts = args.gated ? 2 : 1, blocks = blocks_of(args.hidden);
  with_policy(gate_up, args.dtype, is_whole(args.hidden, x),
              [&](auto policy, const auto& weight, int slot_bytes) {
                using Policy = decltype(policy);
                using T = typename Policy::T;
                const int warps =
                    parts * expert_warps(panels * pairs * parts, blocks, slot_bytes, kExpertWarps / parts);
                const dim3 grid(static_cast<unsigned>(panels), static_cast<unsigned>(pairs));
                launch_early(packed_up_kernel<Policy>, grid, warps * kWarp, warps * kChunkSlots * slot_bytes,
                             stream, args, weight, blocks, slot_bytes, kind, static_cast<const T*>(x),
                             static_cast<T*>(inner));
              });
  check_launch("packed_experts_up");
}

void packed_experts_down(const FewExpertsArgs& args, const void* inner, const StackedWeight& down, float* y,
                         cudaStream_t stream) {
  if (args.rows == 0) return;
  const std::int64_t panels = panels_of(args.hidden);
  const int blocks = blocks_of(args.width);
  with_policy(
      down, args.dtype, is_whole(args.width, inner), [&](auto policy, const auto& weight, int slot_bytes) {
        using Policy = decltype(policy);
        using T = typename Policy::T;
        const int warps = expert_warps(panels * args.rows, args.top_k * blocks, slot_bytes, kExpertWarps);
        const dim3 grid(static_cast<unsigned>(panels), static_cast<unsigned>(args.rows));
        launch_early(packed_down_kernel<Policy>, grid, warps * kWarp, warps * kChunkSlots * slot_bytes,
                     stream, args, weight, blocks, slot_bytes, static_cast<const T*>(inner), y);
      });
  check_launch("packed_experts_down");
}

}  // namespace swiftprune::cuda
