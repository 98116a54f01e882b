// Where the positions of one lane lie in a cache of pages (CacheArgs).
#pragma once

#include "swiftprune/cuda/kernels.h"

namespace swiftprune::cuda {

template <class T>
class LanePlaces {
 public:
  struct Place {
    T *keys, *values;  // of the position's first head
  };
  __device__ __forceinline__ LanePlaces() {}
  // sequence: index into cache.lanes; width: elements of a position's keys.
  __device__ __forceinline__ LanePlaces(const CacheArgs& cache, std::int64_t sequence, std::int64_t width)
      : pages_(cache.pages + cache.lanes[sequence] * cache.pages_per_lane),
        keys_(cache.keys),
        values_(cache.values),
        width_(width) {}
  __device__ __forceinline__ Place at(std::int64_t position) const {
    std::byte* const page = pages_[position / kCachePage];
    const std::int64_t row = position % kCachePage * width_;
    return {reinterpret_cast<T*>(page + keys_) + row, reinterpret_cast<T*>(page + values_) + row};
  }

 private:
  std::byte* const* pages_ = nullptr;
  std::int64_t keys_ = 0, values_ = 0, width_ = 0;
};

}  // namespace swiftprune::cuda
