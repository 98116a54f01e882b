#include "swiftprune/tensor/dtype_kernels.h"

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#endif

namespace swiftprune {

#if defined(__AVX512BW__) && defined(__AVX512VL__)
namespace {

__mmask16 lanes(std::int64_t left) {
  return left >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << left) - 1u);
}

__m256i load16(const std::byte* source, __mmask16 mask) { return _mm256_maskz_loadu_epi16(mask, source); }

void store16(std::byte* target, __mmask16 mask, __m256i bits) {
  const __mmask16 negative_zero = _mm256_cmpeq_epi16_mask(bits, _mm256_set1_epi16(-0x8000));
  _mm256_mask_storeu_epi16(target, mask, _mm256_mask_mov_epi16(bits, negative_zero, _mm256_setzero_si256()));
}

void f16_to_f32(const std::byte* source, float* target, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = lanes(n - i);
    _mm512_mask_storeu_ps(target + i, mask, _mm512_cvtph_ps(load16(source + 2 * i, mask)));
  }
}

void bf16_to_f32(const std::byte* source, float* target, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = lanes(n - i);
    const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(load16(source + 2 * i, mask)), 16);
    _mm512_mask_storeu_ps(target + i, mask, _mm512_castsi512_ps(wide));
  }
}

void f32_to_f16(const float* source, std::byte* target, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = lanes(n - i);
    const __m512 values = _mm512_maskz_loadu_ps(mask, source + i);
    store16(target + 2 * i, mask, _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
}

// By integers: vcvtneps2bf16 would take subnormals for zero.
void f32_to_bf16(const float* source, std::byte* target, std::int64_t n) {
  const __m512i half = _mm512_set1_epi32(0x7fff);
  const __m512i one = _mm512_set1_epi32(1);
  const __m512i quiet = _mm512_set1_epi32(0x40);
  for (std::int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = lanes(n - i);
    const __m512 values = _mm512_maskz_loadu_ps(mask, source + i);
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i upper = _mm512_srli_epi32(bits, 16);
    const __m512i rounding = _mm512_add_epi32(half, _mm512_and_si512(upper, one));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, rounding), 16);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
    const __m512i result = _mm512_mask_or_epi32(rounded, is_nan, upper, quiet);
    store16(target + 2 * i, mask, _mm512_cvtepi32_epi16(result));
  }
}

}  // namespace

const DTypeKernels* dtype_kernels_avx512() {
  static constexpr DTypeKernels kKernels = {f16_to_f32, bf16_to_f32, f32_to_f16, f32_to_bf16};
  return &kKernels;
}
#else
const DTypeKernels* dtype_kernels_avx512() { return nullptr; }
#endif

}  // namespace swiftprune
