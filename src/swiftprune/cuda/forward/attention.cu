// Causal attention in tiles with a running softmax (the method of arXiv 2205.14135 and 2307.08691): 16-bit
// operands go through the tensor cores, float ones through plain arithmetic. No N×N matrix exists.
#include <algorithm>

#include "swiftprune/cuda/forward/attention_hopper.h"
#include "swiftprune/cuda/runtime/tensor_core.cuh"

namespace swiftprune::cuda {
namespace {

__device__ __forceinline__ bool visible(int query, int key, const AttentionArgs& args) {
  return key <= query && (args.window == 0 || key > query - static_cast<int>(args.window));
}
// The first key that any query from `query` on sees, at a multiple of `tile`.
__device__ __forceinline__ int first_key(int query, int tile, const AttentionArgs& args) {
  if (args.window == 0) return 0;
  return max(0, query - static_cast<int>(args.window) + 1) / tile * tile;
}

// -- 16-bit operands ----------------------------------------------------------------------------------------

constexpr int kWarps = 4;
constexpr int kBlockThreads = kWarps * kWarp;

__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
// A tile of rows of kSize elements in shared memory; chunks of 16 bytes are swizzled by the row, so that
// eight rows of one chunk lie in different banks.
template <int kSize>
__device__ __forceinline__ int chunk_offset(int row, int chunk) {  // in elements
  return row * kSize + ((chunk ^ (row & 7)) << 3);
}

// Rows first .. first + kRows of a head; zeros beyond `length` and beyond the head's size.
template <class T, int kSize, int kRows>
__device__ __forceinline__ void load_tile(T* tile, const T* head, std::int64_t row_stride, int first,
                                          int length, int size, bool vectors) {
  constexpr int kChunks = kSize / 8;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kBlockThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    T* target = tile + chunk_offset<kSize>(row, chunk);
    const bool inside = first + row < length && 8 * chunk < size;
    const T* source = head + (inside ? (first + row) * row_stride + 8 * chunk : 0);
    if (vectors) {
      const unsigned bytes = inside ? 16u : 0u;  // the rest becomes zero
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)), "l"(source),
                   "r"(bytes));
      continue;
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      target[e] = inside && 8 * chunk + e < size ? source[e] : from_float<T>(0.0f);
    }
  }
}

// kTiles: of 16 queries a warp, which share every fragment of keys and values; kKeyTile: keys of a step;
// kCapped: scores go through the soft cap.
template <class T, int kSize, int kTiles, int kKeyTile, bool kCapped>
__global__ __launch_bounds__(kBlockThreads) void tensor_kernel(AttentionArgs args, bool vectors) {
  constexpr int kSteps = kSize / 16;  // of 16 elements of a head
  constexpr int kWarpQueries = 16 * kTiles;
  constexpr int kBlockQueries = kWarps * kWarpQueries;
  extern __shared__ uint4 dynamic[];
  T* const q_tile = reinterpret_cast<T*>(dynamic);
  T* const k_tiles = q_tile + kBlockQueries * kSize;  // two
  T* const v_tiles = k_tiles + 2 * kKeyTile * kSize;  // two
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int length = static_cast<int>(args.sequence_length);
  const int num_tiles = (length + kBlockQueries - 1) / kBlockQueries;
  const int first_query =
      (num_tiles - 1 - static_cast<int>(blockIdx.x)) * kBlockQueries;  // the longest first
  const int head = static_cast<int>(blockIdx.y);
  const int kv_head = head / static_cast<int>(args.num_heads / args.num_kv_heads);
  const std::int64_t first_row = std::int64_t{blockIdx.z} * length;
  const int size = static_cast<int>(args.head_size);
  const T* q = static_cast<const T*>(args.q) + first_row * args.row_stride + head * args.head_stride;
  const T* k = static_cast<const T*>(args.k) + first_row * args.row_stride + kv_head * args.head_stride;
  const T* v = static_cast<const T*>(args.v) + first_row * args.row_stride + kv_head * args.head_stride;

  const int begin = first_key(first_query, kKeyTile, args);
  const int end = min(length, first_query + kBlockQueries);
  load_tile<T, kSize, kBlockQueries>(q_tile, q, args.row_stride, first_query, length, size, vectors);
  load_tile<T, kSize, kKeyTile>(k_tiles, k, args.row_stride, begin, length, size, vectors);
  load_tile<T, kSize, kKeyTile>(v_tiles, v, args.row_stride, begin, length, size, vectors);
  asm volatile("cp.async.commit_group;");

  const int warp_query = first_query + kWarpQueries * warp;
  float out[kTiles][kSize / 8][4] = {};
  float top[kTiles][2];
  float total[kTiles][2] = {};
#pragma unroll
  for (int m = 0; m < kTiles; ++m) top[m][0] = top[m][1] = -INFINITY;
  const float cap = args.softcap * kLog2E;
  const float cap_scale = kCapped ? args.scale / args.softcap : 1.0f;
  const float scale = kCapped ? 1.0f : args.scale * kLog2E;  // of what exp2 takes
  int s = 0;
  for (int first = begin; first < end; first += kKeyTile, s ^= 1) {
    if (first + kKeyTile < end) {
      const int next = (s ^ 1) * kKeyTile * kSize;
      load_tile<T, kSize, kKeyTile>(k_tiles + next, k, args.row_stride, first + kKeyTile, length, size,
                                    vectors);
      load_tile<T, kSize, kKeyTile>(v_tiles + next, v, args.row_stride, first + kKeyTile, length, size,
                                    vectors);
    }
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    const T* k_tile = k_tiles + s * kKeyTile * kSize;
    const T* v_tile = v_tiles + s * kKeyTile * kSize;
    if (first <= warp_query + kWarpQueries - 1) {  // else no query of this warp sees the tile
      float score[kTiles][kKeyTile / 8][4] = {};
#pragma unroll
      for (int d = 0; d < kSteps; ++d) {
        std::uint32_t a[kTiles][4];
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          const int row = kWarpQueries * warp + 16 * m + lane % 16;
          load_matrices(a[m], shared_address(q_tile + chunk_offset<kSize>(row, 2 * d + lane / 16)));
        }
#pragma unroll
        for (int t = 0; t < kKeyTile / 16; ++t) {
          std::uint32_t b[4];
          const int key = 16 * t + lane % 8 + lane / 16 * 8;
          load_matrices(b, shared_address(k_tile + chunk_offset<kSize>(key, 2 * d + lane / 8 % 2)));
#pragma unroll
          for (int m = 0; m < kTiles; ++m) {
            multiply(score[m][2 * t], a[m], b[0], b[1], T{});
            multiply(score[m][2 * t + 1], a[m], b[2], b[3], T{});
          }
        }
      }
      // score[m][t][i]: query 16m + lane / 4 + 8·(i / 2) of the warp, key 8t + 2·(lane % 4) + i % 2 of the
      // tile
      const bool masked = first + kKeyTile > warp_query + 1 || args.window > 0;
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        const int query = warp_query + 16 * m + lane / 4;
        if constexpr (kCapped) {
#pragma unroll
          for (int t = 0; t < kKeyTile / 8; ++t) {
#pragma unroll
            for (int i = 0; i < 4; ++i) score[m][t][i] = cap * tanhf(score[m][t][i] * cap_scale);
          }
        }
        if (masked) {
#pragma unroll
          for (int t = 0; t < kKeyTile / 8; ++t) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int key = first + 8 * t + 2 * (lane % 4) + i % 2;
              if (!visible(query + i / 2 * 8, key, args)) score[m][t][i] = -INFINITY;
            }
          }
        }
        float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int t = 0; t < kKeyTile / 8; ++t) {
#pragma unroll
          for (int i = 0; i < 4; ++i) highest[i / 2] = fmaxf(highest[i / 2], score[m][t][i]);
        }
        float shift[2];
        float correction[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          highest[h] = fmaxf(highest[h], __shfl_xor_sync(kFullWarp, highest[h], 1));
          highest[h] = fmaxf(highest[h], __shfl_xor_sync(kFullWarp, highest[h], 2));
          const float next = fmaxf(top[m][h], highest[h]);
          const float base = next == -INFINITY ? 0.0f : next;  // a query that sees nothing yet
          shift[h] = -base * scale;
          correction[h] = exp2_fast(fmaf(top[m][h], scale, shift[h]));
          top[m][h] = next;
          total[m][h] *= correction[h];
        }
        if (__any_sync(kFullWarp, correction[0] != 1.0f || correction[1] != 1.0f)) {
#pragma unroll
          for (int d = 0; d < kSize / 8; ++d) {
#pragma unroll
            for (int i = 0; i < 4; ++i) out[m][d][i] *= correction[i / 2];
          }
        }
#pragma unroll
        for (int t = 0; t < kKeyTile / 8; ++t) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            score[m][t][i] = exp2_fast(fmaf(score[m][t][i], scale, shift[i / 2]));
            total[m][i / 2] += score[m][t][i];
          }
        }
      }
#pragma unroll
      for (int t = 0; t < kKeyTile / 16; ++t) {
        std::uint32_t p[kTiles][4];
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float(&pair)[4] = score[m][2 * t + h];
            p[m][2 * h] = pack(pair[0], pair[1], T{});
            p[m][2 * h + 1] = pack(pair[2], pair[3], T{});
          }
        }
        const int key = 16 * t + lane % 16;
#pragma unroll
        for (int d = 0; d < kSteps; ++d) {
          std::uint32_t b[4];
          load_matrices_transposed(b, shared_address(v_tile + chunk_offset<kSize>(key, 2 * d + lane / 16)));
#pragma unroll
          for (int m = 0; m < kTiles; ++m) {
            multiply(out[m][2 * d], p[m], b[0], b[1], T{});
            multiply(out[m][2 * d + 1], p[m], b[2], b[3], T{});
          }
        }
      }
    }
    __syncthreads();  // the tile is overwritten by the load after the next
  }
  T* target = static_cast<T*>(args.out) + first_row * args.num_heads * args.head_size + head * args.head_size;
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
    float inverse[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[m][h] += __shfl_xor_sync(kFullWarp, total[m][h], 1);
      total[m][h] += __shfl_xor_sync(kFullWarp, total[m][h], 2);
      total[m][h] = with_sink(total[m][h], top[m][h] * scale / kLog2E, args.sinks, head);
      inverse[h] = total[m][h] > 0.0f ? 1.0f / total[m][h] : 0.0f;
    }
#pragma unroll
    for (int d = 0; d < kSize / 8; ++d) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = warp_query + 16 * m + lane / 4 + 8 * h;
        const int column = 8 * d + 2 * (lane % 4);
        if (row >= length || column >= size) continue;
        T* place = target + row * args.num_heads * args.head_size + column;
        const std::uint32_t both =
            pack(out[m][d][2 * h] * inverse[h], out[m][d][2 * h + 1] * inverse[h], T{});
        if (vectors) {
          *reinterpret_cast<std::uint32_t*>(place) = both;
        } else {
          place[0] = from_float<T>(out[m][d][2 * h] * inverse[h]);
          if (column + 1 < size) place[1] = from_float<T>(out[m][d][2 * h + 1] * inverse[h]);
        }
      }
    }
  }
}

// -- Float operands: four threads a query, each with every fourth group of four elements --------------------

constexpr int kKeys = 32;
constexpr int kLanes = 4;
constexpr int kQueries = kBlockThreads / kLanes;

template <int kSize>
__global__ __launch_bounds__(kBlockThreads) void float_kernel(AttentionArgs args) {
  constexpr int kOwn = kSize / kLanes;
  extern __shared__ float shared[];
  float* const k_tile = shared;  // [kKeys][kSize]
  float* const v_tile = shared + kKeys * kSize;
  const int length = static_cast<int>(args.sequence_length);
  const int num_tiles = (length + kQueries - 1) / kQueries;
  const int first_query = (num_tiles - 1 - static_cast<int>(blockIdx.x)) * kQueries;
  const int head = static_cast<int>(blockIdx.y);
  const int kv_head = head / static_cast<int>(args.num_heads / args.num_kv_heads);
  const std::int64_t first_row = std::int64_t{blockIdx.z} * length;
  const int size = static_cast<int>(args.head_size);
  const auto* q = static_cast<const float*>(args.q) + first_row * args.row_stride + head * args.head_stride;
  const auto* k =
      static_cast<const float*>(args.k) + first_row * args.row_stride + kv_head * args.head_stride;
  const auto* v =
      static_cast<const float*>(args.v) + first_row * args.row_stride + kv_head * args.head_stride;
  const int part = static_cast<int>(threadIdx.x) % kLanes;
  const int query = first_query + static_cast<int>(threadIdx.x) / kLanes;
  const auto element = [&](int i) { return (i / 4 * kLanes + part) * 4 + i % 4; };  // of the head
  float own_q[kOwn];
  float out[kOwn] = {};
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    own_q[i] = query < length && element(i) < size ? q[query * args.row_stride + element(i)] : 0.0f;
  }
  float top = -INFINITY;
  float total = 0.0f;
  const int end = min(length, first_query + kQueries);
  for (int first = first_key(first_query, kKeys, args); first < end; first += kKeys) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kKeys * kSize; i += kBlockThreads) {
      const int key = first + i / kSize;
      const bool inside = key < length && i % kSize < size;
      k_tile[i] = inside ? k[key * args.row_stride + i % kSize] : 0.0f;
      v_tile[i] = inside ? v[key * args.row_stride + i % kSize] : 0.0f;
    }
    __syncthreads();
    float score[kKeys];
    float highest = -INFINITY;
#pragma unroll
    for (int key = 0; key < kKeys; ++key) {
      float dot = 0.0f;
#pragma unroll
      for (int i = 0; i < kOwn; ++i) dot = fmaf(own_q[i], k_tile[key * kSize + element(i)], dot);
      dot += __shfl_xor_sync(kFullWarp, dot, 1);
      dot += __shfl_xor_sync(kFullWarp, dot, 2);
      dot *= args.scale;
      if (args.softcap > 0.0f) dot = args.softcap * tanhf(dot / args.softcap);
      score[key] = visible(query, first + key, args) ? dot : -INFINITY;
      highest = fmaxf(highest, score[key]);
    }
    const float next = fmaxf(top, highest);
    const float shift = next == -INFINITY ? 0.0f : next;
    const float correction = expf(top - shift);
    top = next;
    total *= correction;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) out[i] *= correction;
#pragma unroll
    for (int key = 0; key < kKeys; ++key) {
      const float p = expf(score[key] - shift);
      total += p;
#pragma unroll
      for (int i = 0; i < kOwn; ++i) out[i] = fmaf(p, v_tile[key * kSize + element(i)], out[i]);
    }
  }
  if (query >= length) return;
  total = with_sink(total, top, args.sinks, head);
  auto* target = static_cast<float*>(args.out) + (first_row + query) * args.num_heads * args.head_size +
                 head * args.head_size;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (element(i) < size) target[element(i)] = out[i] / total;
  }
}

template <class Kernel>
void allow_shared(Kernel kernel, int bytes) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       bytes);  // a refusal fails the launch
}

dim3 grid_of(const AttentionArgs& args, std::int64_t queries) {
  return {static_cast<unsigned>((args.sequence_length + queries - 1) / queries),
          static_cast<unsigned>(args.num_heads), static_cast<unsigned>(args.rows / args.sequence_length)};
}

template <class T, int kSize, int kTiles, int kKeyTile>
void launch_tensor(const AttentionArgs& args, cudaStream_t stream) {
  const bool vectors = args.head_size % 8 == 0 && args.row_stride % 8 == 0 && args.head_stride % 8 == 0 &&
                       is_aligned(args.q) && is_aligned(args.k) && is_aligned(args.v) && is_aligned(args.out);
  constexpr int kQueriesOfBlock = kWarps * 16 * kTiles;
  constexpr int kBytes = (kQueriesOfBlock + 4 * kKeyTile) * kSize * static_cast<int>(sizeof(T));
  const auto launch = [&](auto kernel) {
    allow_shared(kernel, kBytes);
    kernel<<<grid_of(args, kQueriesOfBlock), kBlockThreads, kBytes, stream>>>(args, vectors);
  };
  if (args.softcap > 0.0f) {
    launch(tensor_kernel<T, kSize, kTiles, kKeyTile, true>);
  } else {
    launch(tensor_kernel<T, kSize, kTiles, kKeyTile, false>);
  }
}

template <int kSize>
void launch_float(const AttentionArgs& args, cudaStream_t stream) {
  constexpr int kBytes = 2 * kKeys * kSize * static_cast<int>(sizeof(float));
  allow_shared(float_kernel<kSize>, kBytes);
  float_kernel<kSize><<<grid_of(args, kQueries), kBlockThreads, kBytes, stream>>>(args);
}

}  // namespace

void attention_portable(const AttentionArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  with_type(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == sizeof(float)) {
      if (args.head_size <= 64) return launch_float<64>(args, stream);
      if (args.head_size <= 128) return launch_float<128>(args, stream);
      launch_float<256>(args, stream);
    } else {
      if (args.head_size <= 64) return launch_tensor<T, 64, 2, 64>(args, stream);
      if (args.head_size <= 128) return launch_tensor<T, 128, 2, 32>(args, stream);
      launch_tensor<T, 256, 1, 32>(args, stream);
    }
  });
  check_launch("attention");
}

void attention(const AttentionArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  if (needs_wide_attention(args)) return wide_attention(args, nullptr, stream);
  if (attention_hopper(args, stream)) {
    check_launch("attention");
  } else {
    attention_portable(args, stream);
  }
}

}  // namespace swiftprune::cuda
