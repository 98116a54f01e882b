// The packed streams, read a step at a time; for the AVX-512 files only, each with its own copy.
#pragma once

#include <immintrin.h>

#include "swiftprune/sparse/kernels.h"

#define SWIFTPRUNE_UNROLL _Pragma("GCC unroll 32")

namespace swiftprune::sparse_kernels {
namespace {  // internal: code compiled with these flags must never be linked into another file

// Bytes between the values read and those asked for: streams at half density are too uneven for the
// processor's own prefetcher.
constexpr int kPrefetch = 2048;

// vpexpand waits for the old content of its target on some processors (Zen 5: 5 cycles); a fresh zero ends
// the wait. The load stays apart because its memory form is slow there.
inline __m512i expand16(std::uint32_t mask, const std::uint16_t* values) {
  __m512i zero = _mm512_setzero_si512();
  __m512i packed = _mm512_loadu_si512(values);
  asm("" : "+v"(zero), "+v"(packed));
  return _mm512_mask_expand_epi16(zero, mask, packed);
}

inline __m512i expand8(std::uint64_t mask, const std::int8_t* values) {
  __m512i zero = _mm512_setzero_si512();
  __m512i packed = _mm512_loadu_si512(values);
  asm("" : "+v"(zero), "+v"(packed));
  return _mm512_mask_expand_epi8(zero, mask, packed);
}

struct DenseStream {
  const std::uint16_t* values = nullptr;

  void open(const Weights& w, std::int64_t panel) {
    values = static_cast<const std::uint16_t*>(w.values) + panel * w.steps * 32;
  }
  __m512i next(std::int64_t step) { return _mm512_loadu_si512(values + step * 32); }
};

struct BitmapStream {
  const std::uint16_t* values = nullptr;
  const std::uint32_t* masks = nullptr;

  void open(const Weights& w, std::int64_t panel) {
    values = static_cast<const std::uint16_t*>(w.values) + w.offsets[panel];
    masks = static_cast<const std::uint32_t*>(w.masks) + panel * w.steps;
  }
  __m512i next(std::int64_t step) {
    const std::uint32_t mask = masks[step];
    _mm_prefetch(reinterpret_cast<const char*>(values) + kPrefetch, _MM_HINT_T0);
    if (step % 16 == 0) _mm_prefetch(reinterpret_cast<const char*>(masks + step) + kPrefetch, _MM_HINT_T0);
    const __m512i weights = expand16(mask, values);
    values += __builtin_popcount(mask);
    return weights;
  }
};

struct DenseInt8Stream {
  const std::int8_t* values = nullptr;

  void open(const Weights& w, std::int64_t panel) {
    values = static_cast<const std::int8_t*>(w.values) + panel * w.steps * 64;
  }
  __m512i next(std::int64_t step) { return _mm512_loadu_si512(values + step * 64); }
};

struct BitmapInt8Stream {
  const std::int8_t* values = nullptr;
  const std::uint64_t* masks = nullptr;

  void open(const Weights& w, std::int64_t panel) {
    values = static_cast<const std::int8_t*>(w.values) + w.offsets[panel];
    masks = static_cast<const std::uint64_t*>(w.masks) + panel * w.steps;
  }
  __m512i next(std::int64_t step) {
    const std::uint64_t mask = masks[step];
    _mm_prefetch(reinterpret_cast<const char*>(values) + kPrefetch, _MM_HINT_T0);
    if (step % 8 == 0) _mm_prefetch(reinterpret_cast<const char*>(masks + step) + kPrefetch, _MM_HINT_T0);
    const __m512i weights = expand8(mask, values);
    values += __builtin_popcountll(mask);
    return weights;
  }
};

}  // namespace
}  // namespace swiftprune::sparse_kernels
