#include "swiftprune/selection/row_kernels.h"

#if defined(__AVX512VBMI2__)

#include <immintrin.h>

namespace swiftprune {
namespace {

using std::int64_t;
using std::uint32_t;
using std::uint64_t;

struct F32 {
  static constexpr int64_t kBytes = 4;
  static __m512 load(const char* p, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, p); }
};
struct F16 {
  static constexpr int64_t kBytes = 2;
  static __m512 load(const char* p, __mmask16 lanes) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p));
  }
};
struct BF16 {
  static constexpr int64_t kBytes = 2;
  static __m512 load(const char* p, __mmask16 lanes) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
};

template <class T, bool kColumn, bool kSlope>
__m512 keys_of(const char* weights, const float* column, __m512 row, const float* slope, __mmask16 lanes) {
  const __m512 w = T::load(weights, lanes);
  __m512 factor = kColumn ? _mm512_maskz_loadu_ps(lanes, column) : _mm512_set1_ps(1.0f);
  if constexpr (kSlope) factor = _mm512_fmadd_ps(row, _mm512_maskz_loadu_ps(lanes, slope), factor);
  return _mm512_abs_ps(_mm512_mul_ps(w, factor));
}

template <class T, bool kColumn, bool kSlope>
float score_row(const char* w, int64_t n, const float* column, float row, const float* slope, float* keys) {
  constexpr __mmask16 kAll = 0xffff;
  const __m512 r = _mm512_set1_ps(row);
  __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  int64_t j = 0;
  for (; j + 64 <= n; j += 64) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) {
      const int64_t c = j + 16 * u;
      const __m512 key = keys_of<T, kColumn, kSlope>(w + c * T::kBytes, column + c, r, slope + c, kAll);
      _mm512_storeu_ps(keys + c, key);
      sum[u] = _mm512_add_ps(sum[u], key);
    }
  }
  for (const int64_t end = (n + 63) / 64 * 64; j < end; j += 16) {
    const int64_t left = n - j;
    const auto lanes = static_cast<__mmask16>(left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1u);
    const __m512 key = keys_of<T, kColumn, kSlope>(w + j * T::kBytes, column + j, r, slope + j, lanes);
    _mm512_storeu_ps(keys + j, _mm512_mask_blend_ps(lanes, _mm512_set1_ps(__builtin_inff()), key));
    sum[0] = _mm512_mask_add_ps(sum[0], lanes, sum[0], key);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
}

template <class T>
float score(const void* weights, int64_t n, const float* column, float row, const float* slope, float* keys) {
  const auto* w = static_cast<const char*>(weights);
  if (column == nullptr && slope == nullptr) {
    return score_row<T, false, false>(w, n, keys, row, keys, keys);  // unread pointers that may be advanced
  }
  if (column == nullptr) return score_row<T, false, true>(w, n, keys, row, slope, keys);
  if (slope == nullptr) return score_row<T, true, false>(w, n, column, row, column, keys);
  return score_row<T, true, true>(w, n, column, row, slope, keys);
}

// Packed in registers: a compressing store to memory is microcoded on some processors.
float* pack(float* target, __m512 keys, __mmask16 which) {
  _mm512_storeu_ps(target, _mm512_maskz_compress_ps(which, keys));
  return target + __builtin_popcount(which);
}

int64_t window(const float* keys, int64_t padded, float low, float high, float* inside, int64_t* num_inside) {
  const __m512 lo = _mm512_set1_ps(low);
  const __m512 hi = _mm512_set1_ps(high);
  float* end = inside;
  int64_t below_high = 0;
  for (int64_t j = 0; j < padded; j += 64) {
    __mmask16 below[4];
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) {
      const __m512 key = _mm512_loadu_ps(keys + j + 16 * u);
      below[u] = _mm512_cmp_ps_mask(key, hi, _CMP_LT_OQ);
      end = pack(end, key, _mm512_mask_cmp_ps_mask(below[u], key, lo, _CMP_GE_OQ));
    }
    below_high += __builtin_popcountll(
        _mm512_kunpackd(_mm512_kunpackw(below[3], below[2]), _mm512_kunpackw(below[1], below[0])));
  }
  *num_inside = end - inside;
  for (int u = 0; u < 4; ++u) _mm512_storeu_ps(end + 16 * u, _mm512_set1_ps(__builtin_inff()));
  return below_high - *num_inside;
}

int64_t count_below(const float* keys, int64_t padded, uint32_t bits) {
  const __m512i value = _mm512_set1_epi32(static_cast<int>(bits));
  int64_t count = 0;
  for (int64_t j = 0; j < padded; j += 64) {
    __mmask16 below[4];
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) {
      below[u] = _mm512_cmplt_epu32_mask(_mm512_loadu_si512(keys + j + 16 * u), value);
    }
    count += __builtin_popcountll(
        _mm512_kunpackd(_mm512_kunpackw(below[3], below[2]), _mm512_kunpackw(below[1], below[0])));
  }
  return count;
}

float as_float(uint32_t bits) {
  float value = 0.0f;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
uint32_t as_bits(float value) {
  uint32_t bits = 0;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

float threshold(const float* keys, int64_t padded, int64_t rank, float low, float high, int64_t* ties) {
  uint32_t below = as_bits(low);
  uint32_t above = as_bits(high);
  while (above - below > 1) {
    const uint32_t middle = below + (above - below) / 2;
    const int64_t count = count_below(keys, padded, middle);
    if (count == rank) {
      *ties = 0;
      return as_float(middle);
    }
    (count < rank ? below : above) = middle;
  }
  *ties = rank - count_below(keys, padded, below);
  return as_float(below);
}

// The first `ties` set bits of `equal`; `ties` becomes what is left.
uint64_t take_first(uint64_t equal, int64_t& ties) {
  uint64_t taken = 0;
  for (; equal != 0 && ties > 0; --ties) {
    taken |= equal & (~equal + 1);
    equal &= equal - 1;
  }
  return taken;
}

template <int kCompare>
uint64_t compare_64(const float* keys, __m512 value) {
  __mmask16 m[4];
#pragma GCC unroll 4
  for (int u = 0; u < 4; ++u) m[u] = _mm512_cmp_ps_mask(_mm512_loadu_ps(keys + 16 * u), value, kCompare);
  return _mm512_kunpackd(_mm512_kunpackw(m[3], m[2]), _mm512_kunpackw(m[1], m[0]));
}

void keep_above(const float* keys, int64_t padded, float threshold, int64_t ties, uint64_t* words) {
  const __m512 value = _mm512_set1_ps(threshold);
  for (int64_t j = 0; j < padded; j += 64) {
    uint64_t kept = compare_64<_CMP_GE_OQ>(keys + j, value);
    if (ties > 0) kept &= ~take_first(compare_64<_CMP_EQ_OQ>(keys + j, value), ties);
    words[j / 64] = kept;
  }
}

// Lane p meets the other members of its group by rotations; a member at a lower index also comes before p
// when equal: key_other < key_p + 1 on the bits.
template <int kM>
void keep_n_of_group(const float* keys, int64_t padded, int n, uint64_t* words) {
  __m512i other[kM];
  __m512i tie[kM];
  for (int d = 1; d < kM; ++d) {
    alignas(64) int index[16];
    alignas(64) int lower[16];
    for (int p = 0; p < 16; ++p) {
      index[p] = p / kM * kM + (p + d) % kM;
      lower[p] = index[p] < p;
    }
    other[d] = _mm512_load_si512(index);
    tie[d] = _mm512_load_si512(lower);
  }
  const __m512i pruned = _mm512_set1_epi32(kM - n);
  for (int64_t j = 0; j < padded; j += 64) {
    __mmask16 kept[4];
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) {
      const __m512i key = _mm512_loadu_si512(keys + j + 16 * u);
      __m512i before = _mm512_setzero_si512();
#pragma GCC unroll 16
      for (int d = 1; d < kM; ++d) {
        const __mmask16 sooner =
            _mm512_cmplt_epi32_mask(_mm512_permutexvar_epi32(other[d], key), _mm512_add_epi32(key, tie[d]));
        before = _mm512_mask_add_epi32(before, sooner, before, _mm512_set1_epi32(1));
      }
      kept[u] = _mm512_cmpge_epi32_mask(before, pruned);
    }
    words[j / 64] = _mm512_kunpackd(_mm512_kunpackw(kept[3], kept[2]), _mm512_kunpackw(kept[1], kept[0]));
  }
}

void keep_n_of_any(const float* keys, int64_t padded, int n, int m, uint64_t* words) {
  for (int64_t w = 0; w < padded / 64; ++w) words[w] = 0;
  const uint32_t valid = m == 32 ? 0xffffffffu : (1u << m) - 1u;
  for (int64_t first = 0; first + m <= padded; first += m) {
    const __m512 a = _mm512_loadu_ps(keys + first);
    const __m512 b = _mm512_loadu_ps(keys + first + 16);  // inside the buffer's slack
    for (int p = 0; p < m; ++p) {
      const __m512 key = _mm512_set1_ps(keys[first + p]);
      const uint32_t less = _mm512_cmp_ps_mask(a, key, _CMP_LT_OQ) |
                            static_cast<uint32_t>(_mm512_cmp_ps_mask(b, key, _CMP_LT_OQ)) << 16;
      const uint32_t equal = _mm512_cmp_ps_mask(a, key, _CMP_EQ_OQ) |
                             static_cast<uint32_t>(_mm512_cmp_ps_mask(b, key, _CMP_EQ_OQ)) << 16;
      const uint32_t before = (less & valid) | (equal & ((1u << p) - 1u));
      const uint64_t kept = __builtin_popcount(before) >= m - n;
      words[(first + p) / 64] |= kept << ((first + p) % 64);
    }
  }
}

void keep_n_of_m(const float* keys, int64_t padded, int n, int m, uint64_t* words) {
  switch (m) {
    case 2:
      return keep_n_of_group<2>(keys, padded, n, words);
    case 4:
      return keep_n_of_group<4>(keys, padded, n, words);
    case 8:
      return keep_n_of_group<8>(keys, padded, n, words);
    case 16:
      return keep_n_of_group<16>(keys, padded, n, words);
    default:
      return keep_n_of_any(keys, padded, n, m, words);
  }
}

void zero_32(void* weights, int64_t n, const uint64_t* words) {
  auto* w = static_cast<char*>(weights);
  for (int64_t j = 0; j < n; j += 16) {
    const int64_t left = n - j;
    const auto lanes = static_cast<__mmask16>(left >= 16 ? 0xffff : (1u << left) - 1u);
    const auto kept = static_cast<__mmask16>(words[j / 64] >> (j % 64));
    const __m512i kept_weights = _mm512_maskz_loadu_epi32(kept & lanes, w + 4 * j);
    if (left >= 16) {
      _mm512_storeu_si512(w + 4 * j, kept_weights);
    } else {
      _mm512_mask_storeu_epi32(w + 4 * j, lanes, kept_weights);
    }
  }
}

void zero_16(void* weights, int64_t n, const uint64_t* words) {
  auto* w = static_cast<char*>(weights);
  for (int64_t j = 0; j < n; j += 32) {
    const int64_t left = n - j;
    const auto lanes = static_cast<__mmask32>(left >= 32 ? 0xffffffffu : (1u << left) - 1u);
    const auto kept = static_cast<__mmask32>(words[j / 64] >> (j % 64));
    const __m512i kept_weights = _mm512_maskz_loadu_epi16(kept & lanes, w + 2 * j);
    if (left >= 32) {
      _mm512_storeu_si512(w + 2 * j, kept_weights);
    } else {
      _mm512_mask_storeu_epi16(w + 2 * j, lanes, kept_weights);
    }
  }
}

}  // namespace

const RowKernels* avx512_row_kernels() {
  static constexpr RowKernels kKernels = {
      .score_f32 = score<F32>,
      .score_f16 = score<F16>,
      .score_bf16 = score<BF16>,
      .window = window,
      .threshold = threshold,
      .keep_above = keep_above,
      .keep_n_of_m = keep_n_of_m,
      .zero_32 = zero_32,
      .zero_16 = zero_16,
  };
  return &kKernels;
}

}  // namespace swiftprune

#else

namespace swiftprune {
const RowKernels* avx512_row_kernels() { return nullptr; }
}  // namespace swiftprune

#endif
