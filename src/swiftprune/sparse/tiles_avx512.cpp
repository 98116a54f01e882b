// AVX-512 (with VBMI2) kernels: expansion of panels to tiles and the products with them.
#include "swiftprune/sparse/kernels_avx512.h"

#if defined(__AVX512VBMI2__)
// GCC 12 warns about its own _mm512_undefined_epi32 (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "swiftprune/sparse/streams_avx512.h"

namespace swiftprune::sparse_kernels {
namespace {

// A step of 16 rows by two columns goes to the tile: as float by columns, or as it is.
template <bool kF16>
struct FloatTile {
  float* at;

  explicit FloatTile(const ExpandArgs& args) : at(static_cast<float*>(args.tile)) {}
  void put(std::int64_t pair, __m512i step) const {
    __m512 even, odd;
    if constexpr (kF16) {
      const __m512 low = _mm512_cvtph_ps(_mm512_castsi512_si256(step));
      const __m512 high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(step, 1));
      const __m512i lanes = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      even = _mm512_permutex2var_ps(low, lanes, high);
      odd = _mm512_permutex2var_ps(low, _mm512_add_epi32(lanes, _mm512_set1_epi32(1)), high);
    } else {
      even = _mm512_castsi512_ps(_mm512_slli_epi32(step, 16));
      odd = _mm512_castsi512_ps(_mm512_and_si512(step, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
    }
    _mm512_storeu_ps(at + pair * 2 * kRows, even);
    _mm512_storeu_ps(at + pair * 2 * kRows + kRows, odd);
  }
};

struct Bf16Tile {
  std::uint16_t* at;

  explicit Bf16Tile(const ExpandArgs& args) : at(static_cast<std::uint16_t*>(args.tile)) {}
  void put(std::int64_t pair, __m512i step) const { _mm512_storeu_si512(at + pair * 2 * kRows, step); }
};

template <class Tile>
std::int64_t expand_dense(const ExpandArgs& a) {
  const Tile tile(a);
  const auto* values = static_cast<const std::uint16_t*>(a.weights->values) + a.panel * a.weights->steps * 32;
  for (std::int64_t k = a.first_pair; k < a.last_pair; ++k) {
    tile.put(k - a.first_pair, _mm512_loadu_si512(values + k * 32));
  }
  return 0;
}

template <class Tile>
std::int64_t expand_bitmap(const ExpandArgs& a) {
  const Tile tile(a);
  const auto* masks = static_cast<const std::uint32_t*>(a.weights->masks) + a.panel * a.weights->steps;
  const auto* first = static_cast<const std::uint16_t*>(a.weights->values) + a.weights->offsets[a.panel];
  const std::uint16_t* value = first + a.cursor;
  for (std::int64_t k = a.first_pair; k < a.last_pair; ++k) {
    tile.put(k - a.first_pair, expand16(masks[k], value));
    value += __builtin_popcount(masks[k]);
  }
  return value - first;
}

// Column c of a group is made by putting each slot's value where the slot's index is c.
template <class Tile>
std::int64_t expand_nm(const ExpandArgs& a) {
  const Tile tile(a);
  const Weights& w = *a.weights;
  const auto* values = static_cast<const std::uint16_t*>(w.values) + a.panel * w.slots * kRows;
  const std::int64_t first_group = 2 * a.first_pair / w.group_m;
  const std::int64_t last_group = (2 * a.last_pair + w.group_m - 1) / w.group_m;
  const __m512i low_half = _mm512_set1_epi32(0xffff);
  for (std::int64_t g = first_group; g < last_group; ++g) {
    __m512i steps[8];  // pairs of the group's columns
    SWIFTPRUNE_UNROLL
    for (auto& step : steps) step = _mm512_setzero_si512();
    for (std::int64_t s = g * w.group_n; s < (g + 1) * w.group_n; ++s) {
      const std::int64_t at = a.panel * w.slots + s;
      __m512i index;
      if (w.group_m == 4) {
        const __m512i shift = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const auto word = static_cast<int>(static_cast<const std::uint32_t*>(w.indices)[at]);
        index = _mm512_and_si512(_mm512_srlv_epi32(_mm512_set1_epi32(word), shift), _mm512_set1_epi32(3));
      } else {
        const __m512i shift = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
        const std::uint64_t word = static_cast<const std::uint64_t*>(w.indices)[at];
        const __m512i words = _mm512_mask_set1_epi32(_mm512_set1_epi32(static_cast<int>(word)), 0xff00,
                                                     static_cast<int>(word >> 32));
        index = _mm512_and_si512(_mm512_srlv_epi32(words, shift), _mm512_set1_epi32(15));
      }
      const __m512i both = _mm512_loadu_si512(values + (s & ~std::int64_t{1}) * kRows);
      const __m512i low = (s & 1) != 0 ? _mm512_srli_epi32(both, 16) : _mm512_and_si512(both, low_half);
      const __m512i high = _mm512_slli_epi32(low, 16);
      SWIFTPRUNE_UNROLL
      for (int pair = 0; pair < 8; ++pair) {
        if (2 * pair >= w.group_m) break;
        const __mmask16 even = _mm512_cmpeq_epi32_mask(index, _mm512_set1_epi32(2 * pair));
        const __mmask16 odd = _mm512_cmpeq_epi32_mask(index, _mm512_set1_epi32(2 * pair + 1));
        steps[pair] = _mm512_mask_or_epi32(steps[pair], even, steps[pair], low);
        steps[pair] = _mm512_mask_or_epi32(steps[pair], odd, steps[pair], high);
      }
    }
    SWIFTPRUNE_UNROLL
    for (int pair = 0; pair < 8; ++pair) {
      if (2 * pair >= w.group_m) break;
      tile.put(g * w.group_m / 2 + pair - a.first_pair, steps[pair]);
    }
  }
  return 0;
}

template <class Tile>
std::int64_t expand_block(const ExpandArgs& a) {
  const Tile tile(a);
  const Weights& w = *a.weights;
  const auto num_tiles = static_cast<std::int64_t>(w.offsets[a.panel + 1] - w.offsets[a.panel]);
  const std::uint32_t* columns = w.columns + w.offsets[a.panel];
  const auto* values = static_cast<const std::uint16_t*>(w.values) + w.offsets[a.panel] * 256;
  std::int64_t t = a.cursor;
  for (std::int64_t k = a.first_pair; k < a.last_pair; k += 8) {
    const bool present = t < num_tiles && std::int64_t{8} * columns[t] == k;
    for (std::int64_t i = 0; i < 8 && k + i < a.last_pair; ++i) {
      tile.put(k + i - a.first_pair,
               present ? _mm512_loadu_si512(values + t * 256 + i * 32) : _mm512_setzero_si512());
    }
    t += present ? 1 : 0;
  }
  return t;
}

// Four columns of 16 rows, one byte each.
struct FloatQuadTile {
  float* at;

  explicit FloatQuadTile(const ExpandArgs& args) : at(static_cast<float*>(args.tile)) {}
  void put(std::int64_t quad, __m512i bytes) const {
    float* columns = at + quad * 4 * kRows;
    const auto column = [&](__m512i shifted) { return _mm512_cvtepi32_ps(_mm512_srai_epi32(shifted, 24)); };
    _mm512_storeu_ps(columns, column(_mm512_slli_epi32(bytes, 24)));
    _mm512_storeu_ps(columns + kRows, column(_mm512_slli_epi32(bytes, 16)));
    _mm512_storeu_ps(columns + 2 * kRows, column(_mm512_slli_epi32(bytes, 8)));
    _mm512_storeu_ps(columns + 3 * kRows, column(bytes));
  }
};

struct Bf16QuadTile {
  std::uint16_t* at;

  explicit Bf16QuadTile(const ExpandArgs& args) : at(static_cast<std::uint16_t*>(args.tile)) {}
  void put(std::int64_t quad, __m512i bytes) const {
    const auto column = [&](__m512i shifted) {
      return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_srai_epi32(shifted, 24)));
    };
    const auto pair = [&](__m512i even, __m512i odd) {
      const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
      return _mm512_or_si512(_mm512_srli_epi32(column(even), 16), _mm512_and_si512(column(odd), upper));
    };
    std::uint16_t* pairs = at + quad * 4 * kRows;
    _mm512_storeu_si512(pairs, pair(_mm512_slli_epi32(bytes, 24), _mm512_slli_epi32(bytes, 16)));
    _mm512_storeu_si512(pairs + 2 * kRows, pair(_mm512_slli_epi32(bytes, 8), bytes));
  }
};

template <class Tile>
std::int64_t expand_dense_int8(const ExpandArgs& a) {
  const Tile tile(a);
  const auto* values = static_cast<const std::int8_t*>(a.weights->values) + a.panel * a.weights->steps * 64;
  for (std::int64_t q = a.first_pair / 2; q < a.last_pair / 2; ++q) {
    tile.put(q - a.first_pair / 2, _mm512_loadu_si512(values + q * 64));
  }
  return 0;
}

template <class Tile>
std::int64_t expand_bitmap_int8(const ExpandArgs& a) {
  const Tile tile(a);
  const auto* masks = static_cast<const std::uint64_t*>(a.weights->masks) + a.panel * a.weights->steps;
  const auto* first = static_cast<const std::int8_t*>(a.weights->values) + a.weights->offsets[a.panel];
  const std::int8_t* value = first + a.cursor;
  for (std::int64_t q = a.first_pair / 2; q < a.last_pair / 2; ++q) {
    tile.put(q - a.first_pair / 2, expand8(masks[q], value));
    value += __builtin_popcountll(masks[q]);
  }
  return value - first;
}

constexpr int kTokens = 8;
constexpr int kPanels = 3;

template <int kCount>
void multiply_panels(const GemmArgs& a) {
  __m512 sums[kTokens][kCount];
  SWIFTPRUNE_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kCount; ++p) sums[t][p] = _mm512_loadu_ps(a.c + t * a.c_stride + p * kRows);
  }
  const auto* x = static_cast<const float*>(a.x);
  for (std::int64_t k = 0; k < a.pairs; ++k, x += 2 * kTokens) {
    SWIFTPRUNE_UNROLL
    for (int j = 0; j < 2; ++j) {
      __m512 weights[kCount];
      SWIFTPRUNE_UNROLL
      for (int p = 0; p < kCount; ++p) {
        weights[p] = _mm512_loadu_ps(static_cast<const float*>(a.tiles[p]) + (2 * k + j) * kRows);
      }
      SWIFTPRUNE_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        const __m512 xt = _mm512_set1_ps(x[2 * t + j]);
        SWIFTPRUNE_UNROLL
        for (int p = 0; p < kCount; ++p) sums[t][p] = _mm512_fmadd_ps(weights[p], xt, sums[t][p]);
      }
    }
  }
  SWIFTPRUNE_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kCount; ++p) _mm512_storeu_ps(a.c + t * a.c_stride + p * kRows, sums[t][p]);
  }
}

void multiply(const GemmArgs& a) {
  switch (a.num_panels) {
    case 1:
      return multiply_panels<1>(a);
    case 2:
      return multiply_panels<2>(a);
    default:
      return multiply_panels<3>(a);
  }
}

}  // namespace

void set_avx512_tiles(Table& table) {
  table.expand_f32[kDense][0] = expand_dense<FloatTile<false>>;
  table.expand_f32[kDense][1] = expand_dense<FloatTile<true>>;
  table.expand_f32[kBitmap][0] = expand_bitmap<FloatTile<false>>;
  table.expand_f32[kBitmap][1] = expand_bitmap<FloatTile<true>>;
  table.expand_f32[kNm][0] = expand_nm<FloatTile<false>>;
  table.expand_f32[kNm][1] = expand_nm<FloatTile<true>>;
  table.expand_f32[kBlock][0] = expand_block<FloatTile<false>>;
  table.expand_f32[kBlock][1] = expand_block<FloatTile<true>>;
  table.expand_f32_int8[0] = expand_dense_int8<FloatQuadTile>;
  table.expand_f32_int8[1] = expand_bitmap_int8<FloatQuadTile>;
  table.gemm_f32 = {kTokens, kPanels, multiply};
  table.expand_bf16[kDense] = expand_dense<Bf16Tile>;
  table.expand_bf16[kBitmap] = expand_bitmap<Bf16Tile>;
  table.expand_bf16[kNm] = expand_nm<Bf16Tile>;
  table.expand_bf16[kBlock] = expand_block<Bf16Tile>;
  table.expand_bf16_int8[0] = expand_dense_int8<Bf16QuadTile>;
  table.expand_bf16_int8[1] = expand_bitmap_int8<Bf16QuadTile>;
}

const Table* avx512_table() {
  static const Table table = [] {
    Table t = kBaselineTable;
    set_avx512_decode(t);
    set_avx512_tiles(t);
    set_avx512_grid(t);
    return t;
  }();
  return &table;
}

}  // namespace swiftprune::sparse_kernels
#else
namespace swiftprune::sparse_kernels {
void set_avx512_tiles(Table&) {}
const Table* avx512_table() { return nullptr; }
}  // namespace swiftprune::sparse_kernels
#endif
