// AVX2 kernels: expansion of panels to float tiles and the product with them.
#include "swiftprune/sparse/kernels_avx2.h"

#if defined(__AVX2__)
#include <immintrin.h>

#define SWIFTPRUNE_UNROLL _Pragma("GCC unroll 16")

namespace swiftprune::sparse_kernels {
namespace {

// Eight rows by two columns -> the rows' even and odd columns as floats.
template <bool kF16>
inline void store_half_step(__m256i step, float* even_to, float* odd_to) {
  __m256 even, odd;
  if constexpr (kF16) {
    const __m256i low = _mm256_and_si256(step, _mm256_set1_epi32(0xffff));
    const __m256i high = _mm256_srli_epi32(step, 16);
    const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
    even = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
    odd = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
  } else {
    even = _mm256_castsi256_ps(_mm256_slli_epi32(step, 16));
    odd = _mm256_castsi256_ps(_mm256_and_si256(step, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  _mm256_storeu_ps(even_to, even);
  _mm256_storeu_ps(odd_to, odd);
}

template <bool kF16>
inline void store_step(float* tile, __m256i low_rows, __m256i high_rows) {
  store_half_step<kF16>(low_rows, tile, tile + kRows);
  store_half_step<kF16>(high_rows, tile + 8, tile + kRows + 8);
}

inline __m256i load(const void* address) { return _mm256_loadu_si256(static_cast<const __m256i*>(address)); }

template <bool kF16>
std::int64_t expand_dense(const ExpandArgs& a) {
  auto* tile = static_cast<float*>(a.tile);
  const auto* values = static_cast<const std::uint16_t*>(a.weights->values) + a.panel * a.weights->steps * 32;
  for (std::int64_t k = a.first_pair; k < a.last_pair; ++k, tile += 2 * kRows) {
    store_step<kF16>(tile, load(values + k * 32), load(values + k * 32 + 16));
  }
  return 0;
}

template <bool kF16>
std::int64_t expand_block(const ExpandArgs& a) {
  auto* tile = static_cast<float*>(a.tile);
  const Weights& w = *a.weights;
  const auto num_tiles = static_cast<std::int64_t>(w.offsets[a.panel + 1] - w.offsets[a.panel]);
  const std::uint32_t* columns = w.columns + w.offsets[a.panel];
  const auto* values = static_cast<const std::uint16_t*>(w.values) + w.offsets[a.panel] * 256;
  std::int64_t t = a.cursor;
  for (std::int64_t k = a.first_pair; k < a.last_pair; k += 8) {
    const bool present = t < num_tiles && std::int64_t{8} * columns[t] == k;
    for (std::int64_t i = 0; i < 8 && k + i < a.last_pair; ++i, tile += 2 * kRows) {
      const std::uint16_t* step = values + t * 256 + i * 32;
      const __m256i zero = _mm256_setzero_si256();
      store_step<kF16>(tile, present ? load(step) : zero, present ? load(step + 16) : zero);
    }
    t += present ? 1 : 0;
  }
  return t;
}

// Eight lanes of a step by the shuffle table.
inline __m128i expand_lanes(const std::uint16_t*& values, std::uint32_t lanes) {
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  values += __builtin_popcount(lanes);
  return _mm_shuffle_epi8(packed, _mm_load_si128(reinterpret_cast<const __m128i*>(kExpand16.entry[lanes])));
}

template <bool kF16>
std::int64_t expand_bitmap(const ExpandArgs& a) {
  auto* tile = static_cast<float*>(a.tile);
  const auto* masks = static_cast<const std::uint32_t*>(a.weights->masks) + a.panel * a.weights->steps;
  const auto* first = static_cast<const std::uint16_t*>(a.weights->values) + a.weights->offsets[a.panel];
  const std::uint16_t* value = first + a.cursor;
  for (std::int64_t k = a.first_pair; k < a.last_pair; ++k, tile += 2 * kRows) {
    const std::uint32_t mask = masks[k];
    const __m128i rows0 = expand_lanes(value, mask & 0xff);
    const __m128i rows4 = expand_lanes(value, mask >> 8 & 0xff);
    const __m128i rows8 = expand_lanes(value, mask >> 16 & 0xff);
    const __m128i rows12 = expand_lanes(value, mask >> 24);
    store_step<kF16>(tile, _mm256_set_m128i(rows4, rows0), _mm256_set_m128i(rows12, rows8));
  }
  return value - first;
}

// Column c of a group is made by putting each slot's value where the slot's index is c.
template <bool kF16>
std::int64_t expand_nm(const ExpandArgs& a) {
  const Weights& w = *a.weights;
  const auto* values = static_cast<const std::uint16_t*>(w.values) + a.panel * w.slots * kRows;
  const std::int64_t last_group = (2 * a.last_pair + w.group_m - 1) / w.group_m;
  for (std::int64_t g = 2 * a.first_pair / w.group_m; g < last_group; ++g) {
    float* tile = static_cast<float*>(a.tile) + (g * w.group_m - 2 * a.first_pair) * kRows;
    for (int half = 0; half < 2; ++half) {
      __m256i steps[8];
      SWIFTPRUNE_UNROLL
      for (auto& step : steps) step = _mm256_setzero_si256();
      for (std::int64_t s = g * w.group_n; s < (g + 1) * w.group_n; ++s) {
        const std::int64_t at = a.panel * w.slots + s;
        const int bits = w.group_m == 4 ? 2 : 4;
        const std::uint64_t word = w.group_m == 4 ? static_cast<const std::uint32_t*>(w.indices)[at]
                                                  : static_cast<const std::uint64_t*>(w.indices)[at];
        const __m256i shift =
            _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(bits));
        const __m256i words =
            _mm256_set1_epi32(static_cast<int>(static_cast<std::uint32_t>(word >> (8 * bits * half))));
        const __m256i index =
            _mm256_and_si256(_mm256_srlv_epi32(words, shift), _mm256_set1_epi32((1 << bits) - 1));
        const __m256i both = load(values + (s & ~std::int64_t{1}) * kRows + 16 * half);
        const __m256i low =
            (s & 1) != 0 ? _mm256_srli_epi32(both, 16) : _mm256_and_si256(both, _mm256_set1_epi32(0xffff));
        const __m256i high = _mm256_slli_epi32(low, 16);
        SWIFTPRUNE_UNROLL
        for (int pair = 0; pair < 8; ++pair) {
          if (2 * pair >= w.group_m) break;
          const __m256i even = _mm256_cmpeq_epi32(index, _mm256_set1_epi32(2 * pair));
          const __m256i odd = _mm256_cmpeq_epi32(index, _mm256_set1_epi32(2 * pair + 1));
          steps[pair] = _mm256_or_si256(
              steps[pair], _mm256_or_si256(_mm256_and_si256(even, low), _mm256_and_si256(odd, high)));
        }
      }
      SWIFTPRUNE_UNROLL
      for (int pair = 0; pair < 8; ++pair) {
        if (2 * pair >= w.group_m) break;
        float* to = tile + pair * 2 * kRows + 8 * half;
        store_half_step<kF16>(steps[pair], to, to + kRows);
      }
    }
  }
  return 0;
}

// Eight rows by four columns of bytes.
inline void store_quad(float* tile, __m256i bytes) {
  const auto column = [](__m256i shifted) { return _mm256_cvtepi32_ps(_mm256_srai_epi32(shifted, 24)); };
  _mm256_storeu_ps(tile, column(_mm256_slli_epi32(bytes, 24)));
  _mm256_storeu_ps(tile + kRows, column(_mm256_slli_epi32(bytes, 16)));
  _mm256_storeu_ps(tile + 2 * kRows, column(_mm256_slli_epi32(bytes, 8)));
  _mm256_storeu_ps(tile + 3 * kRows, column(bytes));
}

std::int64_t expand_dense_int8(const ExpandArgs& a) {
  auto* tile = static_cast<float*>(a.tile);
  const auto* values = static_cast<const std::int8_t*>(a.weights->values) + a.panel * a.weights->steps * 64;
  for (std::int64_t q = a.first_pair / 2; q < a.last_pair / 2; ++q, tile += 4 * kRows) {
    store_quad(tile, load(values + q * 64));
    store_quad(tile + 8, load(values + q * 64 + 32));
  }
  return 0;
}

inline __m128i expand_bytes(const std::int8_t*& values, std::uint32_t lanes) {
  const __m128i packed = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(values));
  values += __builtin_popcount(lanes);
  return _mm_shuffle_epi8(packed, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpand8.entry[lanes])));
}

std::int64_t expand_bitmap_int8(const ExpandArgs& a) {
  auto* tile = static_cast<float*>(a.tile);
  const auto* masks = static_cast<const std::uint64_t*>(a.weights->masks) + a.panel * a.weights->steps;
  const auto* first = static_cast<const std::int8_t*>(a.weights->values) + a.weights->offsets[a.panel];
  const std::int8_t* value = first + a.cursor;
  for (std::int64_t q = a.first_pair / 2; q < a.last_pair / 2; ++q, tile += 4 * kRows) {
    __m128i quarters[4];  // four rows each
    SWIFTPRUNE_UNROLL
    for (int i = 0; i < 4; ++i) {
      const __m128i rows = expand_bytes(value, static_cast<std::uint32_t>(masks[q] >> (16 * i)) & 0xff);
      const __m128i next = expand_bytes(value, static_cast<std::uint32_t>(masks[q] >> (16 * i + 8)) & 0xff);
      quarters[i] = _mm_unpacklo_epi64(rows, next);
    }
    store_quad(tile, _mm256_set_m128i(quarters[1], quarters[0]));
    store_quad(tile + 8, _mm256_set_m128i(quarters[3], quarters[2]));
  }
  return value - first;
}

constexpr int kTokens = 6;

template <int kCount, bool kReadsAhead>
void multiply_tokens(const GemmArgs& a) {
  for (int p = 0; p < a.num_panels; ++p) {
    const auto* tile = static_cast<const float*>(a.tiles[p]);
    float* c = a.c + p * kRows;
    __m256 low[kCount], high[kCount];
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kCount; ++t) {
      low[t] = _mm256_loadu_ps(c + t * a.c_stride);
      high[t] = _mm256_loadu_ps(c + t * a.c_stride + 8);
    }
    const auto* x = static_cast<const float*>(a.x);
    const auto* ahead = kReadsAhead ? static_cast<const char*>(a.ahead[p]) : nullptr;
    for (std::int64_t k = 0; k < a.pairs; ++k, x += 2 * kTokens, tile += 2 * kRows) {
      if constexpr (kReadsAhead) _mm_prefetch(ahead + k * a.ahead_bytes, _MM_HINT_T1);
      SWIFTPRUNE_UNROLL
      for (int j = 0; j < 2; ++j) {
        const __m256 w0 = _mm256_loadu_ps(tile + j * kRows);
        const __m256 w1 = _mm256_loadu_ps(tile + j * kRows + 8);
        SWIFTPRUNE_UNROLL
        for (int t = 0; t < kCount; ++t) {
          const __m256 xt = _mm256_broadcast_ss(x + 2 * t + j);
          low[t] = _mm256_fmadd_ps(w0, xt, low[t]);
          high[t] = _mm256_fmadd_ps(w1, xt, high[t]);
        }
      }
    }
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kCount; ++t) {
      _mm256_storeu_ps(c + t * a.c_stride, low[t]);
      _mm256_storeu_ps(c + t * a.c_stride + 8, high[t]);
    }
  }
}

// The last block has but some tokens.
template <bool kReadsAhead>
void multiply_block(const GemmArgs& a) {
  switch (a.tokens) {
    case 1:
      return multiply_tokens<1, kReadsAhead>(a);
    case 2:
      return multiply_tokens<2, kReadsAhead>(a);
    case 3:
      return multiply_tokens<3, kReadsAhead>(a);
    case 4:
      return multiply_tokens<4, kReadsAhead>(a);
    case 5:
      return multiply_tokens<5, kReadsAhead>(a);
    default:
      return multiply_tokens<kTokens, kReadsAhead>(a);
  }
}

void multiply(const GemmArgs& a) { a.ahead == nullptr ? multiply_block<false>(a) : multiply_block<true>(a); }

}  // namespace

void set_avx2_tiles(Table& table) {
  table.expand_f32[kDense][0] = expand_dense<false>;
  table.expand_f32[kDense][1] = expand_dense<true>;
  table.expand_f32[kBitmap][0] = expand_bitmap<false>;
  table.expand_f32[kBitmap][1] = expand_bitmap<true>;
  table.expand_f32[kNm][0] = expand_nm<false>;
  table.expand_f32[kNm][1] = expand_nm<true>;
  table.expand_f32[kBlock][0] = expand_block<false>;
  table.expand_f32[kBlock][1] = expand_block<true>;
  table.expand_f32_int8[0] = expand_dense_int8;
  table.expand_f32_int8[1] = expand_bitmap_int8;
  table.gemm_f32 = {kTokens, 2, multiply};
}

const Table* avx2_table() {
  static const Table table = [] {
    Table t = kBaselineTable;
    set_avx2_decode(t);
    set_avx2_tiles(t);
    set_avx2_grid(t);
    return t;
  }();
  return &table;
}

}  // namespace swiftprune::sparse_kernels
#else
namespace swiftprune::sparse_kernels {
void set_avx2_tiles(Table&) {}
const Table* avx2_table() { return nullptr; }
}  // namespace swiftprune::sparse_kernels
#endif
