#include "swiftprune/tensor/dtype_kernels.h"

#if defined(__AVX2__) && defined(__F16C__)
#include <immintrin.h>
#endif

namespace swiftprune {

#if defined(__AVX2__) && defined(__F16C__)
namespace {

constexpr std::int64_t kLanes = 8;

__m256 widen_f16(__m128i bits) { return _mm256_cvtph_ps(bits); }

__m256 widen_bf16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

__m128i without_negative_zero(__m128i bits) {
  return _mm_andnot_si128(_mm_cmpeq_epi16(bits, _mm_set1_epi16(-0x8000)), bits);
}

__m128i narrow_f16(__m256 values) {
  return without_negative_zero(_mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

__m128i narrow_bf16(__m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i upper = _mm256_srli_epi32(bits, 16);
  const __m256i rounding =
      _mm256_add_epi32(_mm256_set1_epi32(0x7fff), _mm256_and_si256(upper, _mm256_set1_epi32(1)));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, rounding), 16);
  const __m256i nan = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  const __m256i result = _mm256_blendv_epi8(rounded, nan, is_nan);
  return without_negative_zero(
      _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1)));
}

template <__m256 (*kWiden)(__m128i)>
void widen(const std::byte* source, float* target, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    _mm256_storeu_ps(target + i, kWiden(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + 2 * i))));
  }
  if (i == n) return;
  alignas(16) std::byte tail[2 * kLanes] = {};
  alignas(32) float values[kLanes];
  __builtin_memcpy(tail, source + 2 * i, static_cast<std::size_t>(2 * (n - i)));
  _mm256_store_ps(values, kWiden(_mm_load_si128(reinterpret_cast<const __m128i*>(tail))));
  __builtin_memcpy(target + i, values, static_cast<std::size_t>(n - i) * sizeof(float));
}

template <__m128i (*kNarrow)(__m256)>
void narrow(const float* source, std::byte* target, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + 2 * i), kNarrow(_mm256_loadu_ps(source + i)));
  }
  if (i == n) return;
  alignas(32) float values[kLanes] = {};
  alignas(16) std::byte tail[2 * kLanes];
  __builtin_memcpy(values, source + i, static_cast<std::size_t>(n - i) * sizeof(float));
  _mm_store_si128(reinterpret_cast<__m128i*>(tail), kNarrow(_mm256_load_ps(values)));
  __builtin_memcpy(target + 2 * i, tail, static_cast<std::size_t>(2 * (n - i)));
}

}  // namespace

const DTypeKernels* dtype_kernels_avx2() {
  static constexpr DTypeKernels kKernels = {widen<widen_f16>, widen<widen_bf16>, narrow<narrow_f16>,
                                            narrow<narrow_bf16>};
  return &kKernels;
}
#else
const DTypeKernels* dtype_kernels_avx2() { return nullptr; }
#endif

}  // namespace swiftprune
