// Selection over a whole matrix: one threshold, or the sums of tiles. The threshold's bits are found digit by
// digit from histograms of the keys; it is then a number of weights for each row, which prune_rows() takes.
// No step waits for the host.
#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kScanThreads = 1024;
constexpr int kBins = 4096;  // of the first digit; the others have fewer
constexpr std::uint32_t kInfinityBits = 0x7f800000u;

__host__ __device__ constexpr int shift_of(int digit) { return digit == 0 ? 19 : digit == 1 ? 9 : 0; }

struct Search {
  unsigned long long rank;  // keys to prune among those that begin with `prefix`
  std::uint32_t prefix;     // the threshold's bits found so far
};

struct LayerScratch {
  Search* search;
  std::uint32_t* histogram;
  std::int32_t* below;  // [rows] keys under the threshold
  std::int32_t* equal;  // [rows]
};

LayerScratch scratch_of(void* memory, std::int64_t rows) {
  auto* bytes = static_cast<std::byte*>(memory);
  auto* histogram = reinterpret_cast<std::uint32_t*>(bytes + 16);
  auto* below = reinterpret_cast<std::int32_t*>(histogram + kBins);
  return {reinterpret_cast<Search*>(bytes), histogram, below, below + rows};
}

template <class T>
__device__ __forceinline__ std::uint32_t key_bits(const PruneRowsArgs& args, std::int64_t row,
                                                  std::int64_t j) {
  float factor = args.column != nullptr ? args.column[j] : 1.0f;
  if (args.slope != nullptr) factor = fmaf(args.row[row], args.slope[j], factor);
  return __float_as_uint(fabsf(to_float(static_cast<const T*>(args.in)[row * args.cols + j]) * factor));
}

__global__ void start_kernel(Search* search, unsigned long long rank) { *search = {rank, 0}; }

__global__ __launch_bounds__(kThreads) void fill_kernel(std::int32_t* counts, std::int64_t rows,
                                                        std::int32_t count) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row < rows) counts[row] = count;
}

template <class T>
__global__ __launch_bounds__(kThreads) void histogram_kernel(PruneRowsArgs args, const Search* search,
                                                             int digit, std::uint32_t* histogram) {
  __shared__ std::uint32_t bins[kBins];
  for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kThreads) bins[b] = 0;
  __syncthreads();
  const int shift = shift_of(digit);
  const int above = digit == 0 ? 32 : shift_of(digit - 1);
  const std::uint32_t prefix = search->prefix;
  bool bad = false;
  for (std::int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    for (std::int64_t j = threadIdx.x; j < args.cols; j += kThreads) {
      const std::uint32_t bits = key_bits<T>(args, row, j);
      bad |= bits >= kInfinityBits;
      if (digit > 0 && bits >> above != prefix >> above) continue;
      const std::uint32_t mask = above == 32 ? kBins - 1 : (1u << (above - shift)) - 1;
      atomicAdd(&bins[(bits >> shift) & mask], 1u);
    }
  }
  if (bad && args.counters != nullptr) atomicOr(&args.counters->not_finite, 1u);
  __syncthreads();
  for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kThreads) {
    if (bins[b] != 0) atomicAdd(&histogram[b], bins[b]);
  }
}

// Exclusive sum over a block of kScanThreads in thread order; `total` gets the sum of all.
__device__ __forceinline__ unsigned long long scan_block(unsigned long long own, unsigned long long* warps,
                                                         unsigned long long& total) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  unsigned long long sum = own;
#pragma unroll
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const unsigned long long other = __shfl_up_sync(kFullWarp, sum, offset);
    if (lane >= offset) sum += other;
  }
  __syncthreads();
  if (lane == kWarp - 1) warps[warp] = sum;
  __syncthreads();
  unsigned long long before = 0;
  total = 0;
  for (int w = 0; w < kScanThreads / kWarp; ++w) {
    if (w < warp) before += warps[w];
    total += warps[w];
  }
  return before + sum - own;
}

// The bin that holds the key of that rank; leaves the histogram empty.
__global__ __launch_bounds__(kScanThreads) void pick_kernel(Search* search, int digit,
                                                            std::uint32_t* histogram) {
  __shared__ unsigned long long warps[kScanThreads / kWarp];
  constexpr int kEach = kBins / kScanThreads;
  const unsigned long long rank = search->rank;
  std::uint32_t own[kEach];
  unsigned long long sum = 0;
  for (int i = 0; i < kEach; ++i) {
    own[i] = histogram[threadIdx.x * kEach + static_cast<unsigned>(i)];
    histogram[threadIdx.x * kEach + static_cast<unsigned>(i)] = 0;
    sum += own[i];
  }
  unsigned long long total = 0;
  unsigned long long before = scan_block(sum, warps, total);
  if (rank < before || rank >= before + sum) return;
  for (int i = 0; i < kEach; ++i) {
    if (rank < before + own[i]) {
      const std::uint32_t bin = threadIdx.x * kEach + static_cast<unsigned>(i);
      search->prefix |= bin << shift_of(digit);
      search->rank = rank - before;
      return;
    }
    before += own[i];
  }
}

template <class T>
__global__ __launch_bounds__(kThreads) void row_counts_kernel(PruneRowsArgs args, const Search* search,
                                                              LayerScratch scratch) {
  __shared__ int total[2];
  const std::uint32_t threshold = search->prefix;
  for (std::int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    if (threadIdx.x < 2) total[threadIdx.x] = 0;
    __syncthreads();
    int below = 0;
    int equal = 0;
    for (std::int64_t j = threadIdx.x; j < args.cols; j += kThreads) {
      const std::uint32_t bits = key_bits<T>(args, row, j);
      below += bits < threshold ? 1 : 0;
      equal += bits == threshold ? 1 : 0;
    }
    below = __reduce_add_sync(kFullWarp, below);
    equal = __reduce_add_sync(kFullWarp, equal);
    if (threadIdx.x % kWarp == 0) {
      atomicAdd(&total[0], below);
      atomicAdd(&total[1], equal);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      scratch.below[row] = total[0];
      scratch.equal[row] = total[1];
    }
    __syncthreads();
  }
}

// Ties are spent in row order.
__global__ __launch_bounds__(kScanThreads) void ties_kernel(const Search* search, LayerScratch scratch,
                                                            std::int64_t rows, std::int32_t* counts) {
  __shared__ unsigned long long warps[kScanThreads / kWarp];
  const unsigned long long ties = search->rank;
  unsigned long long spent = 0;
  for (std::int64_t first = 0; first < rows; first += kScanThreads) {
    const std::int64_t row = first + threadIdx.x;
    const unsigned long long own = row < rows ? static_cast<unsigned long long>(scratch.equal[row]) : 0;
    unsigned long long total = 0;
    const unsigned long long before = spent + scan_block(own, warps, total);
    if (row < rows) {
      const unsigned long long left = ties > before ? ties - before : 0;
      counts[row] = scratch.below[row] + static_cast<std::int32_t>(left < own ? left : own);
    }
    spent += total;
  }
}

// A thread a tile, in the order of the CPU's sums and without fused rounding: equal bits.
template <class T>
__global__ __launch_bounds__(kThreads) void tile_sums_kernel(PruneRowsArgs args, std::int64_t tile_rows,
                                                             std::int64_t tile_cols, int power,
                                                             double* sums) {
  const std::int64_t across = args.cols / tile_cols;
  const std::int64_t tile = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (tile >= args.rows / tile_rows * across) return;
  const std::int64_t first_row = tile / across * tile_rows;
  const std::int64_t first_col = tile % across * tile_cols;
  double sum = 0.0;
  bool bad = false;
  for (std::int64_t r = first_row; r < first_row + tile_rows; ++r) {
    for (std::int64_t c = first_col; c < first_col + tile_cols; ++c) {
      const std::uint32_t bits = key_bits<T>(args, r, c);
      bad |= bits >= kInfinityBits;
      const auto key = static_cast<double>(__uint_as_float(bits));
      sum = __dadd_rn(sum, power == 2 ? __dmul_rn(key, key) : key);
    }
  }
  sums[tile] = sum;
  if (bad && args.counters != nullptr) atomicOr(&args.counters->not_finite, 1u);
}

__global__ __launch_bounds__(kThreads) void expand_tiles_kernel(const std::uint8_t* kept, std::int64_t rows,
                                                                std::int64_t cols, std::int64_t tile_rows,
                                                                std::int64_t tile_cols, std::uint8_t* mask) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= rows * cols) return;
  mask[i] = kept[i / cols / tile_rows * (cols / tile_cols) + i % cols / tile_cols];
}

template <class T>
__global__ __launch_bounds__(kThreads) void apply_mask_kernel(const T* in, const std::uint8_t* mask,
                                                              std::int64_t n, T* out,
                                                              PruneCounters* counters) {
  __shared__ unsigned total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  unsigned zeros = 0;
  bool bad = false;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n;
       i += std::int64_t{gridDim.x} * kThreads) {
    T value = in[i];
    bad |= !(fabsf(to_float(value)) < INFINITY);
    if (mask[i] == 0 || to_float(value) == 0.0f) {
      value = from_float<T>(0.0f);  // -0 too
      ++zeros;
    }
    out[i] = value;
  }
  if (bad) atomicOr(&counters->not_finite, 1u);
  zeros = __reduce_add_sync(kFullWarp, zeros);
  if (threadIdx.x % kWarp == 0) atomicAdd(&total, zeros);
  __syncthreads();
  if (threadIdx.x == 0) add_zeros(counters, total);
}

__device__ __forceinline__ std::uint64_t splitmix64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

__global__ __launch_bounds__(kThreads) void random_kernel(std::uint64_t stream, std::int64_t n,
                                                          float* scores) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  const std::uint64_t state = stream + static_cast<std::uint64_t>(i + 1) * 0x9e3779b97f4a7c15u;
  scores[i] = static_cast<float>((splitmix64(state) >> 40) + 1) * 0x1p-24f;
}

// Blocks that loop: enough of them for every multiprocessor.
unsigned looping_blocks(std::int64_t n) {
  constexpr std::int64_t kMost = 1024;
  return static_cast<unsigned>(n < kMost ? n : kMost);
}

}  // namespace

std::int64_t layer_scratch(std::int64_t rows) {
  return 16 + (kBins + 2 * rows) * static_cast<std::int64_t>(sizeof(std::int32_t));
}

void layer_counts(const PruneRowsArgs& args, std::int64_t count, void* scratch, std::int32_t* counts,
                  cudaStream_t stream) {
  if (args.rows * args.cols == 0) return;
  const LayerScratch parts = scratch_of(scratch, args.rows);
  if (count >= args.rows * args.cols) {
    fill_kernel<<<blocks_for(args.rows, kThreads), kThreads, 0, stream>>>(
        counts, args.rows, static_cast<std::int32_t>(args.cols));
    check_launch("layer_counts");
    return;
  }
  start_kernel<<<1, 1, 0, stream>>>(parts.search, static_cast<unsigned long long>(count));
  cudaMemsetAsync(parts.histogram, 0, kBins * sizeof(std::uint32_t), stream);
  with_type(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    for (int digit = 0; digit < 3; ++digit) {
      histogram_kernel<T>
          <<<looping_blocks(args.rows), kThreads, 0, stream>>>(args, parts.search, digit, parts.histogram);
      pick_kernel<<<1, kScanThreads, 0, stream>>>(parts.search, digit, parts.histogram);
    }
    row_counts_kernel<T><<<looping_blocks(args.rows), kThreads, 0, stream>>>(args, parts.search, parts);
  });
  ties_kernel<<<1, kScanThreads, 0, stream>>>(parts.search, parts, args.rows, counts);
  check_launch("layer_counts");
}

void tile_sums(const PruneRowsArgs& args, std::int64_t tile_rows, std::int64_t tile_cols, int power,
               double* sums, cudaStream_t stream) {
  const std::int64_t tiles = args.rows / tile_rows * (args.cols / tile_cols);
  if (tiles == 0) return;
  with_type(args.dtype, [&](auto zero) {
    tile_sums_kernel<decltype(zero)>
        <<<blocks_for(tiles, kThreads), kThreads, 0, stream>>>(args, tile_rows, tile_cols, power, sums);
  });
  check_launch("tile_sums");
}

void expand_tiles(const std::uint8_t* kept, std::int64_t rows, std::int64_t cols, std::int64_t tile_rows,
                  std::int64_t tile_cols, std::uint8_t* mask, cudaStream_t stream) {
  if (rows * cols == 0) return;
  expand_tiles_kernel<<<blocks_for(rows * cols, kThreads), kThreads, 0, stream>>>(kept, rows, cols, tile_rows,
                                                                                  tile_cols, mask);
  check_launch("expand_tiles");
}

void apply_mask(const void* in, const std::uint8_t* mask, std::int64_t n, void* out, DType dtype,
                PruneCounters* counters, cudaStream_t stream) {
  if (n == 0) return;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    apply_mask_kernel<<<looping_blocks((n + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
        static_cast<const T*>(in), mask, n, static_cast<T*>(out), counters);
  });
  check_launch("apply_mask");
}

void random_scores(std::uint64_t first_state, std::int64_t n, float* scores, cudaStream_t stream) {
  if (n == 0) return;
  random_kernel<<<blocks_for(n, kThreads), kThreads, 0, stream>>>(first_state, n, scores);
  check_launch("random_scores");
}

}  // namespace swiftprune::cuda
