// Causal attention in tiles with a running softmax (the method of arXiv 2205.14135 and 2307.08691): 16-bit
// operands go through the tensor cores, float ones through plain arithmetic. No N×N matrix exists.
#include <algorithm>

#include "swiftprune/cuda/device_math.cuh"

namespace swiftprune::cuda {
namespace {

constexpr float kLog2E = 1.44269504f;

__device__ __forceinline__ bool visible(int query, int key, const AttentionArgs& args) {
  return key <= query && (args.window == 0 || key > query - static_cast<int>(args.window));
}
// The first key that any query from `query` on sees, at a multiple of `tile`.
__device__ __forceinline__ int first_key(int query, int tile, const AttentionArgs& args) {
  if (args.window == 0) return 0;
  return max(0, query - static_cast<int>(args.window) + 1) / tile * tile;
}

// -- 16-bit operands ----------------------------------------------------------------------------------------

constexpr int kTile = 64;  // queries of a block and keys of a step
constexpr int kWarps = 4;  // 16 queries each
constexpr int kBlockThreads = kWarps * kWarp;

__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}
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
// c [16, 8] += a [16, 16] b [16, 8]
__device__ __forceinline__ void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                         std::uint32_t b1, __nv_bfloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                         std::uint32_t b1, __half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ std::uint32_t pack(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}
__device__ __forceinline__ std::uint32_t pack(float low, float high, __half) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

// A tile of 64 rows of kSize elements in shared memory; chunks of 16 bytes are swizzled by the row, so that
// eight rows of one chunk lie in different banks.
template <int kSize>
__device__ __forceinline__ int chunk_offset(int row, int chunk) {  // in elements
  return row * kSize + ((chunk ^ (row & 7)) << 3);
}

// Rows first .. first + 64 of a head; zeros beyond `length` and beyond the head's size.
template <class T, int kSize>
__device__ __forceinline__ void load_tile(T* tile, const T* head, std::int64_t row_stride, int first,
                                          int length, int size, bool vectors) {
  constexpr int kChunks = kSize / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kChunks; i += kBlockThreads) {
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

template <class T, int kSize>
__global__ __launch_bounds__(kBlockThreads) void tensor_kernel(AttentionArgs args, bool vectors) {
  constexpr int kSteps = kSize / 16;         // of 16 elements of a head
  constexpr bool kKeepQuery = kSize <= 128;  // its fragments stay in registers
  extern __shared__ uint4 dynamic[];
  T* const q_tile = reinterpret_cast<T*>(dynamic);
  T* const k_tiles = q_tile + kTile * kSize;       // two
  T* const v_tiles = k_tiles + 2 * kTile * kSize;  // two
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int length = static_cast<int>(args.sequence_length);
  const int num_tiles = (length + kTile - 1) / kTile;
  const int first_query = (num_tiles - 1 - static_cast<int>(blockIdx.x)) * kTile;  // the longest first
  const int head = static_cast<int>(blockIdx.y);
  const int kv_head = head / static_cast<int>(args.num_heads / args.num_kv_heads);
  const std::int64_t first_row = std::int64_t{blockIdx.z} * length;
  const int size = static_cast<int>(args.head_size);
  const T* q = static_cast<const T*>(args.q) + first_row * args.row_stride + head * args.head_stride;
  const T* k = static_cast<const T*>(args.k) + first_row * args.row_stride + kv_head * args.head_stride;
  const T* v = static_cast<const T*>(args.v) + first_row * args.row_stride + kv_head * args.head_stride;

  const int begin = first_key(first_query, kTile, args);
  const int end = min(length, first_query + kTile);
  load_tile<T, kSize>(q_tile, q, args.row_stride, first_query, length, size, vectors);
  load_tile<T, kSize>(k_tiles, k, args.row_stride, begin, length, size, vectors);
  load_tile<T, kSize>(v_tiles, v, args.row_stride, begin, length, size, vectors);
  asm volatile("cp.async.commit_group;");

  const int q_row = 16 * warp + lane % 8 + (lane / 8 % 2) * 8;
  std::uint32_t q_kept[kKeepQuery ? kSteps : 1][4];
  float out[kSize / 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY};
  float total[2] = {};
  const float scale = args.softcap > 0.0f ? args.scale / args.softcap : args.scale * kLog2E;
  const float cap = args.softcap * kLog2E;
  int s = 0;
  for (int first = begin; first < end; first += kTile, s ^= 1) {
    if (first + kTile < end) {
      load_tile<T, kSize>(k_tiles + (s ^ 1) * kTile * kSize, k, args.row_stride, first + kTile, length, size,
                          vectors);
      load_tile<T, kSize>(v_tiles + (s ^ 1) * kTile * kSize, v, args.row_stride, first + kTile, length, size,
                          vectors);
    }
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    const T* k_tile = k_tiles + s * kTile * kSize;
    const T* v_tile = v_tiles + s * kTile * kSize;
    if constexpr (kKeepQuery) {
      if (first == begin) {
#pragma unroll
        for (int d = 0; d < kSteps; ++d) {
          load_matrices(q_kept[d], shared_address(q_tile + chunk_offset<kSize>(q_row, 2 * d + lane / 16)));
        }
      }
    }
    float score[kTile / 8][4] = {};
#pragma unroll
    for (int d = 0; d < kSteps; ++d) {
      std::uint32_t q_now[4];
      if constexpr (!kKeepQuery) {
        load_matrices(q_now, shared_address(q_tile + chunk_offset<kSize>(q_row, 2 * d + lane / 16)));
      }
      const auto& q_fragment = [&]() -> const std::uint32_t(&)[4] {
        if constexpr (kKeepQuery) {
          return q_kept[d];
        } else {
          return q_now;
        }
      }();
#pragma unroll
      for (int t = 0; t < kTile / 16; ++t) {
        std::uint32_t b[4];
        const int key = 16 * t + lane % 8 + lane / 16 * 8;
        load_matrices(b, shared_address(k_tile + chunk_offset<kSize>(key, 2 * d + lane / 8 % 2)));
        multiply(score[2 * t], q_fragment, b[0], b[1], T{});
        multiply(score[2 * t + 1], q_fragment, b[2], b[3], T{});
      }
    }
    // score[t][i]: query lane / 4 + 8·(i / 2) of the warp, key 8t + 2·(lane % 4) + i % 2 of the tile
    const int query = first_query + 16 * warp + lane / 4;
    const bool masked = first + kTile > first_query + 16 * warp + 1 || args.window > 0;
    float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int t = 0; t < kTile / 8; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float value = score[t][i] * scale;
        if (args.softcap > 0.0f) value = cap * tanhf(value);
        if (masked && !visible(query + i / 2 * 8, first + 8 * t + 2 * (lane % 4) + i % 2, args))
          value = -INFINITY;
        score[t][i] = value;
        highest[i / 2] = fmaxf(highest[i / 2], value);
      }
    }
    float shift[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      highest[h] = fmaxf(highest[h], __shfl_xor_sync(kFullWarp, highest[h], 1));
      highest[h] = fmaxf(highest[h], __shfl_xor_sync(kFullWarp, highest[h], 2));
      const float next = fmaxf(top[h], highest[h]);
      shift[h] = next == -INFINITY ? 0.0f : next;  // a query that sees nothing of this tile
      const float correction = exp2f(top[h] - shift[h]);
      top[h] = next;
      total[h] *= correction;
#pragma unroll
      for (int d = 0; d < kSize / 8; ++d) {
        out[d][2 * h] *= correction;
        out[d][2 * h + 1] *= correction;
      }
    }
#pragma unroll
    for (int t = 0; t < kTile / 8; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        score[t][i] = exp2f(score[t][i] - shift[i / 2]);
        total[i / 2] += score[t][i];
      }
    }
#pragma unroll
    for (int t = 0; t < kTile / 16; ++t) {
      const std::uint32_t p[4] = {pack(score[2 * t][0], score[2 * t][1], T{}),
                                  pack(score[2 * t][2], score[2 * t][3], T{}),
                                  pack(score[2 * t + 1][0], score[2 * t + 1][1], T{}),
                                  pack(score[2 * t + 1][2], score[2 * t + 1][3], T{})};
      const int key = 16 * t + lane % 8 + lane / 8 % 2 * 8;
#pragma unroll
      for (int d = 0; d < kSteps; ++d) {
        std::uint32_t b[4];
        load_matrices_transposed(b, shared_address(v_tile + chunk_offset<kSize>(key, 2 * d + lane / 16)));
        multiply(out[2 * d], p, b[0], b[1], T{});
        multiply(out[2 * d + 1], p, b[2], b[3], T{});
      }
    }
    __syncthreads();  // the tile is overwritten by the load after the next
  }
  float inverse[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    total[h] += __shfl_xor_sync(kFullWarp, total[h], 1);
    total[h] += __shfl_xor_sync(kFullWarp, total[h], 2);
    inverse[h] = total[h] > 0.0f ? 1.0f / total[h] : 0.0f;
  }
  T* target = static_cast<T*>(args.out) + first_row * args.num_heads * args.head_size + head * args.head_size;
#pragma unroll
  for (int d = 0; d < kSize / 8; ++d) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first_query + 16 * warp + lane / 4 + i / 2 * 8;
      const int column = 8 * d + 2 * (lane % 4) + i % 2;
      if (row >= length || column >= size) continue;
      target[row * args.num_heads * args.head_size + column] = from_float<T>(out[d][i] * inverse[i / 2]);
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

template <class T, int kSize>
void launch_tensor(const AttentionArgs& args, cudaStream_t stream) {
  const auto aligned = [&](const void* p) { return is_aligned(p); };
  const bool vectors = args.head_size % 8 == 0 && args.row_stride % 8 == 0 && args.head_stride % 8 == 0 &&
                       aligned(args.q) && aligned(args.k) && aligned(args.v);
  constexpr int kBytes = 5 * kTile * kSize * static_cast<int>(sizeof(T));
  allow_shared(tensor_kernel<T, kSize>, kBytes);
  tensor_kernel<T, kSize><<<grid_of(args, kTile), kBlockThreads, kBytes, stream>>>(args, vectors);
}

template <int kSize>
void launch_float(const AttentionArgs& args, cudaStream_t stream) {
  constexpr int kBytes = 2 * kKeys * kSize * static_cast<int>(sizeof(float));
  allow_shared(float_kernel<kSize>, kBytes);
  float_kernel<kSize><<<grid_of(args, kQueries), kBlockThreads, kBytes, stream>>>(args);
}

}  // namespace

void attention(const AttentionArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  with_type(args.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(T) == sizeof(float)) {
      if (args.head_size <= 64) return launch_float<64>(args, stream);
      if (args.head_size <= 128) return launch_float<128>(args, stream);
      launch_float<256>(args, stream);
    } else {
      if (args.head_size <= 64) return launch_tensor<T, 64>(args, stream);
      if (args.head_size <= 128) return launch_tensor<T, 128>(args, stream);
      launch_tensor<T, 256>(args, stream);
    }
  });
  check_launch("attention");
}

}  // namespace swiftprune::cuda
