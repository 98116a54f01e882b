#include "swiftprune/backend/cpu/gram_kernels.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>

// GCC 12 warns about its own _mm512_undefined_epi32 (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace swiftprune::cpu::gram_kernels {
namespace {

__m512i rounded(__m512 x) { return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x))); }

void pack_pair(const float* even, const float* odd, std::int64_t cols, std::int64_t panel_stride,
               std::int32_t* out) {
  for (std::int64_t c = 0; c < cols; c += kPanel, out += panel_stride) {
    const std::int64_t left = cols - c;
    const auto mask = static_cast<__mmask16>(left >= kPanel ? 0xFFFF : (1 << left) - 1);
    __m512i words = rounded(_mm512_maskz_loadu_ps(mask, even + c));
    if (odd != nullptr) {
      words = _mm512_or_si512(words, _mm512_slli_epi32(rounded(_mm512_maskz_loadu_ps(mask, odd + c)), 16));
    }
    _mm512_storeu_si512(out, words);
  }
}

void multiply(const std::int32_t* rows, const std::int32_t* cols, std::int64_t panel_stride,
              std::int64_t pairs, float* sums) {
  __m512 total[kTileRows][kTilePanels];
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 3
    for (int p = 0; p < kTilePanels; ++p) total[r][p] = _mm512_setzero_ps();
  }
  for (std::int64_t k = 0; k < pairs; ++k, rows += kPanel, cols += kPanel) {
    __m512i x[kTilePanels];
#pragma GCC unroll 3
    for (int p = 0; p < kTilePanels; ++p) x[p] = _mm512_loadu_si512(cols + p * panel_stride);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      const __m512i y = _mm512_set1_epi32(rows[r]);
#pragma GCC unroll 3
      for (int p = 0; p < kTilePanels; ++p) {
        total[r][p] =
            _mm512_dpbf16_ps(total[r][p], reinterpret_cast<__m512bh>(x[p]), reinterpret_cast<__m512bh>(y));
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 3
    for (int p = 0; p < kTilePanels; ++p) {
      _mm512_storeu_ps(sums + (r * kTilePanels + p) * kPanel, total[r][p]);
    }
  }
}

}  // namespace

const Table* avx512_bf16_table() {
  static const Table table{pack_pair, multiply};
  return &table;
}

}  // namespace swiftprune::cpu::gram_kernels
#else
namespace swiftprune::cpu::gram_kernels {
const Table* avx512_bf16_table() { return nullptr; }
}  // namespace swiftprune::cpu::gram_kernels
#endif
