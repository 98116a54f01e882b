#include "swiftprune/selection/row_kernels.h"

#if defined(__AVX2__)

#include <immintrin.h>

namespace swiftprune {
namespace {

using std::int64_t;
using std::uint32_t;
using std::uint64_t;

struct F32 {
  static constexpr int64_t kBytes = 4;
  static __m256 load(const char* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
};
struct F16 {
  static constexpr int64_t kBytes = 2;
  static __m256 load(const char* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
};
struct BF16 {
  static constexpr int64_t kBytes = 2;
  static __m256 load(const char* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
};

template <class T, bool kColumn, bool kSlope>
__m256 keys_of(const char* weights, const float* column, __m256 row, const float* slope) {
  __m256 factor = kColumn ? _mm256_loadu_ps(column) : _mm256_set1_ps(1.0f);
  if constexpr (kSlope) factor = _mm256_fmadd_ps(row, _mm256_loadu_ps(slope), factor);
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_mul_ps(T::load(weights), factor));
}

float add_lanes(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

template <class T, bool kColumn, bool kSlope>
float score_row(const char* w, int64_t n, const float* column, float row, const float* slope, float* keys) {
  const __m256 r = _mm256_set1_ps(row);
  __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
  int64_t j = 0;
  for (; j + 32 <= n; j += 32) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) {
      const int64_t c = j + 8 * u;
      const __m256 key = keys_of<T, kColumn, kSlope>(w + c * T::kBytes, column + c, r, slope + c);
      _mm256_storeu_ps(keys + c, key);
      sum[u] = _mm256_add_ps(sum[u], key);
    }
  }
  float total = add_lanes(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
  if (j < n) {  // the last columns through copies of full width
    const int64_t left = n - j;
    char weights[32 * T::kBytes] = {};
    float columns[32] = {};
    float slopes[32] = {};
    __builtin_memcpy(weights, w + j * T::kBytes, static_cast<std::size_t>(left * T::kBytes));
    if (kColumn) __builtin_memcpy(columns, column + j, static_cast<std::size_t>(left) * 4);
    if (kSlope) __builtin_memcpy(slopes, slope + j, static_cast<std::size_t>(left) * 4);
    float last[32];
    for (int c = 0; c < 32; c += 8) {
      _mm256_storeu_ps(last + c,
                       keys_of<T, kColumn, kSlope>(weights + c * T::kBytes, columns + c, r, slopes + c));
    }
    for (int64_t c = 0; c < left; ++c) {
      keys[j + c] = last[c];
      total += last[c];
    }
  }
  for (int64_t c = n; c < (n + 63) / 64 * 64; ++c) keys[c] = __builtin_inff();
  return total;
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

// Row b lists the set bits of b: the permutation that packs those lanes to the front.
struct PackTable {
  alignas(32) std::uint8_t lanes[256][8];
  constexpr PackTable() : lanes() {
    for (int b = 0; b < 256; ++b) {
      int count = 0;
      for (int lane = 0; lane < 8; ++lane) {
        if ((b >> lane) & 1) lanes[b][count++] = static_cast<std::uint8_t>(lane);
      }
    }
  }
};
constexpr PackTable kPack;

float* pack(float* target, __m256 keys, uint32_t which) {
  const __m256i order =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPack.lanes[which])));
  _mm256_storeu_ps(target, _mm256_permutevar8x32_ps(keys, order));
  return target + __builtin_popcount(which);
}

uint32_t bits_of(__m256 mask) { return static_cast<uint32_t>(_mm256_movemask_ps(mask)); }

int64_t window(const float* keys, int64_t padded, float low, float high, float* inside, int64_t* num_inside) {
  const __m256 lo = _mm256_set1_ps(low);
  const __m256 hi = _mm256_set1_ps(high);
  float* end = inside;
  int64_t below_high = 0;
  for (int64_t j = 0; j < padded; j += 32) {
    uint32_t below = 0;
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) {
      const __m256 key = _mm256_loadu_ps(keys + j + 8 * u);
      const uint32_t below_8 = bits_of(_mm256_cmp_ps(key, hi, _CMP_LT_OQ));
      below |= below_8 << (8 * u);
      end = pack(end, key, below_8 & bits_of(_mm256_cmp_ps(key, lo, _CMP_GE_OQ)));
    }
    below_high += __builtin_popcount(below);
  }
  *num_inside = end - inside;
  for (int u = 0; u < 8; ++u) _mm256_storeu_ps(end + 8 * u, _mm256_set1_ps(__builtin_inff()));
  return below_high - *num_inside;
}

// `bits` and the keys are non-negative floats: signed comparison orders them.
int64_t count_below(const float* keys, int64_t padded, uint32_t bits) {
  const __m256i value = _mm256_set1_epi32(static_cast<int>(bits));
  __m256i count[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                      _mm256_setzero_si256()};
  for (int64_t j = 0; j < padded; j += 32) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) {
      const __m256i key = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys + j + 8 * u));
      count[u] = _mm256_sub_epi32(count[u], _mm256_cmpgt_epi32(value, key));
    }
  }
  const __m256i sum =
      _mm256_add_epi32(_mm256_add_epi32(count[0], count[1]), _mm256_add_epi32(count[2], count[3]));
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
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
uint64_t compare_64(const float* keys, __m256 value) {
  uint64_t word = 0;
#pragma GCC unroll 8
  for (int u = 0; u < 8; ++u) {
    word |= uint64_t{bits_of(_mm256_cmp_ps(_mm256_loadu_ps(keys + 8 * u), value, kCompare))} << (8 * u);
  }
  return word;
}

void keep_above(const float* keys, int64_t padded, float threshold, int64_t ties, uint64_t* words) {
  const __m256 value = _mm256_set1_ps(threshold);
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
  __m256i other[kM];
  __m256i tie[kM];
  for (int d = 1; d < kM; ++d) {
    alignas(32) int index[8];
    alignas(32) int lower[8];
    for (int p = 0; p < 8; ++p) {
      index[p] = p / kM * kM + (p + d) % kM;
      lower[p] = index[p] < p;
    }
    other[d] = _mm256_load_si256(reinterpret_cast<const __m256i*>(index));
    tie[d] = _mm256_load_si256(reinterpret_cast<const __m256i*>(lower));
  }
  const __m256i pruned = _mm256_set1_epi32(n - kM);  // minus the number that comes before a kept key
  for (int64_t j = 0; j < padded; j += 64) {
    uint64_t word = 0;
#pragma GCC unroll 8
    for (int u = 0; u < 8; ++u) {
      const __m256i key = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys + j + 8 * u));
      __m256i before = _mm256_setzero_si256();
#pragma GCC unroll 8
      for (int d = 1; d < kM; ++d) {
        before = _mm256_add_epi32(before, _mm256_cmpgt_epi32(_mm256_add_epi32(key, tie[d]),
                                                             _mm256_permutevar8x32_epi32(key, other[d])));
      }
      const uint32_t dropped = bits_of(_mm256_castsi256_ps(_mm256_cmpgt_epi32(before, pruned)));
      word |= uint64_t{dropped} << (8 * u);
    }
    words[j / 64] = ~word;
  }
}

uint32_t compare_32(const float* group, __m256 key, bool equal) {
  uint32_t bits = 0;
#pragma GCC unroll 4
  for (int u = 0; u < 4; ++u) {
    const __m256 other = _mm256_loadu_ps(group + 8 * u);
    bits |= bits_of(equal ? _mm256_cmp_ps(other, key, _CMP_EQ_OQ) : _mm256_cmp_ps(other, key, _CMP_LT_OQ))
            << (8 * u);
  }
  return bits;
}

void keep_n_of_any(const float* keys, int64_t padded, int n, int m, uint64_t* words) {
  for (int64_t w = 0; w < padded / 64; ++w) words[w] = 0;
  const uint32_t valid = m == 32 ? 0xffffffffu : (1u << m) - 1u;
  for (int64_t first = 0; first + m <= padded; first += m) {  // reads up to 32 keys: inside the slack
    for (int p = 0; p < m; ++p) {
      const __m256 key = _mm256_set1_ps(keys[first + p]);
      const uint32_t before = (compare_32(keys + first, key, false) & valid) |
                              (compare_32(keys + first, key, true) & ((1u << p) - 1u));
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
    default:
      return keep_n_of_any(keys, padded, n, m, words);
  }
}

void zero_32(void* weights, int64_t n, const uint64_t* words) {
  auto* w = static_cast<char*>(weights);
  const __m256i lane_bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  int64_t j = 0;
  for (; j + 8 <= n; j += 8) {
    auto* p = reinterpret_cast<__m256i*>(w + 4 * j);
    const __m256i bits = _mm256_set1_epi32(static_cast<int>(words[j / 64] >> (j % 64)));
    const __m256i kept = _mm256_cmpeq_epi32(_mm256_and_si256(bits, lane_bit), lane_bit);
    _mm256_storeu_si256(p, _mm256_and_si256(_mm256_loadu_si256(p), kept));
  }
  for (; j < n; ++j) {
    if (((words[j / 64] >> (j % 64)) & 1u) == 0) __builtin_memset(w + 4 * j, 0, 4);
  }
}

void zero_16(void* weights, int64_t n, const uint64_t* words) {
  auto* w = static_cast<char*>(weights);
  const __m256i lane_bit =
      _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
  int64_t j = 0;
  for (; j + 16 <= n; j += 16) {
    auto* p = reinterpret_cast<__m256i*>(w + 2 * j);
    const __m256i bits = _mm256_set1_epi16(static_cast<short>(words[j / 64] >> (j % 64)));
    const __m256i kept = _mm256_cmpeq_epi16(_mm256_and_si256(bits, lane_bit), lane_bit);
    _mm256_storeu_si256(p, _mm256_and_si256(_mm256_loadu_si256(p), kept));
  }
  for (; j < n; ++j) {
    if (((words[j / 64] >> (j % 64)) & 1u) == 0) __builtin_memset(w + 2 * j, 0, 2);
  }
}

}  // namespace

const RowKernels* avx2_row_kernels() {
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
const RowKernels* avx2_row_kernels() { return nullptr; }
}  // namespace swiftprune

#endif
