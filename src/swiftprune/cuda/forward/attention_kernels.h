// Launchers of attention (attention.cu, attention_wide.cu), also over cached keys and values (generation.cu), as
// runtime/launch.h has them.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune::cuda {

// Causal attention of whole sequences: row r belongs to sequence r / sequence_length. No N×N matrix exists.
struct AttentionArgs {
  const void* q = nullptr;  // head h of row r at r·row_stride + h·head_stride elements; k, v likewise
  const void* k = nullptr;
  const void* v = nullptr;
  void* out = nullptr;  // [rows, heads·head_size]
  DType dtype = DType::kBF16;
  std::int64_t rows = 0;
  std::int64_t sequence_length = 0;
  std::int64_t row_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_size = 0;  // at most kMostHeadSize
  float scale = 1.0f;
  float softcap = 0.0f;     // > 0: cap·tanh(score/cap)
  std::int64_t window = 0;  // > 0: keys a query sees, itself included
  // [heads] or null: a score of each head that every query has beside its keys', and that brings no value
  const float* sinks = nullptr;
  // [heads] or null: slope·(key − query) joins each score (ALiBi)
  const float* slopes = nullptr;
};
inline constexpr std::int64_t kMostHeadSize = 512;
// The fastest kernel that the device has for these arguments.
void attention(const AttentionArgs& args, cudaStream_t stream);
// The kernel of every device, for heads of at most kMostTiledHeadSize and without slopes.
inline constexpr std::int64_t kMostTiledHeadSize = 256;
void attention_portable(const AttentionArgs& args, cudaStream_t stream);

// -- Generation (generation.cu) -----------------------------------------------------------------------------
// Keys and values of several sequences, each in a lane of its own, in pages: position p of lane l lies in page
// pages[l·pages_per_lane + p / kCachePage], whose bytes `keys` and `values` begin [kCachePage, kv_heads·head_size] of the
// attention's dtype. Row r of q, k and v (AttentionArgs) belongs to sequence s = r / sequence_length and
// stands at position positions[s] + r % sequence_length of lane lanes[s]; pages, lanes and positions lie on the device, so
// that a recorded launch serves any.
struct CacheArgs {
  std::byte* const* pages = nullptr;  // each aligned to 256 bytes
  std::int64_t pages_per_lane = 0;
  std::int64_t keys = 0;  // multiples of 16
  std::int64_t values = 0;
  std::int64_t capacity = 0;  // positions of a lane at most
  const std::int32_t* lanes = nullptr;
  const std::int32_t* positions = nullptr;
  void* scratch = nullptr;  // kCacheScratch bytes of this stream's own, zero before the first launch
};
inline constexpr std::int64_t kCachePage = 64;
inline constexpr std::int64_t kCacheScratch = std::int64_t{2} << 20;
void append_cache(const AttentionArgs& args, const CacheArgs& cache, cudaStream_t stream);
// prepare_heads() for queries and keys that lie one after another and are only rotated, and append_cache(), in one pass.
// False, with nothing done, for heads that it does not take.
bool rotate_and_append(const HeadsArgs& heads, const AttentionArgs& args, const CacheArgs& cache,
                       cudaStream_t stream);
// Attention of the rows with all cached positions up to their own, and, without a cache, of whole sequences: of large
// heads, and with slopes (attention_wide.cu). Others go to faster kernels.
void wide_attention(const AttentionArgs& args, const CacheArgs* cache, cudaStream_t stream);
inline bool needs_wide_attention(const AttentionArgs& args) {
  return args.head_size > kMostTiledHeadSize || args.slopes != nullptr;
}
// Attention of the rows with all cached positions up to their own.
void cached_attention(const AttentionArgs& args, const CacheArgs& cache, cudaStream_t stream);

// x = cap·tanh(x / cap)
void soft_cap(float* x, std::int64_t n, float cap, cudaStream_t stream);
// y = sum of `bytes` / 16 words of x: what reading memory takes
void read_all(const void* x, std::int64_t bytes, std::uint32_t* y, cudaStream_t stream);

}  // namespace swiftprune::cuda
