// Bitmaps times few tokens: chunks on their way through shared memory, and a warp's part of a panel's sums.
#pragma once

#include "swiftprune/cuda/sparse/packed_launch.cuh"

namespace swiftprune::cuda {

constexpr int kChunkSlots = 4;  // chunks of a bitmap in shared memory, a warp

// x[0 .. 15], of which `cols` exist; the others are zero.
template <class T, bool kWhole>
__device__ __forceinline__ Words load_inputs(const T* x, int cols) {
  if constexpr (kWhole) {
    return load_words(reinterpret_cast<const std::byte*>(x));
  } else {
    Words words;
    const auto* bits = reinterpret_cast<const std::uint16_t*>(x);
    for (int i = 0; i < 8; ++i) {
      const std::uint32_t low = 2 * i < cols ? bits[2 * i] : 0;
      const std::uint32_t high = 2 * i + 1 < cols ? bits[2 * i + 1] : 0;
      words.v[i] = low | high << 16;
    }
    return words;
  }
}

// A warp's chunks on their way to shared memory.
class ChunkStream {
 public:
  // Chunks first .. of the weight; most: uint4 of one at most.
  __device__ ChunkStream(const BitmapWeight& weight, std::int64_t first, int count, int lane)
      : chunks_(weight.chunks + lane),
        starts_(weight.starts + first),
        most_(static_cast<int>(weight.most)),
        count_(count),
        lane_(lane),
        begin_(starts_[0]) {}
  // Begins to copy the next chunk.
  __device__ __forceinline__ void fetch(unsigned slot) {
    if (next_ >= count_) return;
    if (next_ % kWarp == 0) held_ = starts_[min(next_ + 1 + lane_, count_)];  // ends of 32 chunks
    const std::uint32_t end = __shfl_sync(kFullWarp, held_, next_ % kWarp);
    const uint4* source = chunks_ + begin_;
    const int size = static_cast<int>(end - begin_) - lane_;
    const unsigned target = slot + 16 * lane_;
#pragma unroll
    for (int i = 0; i < kUsual; ++i) {
      if (kWarp * i < size) copy_async(target + 16 * kWarp * i, source + kWarp * i);
    }
    if (most_ > kWarp * kUsual) {
#pragma unroll 1
      for (int i = kUsual; kWarp * i < size; ++i) copy_async(target + 16 * kWarp * i, source + kWarp * i);
    }
    begin_ = end;
    ++next_;
  }

 private:
  static constexpr int kUsual = 3;  // rounds of 32 lanes: enough for half of the weights
  const uint4* chunks_;
  const std::uint32_t* starts_;
  int most_, count_, lane_;
  int next_ = 0;
  std::uint32_t begin_;
  std::uint32_t held_ = 0;
};

// A warp's blocks first .. last - 1 of a panel. Made before the inputs are there: the first chunks are then on their way.
// kWhole: all columns exist and rows of x are aligned.
template <class T, int kTiles, bool kWhole, Stored kStored>
class BitmapSum {
 public:
  // own: kChunkSlots times slot_bytes of shared memory, the warp's
  __device__ __forceinline__ BitmapSum(const BitmapWeight& weight, std::int64_t panel, int blocks, int first,
                                       int last, std::byte* own, int slot_bytes, int lane)
      : stream_(weight, panel * blocks + first, last - first, lane),
        own_(own),
        slot_bytes_(slot_bytes),
        first_(first),
        count_(last - first),
        lane_(lane) {
#pragma unroll
    for (int i = 0; i < kChunkSlots - 1; ++i) {
      stream_.fetch(shared_address(own + i * slot_bytes));
      commit_copies();
    }
  }
  // sum += of rows 2g and 2g + 1; x: the inputs of the lane's token of each tile. The warp's memory is free afterwards.
  __device__ __forceinline__ void add_to(float (&sum)[kTiles][4], const T* const (&rows)[kTiles],
                                         int all_cols, const Spread* table) {
    const int t = lane_ % 4;
    const Decoder decoder(table, lane_ / 4);
    const int start = static_cast<int>(kCompactBlock) * first_ + 16 * t;
    const T* x[kTiles];
#pragma unroll
    for (int j = 0; j < kTiles; ++j) x[j] = rows[j] + start;
    int cols = all_cols - start;
    int slot = 0;
    int free_slot = kChunkSlots - 1;
    for (int i = 0; i < count_; ++i) {
      Words inputs[kTiles];
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        inputs[j] = load_inputs<T, kWhole>(x[j], cols);
        x[j] += kCompactBlock;
      }
      cols -= static_cast<int>(kCompactBlock);
      stream_.fetch(shared_address(own_ + free_slot * slot_bytes_));
      commit_copies();
      wait_copies<kChunkSlots - 1>();
      __syncwarp();
      const std::byte* chunk = own_ + slot * slot_bytes_;
      const unsigned values = shared_address(chunk + kValuesAt);
      const Words words = load_words(chunk + 32 * t);
      const uint4 starts = *reinterpret_cast<const uint4*>(chunk + 4 * kPairs + 16 * t);
      const std::uint32_t two_starts[4] = {starts.x, starts.y, starts.z, starts.w};
#pragma unroll
      for (int f = 0; f < 4; ++f) {
        std::uint32_t a[4];
        decoder.decode_as<kStored, T>(words.v[2 * f], values + (two_starts[f] & 0xffffu), a[0], a[1]);
        decoder.decode_as<kStored, T>(words.v[2 * f + 1], values + (two_starts[f] >> 16), a[2], a[3]);
#pragma unroll
        for (int j = 0; j < kTiles; ++j) multiply(sum[j], a, inputs[j].v[2 * f], inputs[j].v[2 * f + 1], T{});
      }
      __syncwarp();  // the slot is filled again by the next fetch
      free_slot = slot;
      slot = slot + 1 == kChunkSlots ? 0 : slot + 1;
    }
    wait_copies<0>();
    __syncwarp();
  }

 private:
  ChunkStream stream_;
  std::byte* own_;
  int slot_bytes_, first_, count_, lane_;
};

}  // namespace swiftprune::cuda
