// Where the streams of one panel of a grid stand, whatever the registers: the parts of grid_avx2.cpp, grid_avx512.cpp and
// grid_neon.inc that hold no vector. For those files only, each with its own copy.
#pragma once

#include "swiftprune/sparse/kernels.h"

namespace swiftprune::sparse_kernels {
namespace {  // internal: code compiled with these flags must never be linked into another file

constexpr int kSteps = 8;  // of a chunk

// Bytes between the values read and those asked for, as in streams_avx512.h.
constexpr int kGridPrefetch = 2048;

inline void prefetch_grid(const void* address) {
  __builtin_prefetch(static_cast<const char*>(address) + kGridPrefetch);
}

inline std::uint64_t load64(const std::uint8_t* p) {
  std::uint64_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return bits;
}

// Steps whose codes share a byte.
constexpr int steps_a_byte(int bits) { return bits == 8 ? 1 : bits == 4 ? 2 : 4; }

// Dense and N of 4: every chunk has the same size.
template <int kBits, bool kMasked>
struct FixedPlace {
  const std::uint8_t* first = nullptr;
  const std::uint64_t* masks = nullptr;
  std::int64_t codes = 64;  // of a step
  const std::uint8_t* chunk = nullptr;
  const std::uint64_t* mask = nullptr;

  void open(const Weights& w, std::int64_t panel, const GridCursor&) {
    codes = kMasked ? std::int64_t{kRows} * w.group_n : 64;
    first = static_cast<const std::uint8_t*>(w.values) + panel * w.chunks * codes * kBits;
    if (kMasked) masks = static_cast<const std::uint64_t*>(w.masks) + panel * w.steps;
  }
  void begin(std::int64_t at) {
    chunk = first + at * codes * kBits;
    for (std::int64_t line = 0; line < codes * kBits; line += 64) prefetch_grid(chunk + line);
    if (!kMasked) return;
    mask = masks + at * kSteps;
    prefetch_grid(mask);
  }
  void close(GridCursor&) const {}

  // Of step `s` of the chunk: where its codes are, and with 3 bits their third bits.
  template <int s>
  const std::uint8_t* codes_of() const {
    return chunk + s / steps_a_byte(kBits) * codes;
  }
  template <int s>
  std::uint64_t third_bits_of() const {
    return kBits == 3 ? load64(chunk + 2 * codes + s * codes / 8) : 0;
  }
};

// Bitmaps: as many codes as the masks say, in streams side by side.
template <int kBits>
struct BitmapPlace {
  static constexpr int kStreams = steps_a_byte(kBits);
  const std::uint8_t* first = nullptr;
  const std::uint8_t* high = nullptr;
  const std::uint8_t* at[kStreams] = {};
  std::int64_t total = 0;  // codes so far, of 3 bits
  const std::uint64_t* masks = nullptr;
  const std::uint64_t* mask = nullptr;

  void open(const Weights& w, std::int64_t panel, const GridCursor& cursor) {
    const auto* values = static_cast<const std::uint8_t*>(w.values);
    const std::uint64_t* offset = w.offsets + panel * (kBits == 3 ? 2 : 1);
    first = values + offset[0];
    if (kBits == 3) high = values + offset[1];
    for (int k = 0; k < kStreams; ++k) at[k] = first + cursor.at[k];
    total = cursor.total;
    masks = static_cast<const std::uint64_t*>(w.masks) + panel * w.steps;
  }
  void begin(std::int64_t chunk) {
    mask = masks + chunk * kSteps;
    prefetch_grid(mask);
    for (int line = 0; line < kBits; line += 2) prefetch_grid(at[0] + line * 64);
  }
  void close(GridCursor& cursor) const {
    for (int k = 0; k < kStreams; ++k) cursor.at[k] = at[k] - first;
    cursor.total = total;
  }

  // The third bits of the next codes; what is above a step's own is of later ones.
  std::uint64_t third_bits() const {
    if constexpr (kBits != 3) return 0;
    const std::uint8_t* byte = high + total / 8;
    const int shift = static_cast<int>(total % 8);
    return load64(byte) >> shift | (load64(byte + 8) << 1) << (63 - shift);
  }
  template <int s>
  void pass(int count) {
    at[s % kStreams] += count;
    if constexpr (kBits == 3) total += count;
  }
};

}  // namespace
}  // namespace swiftprune::sparse_kernels
