// Attention on sm_90a: the tiles of attention.cu, but one warp copies keys and values while two warpgroups
// multiply, and a tile's softmax runs beside the product of the tile before it (the method of arXiv
// 2407.08608).
#include <type_traits>

#include "swiftprune/cuda/forward/attention_hopper.h"
#include "swiftprune/cuda/runtime/hopper.cuh"

namespace swiftprune::cuda {
namespace {

constexpr int kGroups = 2;                            // warpgroups that multiply, 64 queries each
constexpr int kQueries = 64 * kGroups;                // of a block
constexpr int kThreads = (kGroups + 1) * kWarpgroup;  // a thread of the last warpgroup copies
constexpr int kStages = 2;
constexpr int kChunk = kSwizzle / 2;  // elements of a tile's row
constexpr int kHeadsTogether = 16;    // whose keys and values stay in the L2 cache

struct Maps {
  CUtensorMap q, k, v;  // [sequences, length, heads, head size]
};
template <int kSize, int kKeys>
struct Layout {  // of the shared memory: queries, then the stages of keys and of values; in bytes
  static constexpr int kQueryBytes = kQueries * kSize * 2;
  static constexpr int kTileBytes = kKeys * kSize * 2;
  static constexpr int kKeysAt = kQueryBytes;
  static constexpr int kValuesAt = kKeysAt + kStages * kTileBytes;
  static constexpr int kBarriersAt = kValuesAt + kStages * kTileBytes;
  static constexpr int kBytes = kBarriersAt + 128;
};
// Barriers: queries there, then for each stage: keys there, values there, keys free, values free.
__device__ __forceinline__ unsigned barrier_of(unsigned barriers, int kind, int stage) {
  return barriers + 8u * static_cast<unsigned>(1 + kind * kStages + stage);
}
enum BarrierKind { kKeysThere, kValuesThere, kKeysFree, kValuesFree };

struct Work {
  int first_query, head, sequence, begin, tiles;
};
// The longest tiles of queries first, within groups of heads that share the cache.
template <int kKeys>
__device__ __forceinline__ Work work_of(const AttentionArgs& args) {
  const int length = static_cast<int>(args.sequence_length);
  const int heads = static_cast<int>(args.num_heads);
  const int all = heads * static_cast<int>(args.rows / args.sequence_length);
  const int query_tiles = (length + kQueries - 1) / kQueries;
  const int group = static_cast<int>(blockIdx.x) / (kHeadsTogether * query_tiles);
  const int in_group = min(kHeadsTogether, all - group * kHeadsTogether);
  const int rest = static_cast<int>(blockIdx.x) - group * kHeadsTogether * query_tiles;
  const int head = group * kHeadsTogether + rest % in_group;
  Work work;
  work.first_query = (query_tiles - 1 - rest / in_group) * kQueries;
  work.head = head % heads;
  work.sequence = head / heads;
  work.begin =
      args.window == 0 ? 0 : max(0, work.first_query - static_cast<int>(args.window) + 1) / kKeys * kKeys;
  work.tiles = (min(length, work.first_query + kQueries) - work.begin + kKeys - 1) / kKeys;
  return work;
}

template <int kSize, int kKeys>
__device__ __forceinline__ void copy_tiles(const Maps& maps, const Work& work, int kv_head, unsigned shared,
                                           unsigned barriers) {
  using Place = Layout<kSize, kKeys>;
  constexpr unsigned kTileBytes = Place::kTileBytes;
  const auto copy = [&](const CUtensorMap& map, unsigned target, int rows, int head, int first,
                        unsigned barrier) {
#pragma unroll
    for (int c = 0; c < kSize / kChunk; ++c) {
      copy_box(target + static_cast<unsigned>(c * rows * kSwizzle), &map, c * kChunk, head, first,
               work.sequence, barrier);
    }
  };
  barrier_expect(barriers, Place::kQueryBytes);
  copy(maps.q, shared, kQueries, work.head, work.first_query, barriers);
  for (int t = 0; t < work.tiles; ++t) {
    const int stage = t % kStages;
    const unsigned free = static_cast<unsigned>(t / kStages + 1) & 1u;  // the first round does not wait
    const unsigned offset = static_cast<unsigned>(stage) * kTileBytes;
    const int first = work.begin + t * kKeys;
    const auto fill = [&](const CUtensorMap& map, int base, BarrierKind is_free, BarrierKind there) {
      barrier_wait(barrier_of(barriers, is_free, stage), free);
      barrier_expect(barrier_of(barriers, there, stage), kTileBytes);
      copy(map, shared + static_cast<unsigned>(base) + offset, kKeys, kv_head, first,
           barrier_of(barriers, there, stage));
    };
    fill(maps.k, Place::kKeysAt, kKeysFree, kKeysThere);
    fill(maps.v, Place::kValuesAt, kValuesFree, kValuesThere);
  }
}

// The running softmax of two rows of a thread.
template <bool kCapped>
struct Softmax {
  float top[2] = {-INFINITY, -INFINITY};
  float total[2] = {};
  float correction[2];
  float scale, cap, cap_scale;

  __device__ explicit Softmax(const AttentionArgs& args)
      : scale(kCapped ? 1.0f : args.scale * kLog2E),  // of what exp2 takes
        cap(args.softcap * kLog2E),
        cap_scale(kCapped ? args.scale / args.softcap : 1.0f) {}

  // Scores become the exponentials. `query`: of the thread's first row; `first`: key of the first column.
  template <int kCount>
  __device__ __forceinline__ void step(float (&score)[kCount], int query, int first, bool masked,
                                       int window) {
    const int column = first + 2 * (static_cast<int>(threadIdx.x) % 4);
    if constexpr (kCapped) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) score[i] = cap * tanhf(score[i] * cap_scale);
    }
    if (masked) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int key = column + i / 4 * 8 + i % 2;
        const int row = query + i % 4 / 2 * 8;
        if (key > row || (window > 0 && key <= row - window)) score[i] = -INFINITY;
      }
    }
    float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < kCount; ++i) highest[i % 4 / 2] = fmaxf(highest[i % 4 / 2], score[i]);
    float shift[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      highest[h] = fmaxf(highest[h], __shfl_xor_sync(kFullWarp, highest[h], 1));
      highest[h] = fmaxf(highest[h], __shfl_xor_sync(kFullWarp, highest[h], 2));
      const float next = fmaxf(top[h], highest[h]);
      shift[h] = next == -INFINITY ? 0.0f : -next * scale;  // a query that sees nothing yet
      correction[h] = exp2_fast(fmaf(top[h], scale, shift[h]));
      top[h] = next;
      total[h] *= correction[h];
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      score[i] = exp2_fast(fmaf(score[i], scale, shift[i % 4 / 2]));
      total[i % 4 / 2] += score[i];
    }
  }
};

template <class T, int kSize, int kKeys, bool kCapped>
__device__ __forceinline__ void multiply_tiles(const AttentionArgs& args, const Work& work, unsigned shared,
                                               unsigned barriers) {
  using Place = Layout<kSize, kKeys>;
  constexpr unsigned kTileBytes = Place::kTileBytes;
  constexpr unsigned kKeyChunkBytes = kKeys * kSwizzle;
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;
  const int warp = static_cast<int>(threadIdx.x) / kWarp % 4;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int query = work.first_query + 64 * group + 16 * warp + lane / 4;
  const int window = static_cast<int>(args.window);
  const unsigned own_queries = shared + static_cast<unsigned>(64 * group * kSwizzle);

  float score[kKeys / 2];
  float out[kSize / 2] = {};
  std::uint32_t p[kKeys / 16][4];
  Softmax<kCapped> softmax(args);

  // score = q·kᵀ of tile t, not waited for
  const auto start_scores = [&](int t) {
    const unsigned keys =
        shared + static_cast<unsigned>(Place::kKeysAt) + static_cast<unsigned>(t % kStages) * kTileBytes;
    barrier_wait(barrier_of(barriers, kKeysThere, t % kStages), static_cast<unsigned>(t / kStages) & 1u);
    products_begin();
#pragma unroll
    for (int d = 0; d < kSize / 16; ++d) {
      const unsigned chunk = static_cast<unsigned>(d / (kChunk / 16));
      const unsigned within = static_cast<unsigned>(d % (kChunk / 16) * 32);
      multiply_shared<T>(score, tile_descriptor(own_queries + chunk * kQueries * kSwizzle + within, 16),
                         tile_descriptor(keys + chunk * kKeyChunkBytes + within, 16), d > 0);
    }
    products_commit();
  };
  // out += p·v of tile t, not waited for
  const auto start_values = [&](int t) {
    const unsigned values =
        shared + static_cast<unsigned>(Place::kValuesAt) + static_cast<unsigned>(t % kStages) * kTileBytes;
    barrier_wait(barrier_of(barriers, kValuesThere, t % kStages), static_cast<unsigned>(t / kStages) & 1u);
    products_begin();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      multiply_registers<T>(
          out, p[k], tile_descriptor(values + static_cast<unsigned>(k * 16 * kSwizzle), kKeyChunkBytes));
    }
    products_commit();
  };
  const auto release = [&](BarrierKind kind, int t) {
    if (lane == 0) barrier_arrive(barrier_of(barriers, kind, t % kStages));
  };
  const auto exponentials = [&](int t) {
    const int first = work.begin + t * kKeys;
    const bool masked = first + kKeys > work.first_query + 64 * group + 1 || window > 0;
    softmax.step(score, query, first, masked, window);
  };
  const auto pack_scores = [&] {
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) p[i / 4][i % 4] = pack(score[2 * i], score[2 * i + 1], T{});
  };

  barrier_wait(barriers, 0);
  start_scores(0);
  products_wait<0>();
  pin(score);
  release(kKeysFree, 0);
  exponentials(0);
  pack_scores();
  for (int t = 1; t < work.tiles; ++t) {
    start_scores(t);
    start_values(t - 1);
    products_wait<1>();
    pin(score);
    release(kKeysFree, t);
    exponentials(t);
    products_wait<0>();
    pin(out);
    release(kValuesFree, t - 1);
#pragma unroll
    for (int i = 0; i < kSize / 2; ++i) out[i] *= softmax.correction[i % 4 / 2];
    pack_scores();
  }
  start_values(work.tiles - 1);
  products_wait<0>();
  pin(out);

  T* const target = static_cast<T*>(args.out) +
                    std::int64_t{work.sequence} * args.sequence_length * args.num_heads * args.head_size +
                    work.head * args.head_size;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float total = softmax.total[h];
    total += __shfl_xor_sync(kFullWarp, total, 1);
    total += __shfl_xor_sync(kFullWarp, total, 2);
    total = with_sink(total, softmax.top[h] * softmax.scale / kLog2E, args.sinks, work.head);
    const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
    const int row = query + 8 * h;
    if (row >= args.sequence_length) continue;
    T* const place = target + row * args.num_heads * args.head_size + 2 * (lane % 4);
#pragma unroll
    for (int d = 0; d < kSize / 8; ++d) {
      if (8 * d < args.head_size) {
        *reinterpret_cast<std::uint32_t*>(place + 8 * d) =
            pack(out[4 * d + 2 * h] * inverse, out[4 * d + 2 * h + 1] * inverse, T{});
      }
    }
  }
}

template <class T, int kSize, int kKeys, bool kCapped>
__global__ __launch_bounds__(kThreads, 1) void hopper_kernel(AttentionArgs args,
                                                             const __grid_constant__ Maps maps) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint4 dynamic[];
  const unsigned shared =
      (shared_address(dynamic) + 1023u) & ~1023u;  // tiles of eight rows of kSwizzle bytes
  const unsigned barriers = shared + static_cast<unsigned>(Layout<kSize, kKeys>::kBarriersAt);
  if (threadIdx.x == 0) {
    barrier_init(barriers, 1);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(barrier_of(barriers, kKeysThere, stage), 1);
      barrier_init(barrier_of(barriers, kValuesThere, stage), 1);
      barrier_init(barrier_of(barriers, kKeysFree, stage), 4 * kGroups);  // a lane of each warp
      barrier_init(barrier_of(barriers, kValuesFree, stage), 4 * kGroups);
    }
    publish_barriers();
  }
  __syncthreads();
  const Work work = work_of<kKeys>(args);
  // The copying warpgroup leaves its registers to the others: 24 + 2·240 of the 3·168 that were given.
  if (threadIdx.x < kGroups * kWarpgroup) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    multiply_tiles<T, kSize, kKeys, kCapped>(args, work, shared, barriers);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x > kGroups * kWarpgroup) return;
    const int kv_head = work.head / static_cast<int>(args.num_heads / args.num_kv_heads);
    copy_tiles<kSize, kKeys>(maps, work, kv_head, shared, barriers);
  }
#endif
}

using EncodeMap = decltype(&cuTensorMapEncodeTiled);
EncodeMap encode_map() {
  static const EncodeMap function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const auto status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    return status == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeMap>(found)
                                                                          : nullptr;
  }();
  return function;
}

bool make_map(const AttentionArgs& args, const void* data, std::int64_t heads, int rows, CUtensorMap& map) {
  const auto unsigned_of = [](std::int64_t x) { return static_cast<cuuint64_t>(x); };
  const cuuint64_t sizes[] = {unsigned_of(args.head_size), unsigned_of(heads),
                              unsigned_of(args.sequence_length),
                              unsigned_of(args.rows / args.sequence_length)};
  const cuuint64_t strides[] = {unsigned_of(2 * args.head_stride), unsigned_of(2 * args.row_stride),
                                unsigned_of(2 * args.row_stride * args.sequence_length)};
  const cuuint32_t box[] = {kChunk, 1, static_cast<cuuint32_t>(rows), 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  const auto type =
      args.dtype == DType::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  return encode_map()(&map, type, 4, const_cast<void*>(data), sizes, strides, box, steps,
                      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// Whether the program holds this kernel's machine code for the device.
template <class Kernel>
bool has_machine_code(Kernel kernel) {
  static const bool has = [&] {
    cudaFuncAttributes attributes{};
    const bool known = cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess;
    cudaGetLastError();  // an unknown kernel is not the caller's error
    return known && attributes.binaryVersion == 90 && attributes.ptxVersion == 90;
  }();
  return has;
}

template <class T, int kSize, int kKeys>
bool launch(const AttentionArgs& args, cudaStream_t stream) {
  const auto with = [&](auto kernel) {
    if (!has_machine_code(kernel)) return false;
    Maps maps;
    if (!make_map(args, args.q, args.num_heads, kQueries, maps.q) ||
        !make_map(args, args.k, args.num_kv_heads, kKeys, maps.k) ||
        !make_map(args, args.v, args.num_kv_heads, kKeys, maps.v)) {
      return false;
    }
    constexpr int kBytes = Layout<kSize, kKeys>::kBytes + 1024;
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
    const std::int64_t query_tiles = (args.sequence_length + kQueries - 1) / kQueries;
    const std::int64_t blocks = query_tiles * args.num_heads * (args.rows / args.sequence_length);
    kernel<<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(args, maps);
    return true;
  };
  return args.softcap > 0.0f ? with(hopper_kernel<T, kSize, kKeys, true>)
                             : with(hopper_kernel<T, kSize, kKeys, false>);
}

template <class T>
bool launch_size(const AttentionArgs& args, cudaStream_t stream) {
  if (args.head_size <= 64) return launch<T, 64, 128>(args, stream);
  if (args.head_size <= 128) return launch<T, 128, 128>(args, stream);
  return launch<T, 256, 64>(args, stream);
}

}  // namespace

bool attention_hopper(const AttentionArgs& args, cudaStream_t stream) {
  if (args.dtype == DType::kF32 || args.head_size % 8 != 0 || args.row_stride % 8 != 0 ||
      args.head_stride % 8 != 0 || !is_aligned(args.q) || !is_aligned(args.k) || !is_aligned(args.v) ||
      !is_aligned(args.out) || encode_map() == nullptr) {
    return false;
  }
  return args.dtype == DType::kF16 ? launch_size<__half>(args, stream)
                                   : launch_size<__nv_bfloat16>(args, stream);
}

}  // namespace swiftprune::cuda
