// AVX2 kernels: decode. Without vpexpand, eight mask bits choose a byte shuffle from a table; for bf16 the
// same shuffle makes the float.
#include "swiftprune/sparse/kernels_avx2.h"

#if defined(__AVX2__)
#include <immintrin.h>

#define SWIFTPRUNE_UNROLL _Pragma("GCC unroll 16")

namespace swiftprune::sparse_kernels {
namespace {

constexpr int kPrefetch = 2048;  // bytes ahead, as in kernels_avx512.cpp
constexpr int kQuarters = 4;     // registers of a step: four rows by two columns each

inline void prefetch(const void* address) {
  _mm_prefetch(static_cast<const char*>(address) + kPrefetch, _MM_HINT_T0);
}

template <bool kF16>
struct DenseStream {
  const std::uint16_t* values = nullptr;

  void open(const Weights& w, std::int64_t panel) {
    values = static_cast<const std::uint16_t*>(w.values) + panel * w.steps * 32;
  }
  void begin(std::int64_t) {}
  __m256 next(std::int64_t step, int quarter) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + step * 32) + quarter);
    if constexpr (kF16) {
      return _mm256_cvtph_ps(bits);
    } else {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
  }
};

template <bool kF16>
struct BitmapStream {
  const std::uint16_t* values = nullptr;
  const std::uint32_t* masks = nullptr;
  std::uint32_t mask = 0;

  void open(const Weights& w, std::int64_t panel) {
    values = static_cast<const std::uint16_t*>(w.values) + w.offsets[panel];
    masks = static_cast<const std::uint32_t*>(w.masks) + panel * w.steps;
  }
  void begin(std::int64_t step) {
    mask = masks[step];
    prefetch(values);
    if (step % 16 == 0) prefetch(masks + step);
  }
  __m256 next(std::int64_t, int quarter) {
    const std::uint32_t lanes = (mask >> (8 * quarter)) & 0xff;
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
    values += __builtin_popcount(lanes);
    if constexpr (kF16) {
      const auto* order = reinterpret_cast<const __m128i*>(kExpand16.entry[lanes]);
      return _mm256_cvtph_ps(_mm_shuffle_epi8(packed, _mm_load_si128(order)));
    } else {
      const auto* order = reinterpret_cast<const __m256i*>(kExpand32.entry[lanes]);
      return _mm256_castsi256_ps(
          _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(packed), _mm256_load_si256(order)));
    }
  }
};

// Lanes of a quarter: four rows, two columns each; neighbours are added at the end.
inline void store_sums(const __m256* quarters, float* y) {
  for (int half = 0; half < 2; ++half) {
    const __m256 mixed = _mm256_hadd_ps(quarters[2 * half], quarters[2 * half + 1]);  // rows 0 1 4 5 2 3 6 7
    _mm256_storeu_ps(y + 8 * half, _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8)));
  }
}

inline __m256 pair_of(const float* x) {
  long long bits;
  __builtin_memcpy(&bits, x, sizeof bits);
  return _mm256_castsi256_ps(_mm256_set1_epi64x(bits));
}

template <class Stream, int kTokens, int kPanels>
void decode_panels(const DecodeArgs& args, std::int64_t panel) {
  __m256 sums[kPanels][kTokens][kQuarters];
  SWIFTPRUNE_UNROLL
  for (int i = 0; i < kPanels * kTokens * kQuarters; ++i) {
    sums[i / (kTokens * kQuarters)][i / kQuarters % kTokens][i % kQuarters] = _mm256_setzero_ps();
  }
  Stream streams[kPanels];
  SWIFTPRUNE_UNROLL
  for (int p = 0; p < kPanels; ++p) streams[p].open(*args.weights, panel + p);
  const std::int64_t steps = args.weights->steps;
  const auto* inputs = static_cast<const float*>(args.x);
  for (std::int64_t k = 0; k < steps; ++k, inputs += 2 * kTokens) {
    __m256 x[kTokens];
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kTokens; ++t) x[t] = pair_of(inputs + 2 * t);
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      streams[p].begin(k);
      SWIFTPRUNE_UNROLL
      for (int q = 0; q < kQuarters; ++q) {
        const __m256 weights = streams[p].next(k, q);
        SWIFTPRUNE_UNROLL
        for (int t = 0; t < kTokens; ++t) sums[p][t][q] = _mm256_fmadd_ps(weights, x[t], sums[p][t][q]);
      }
    }
  }
  SWIFTPRUNE_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      store_sums(sums[p][t], args.y + t * args.y_stride + (panel + p - args.first_panel) * kRows);
    }
  }
}

template <class Stream>
void decode(const DecodeArgs& args) {
  std::int64_t panel = args.first_panel;
  if (args.tokens == 1) {
    for (; panel + 2 <= args.last_panel; panel += 2) decode_panels<Stream, 1, 2>(args, panel);
    if (panel < args.last_panel) decode_panels<Stream, 1, 1>(args, panel);
  } else {
    for (; panel < args.last_panel; ++panel) decode_panels<Stream, 2, 1>(args, panel);
  }
}

template <bool kF16, int kTokens>
void decode_block_tokens(const DecodeArgs& args) {
  const Weights& w = *args.weights;
  for (std::int64_t panel = args.first_panel; panel < args.last_panel; ++panel) {
    __m256 sums[kTokens][kQuarters];
    SWIFTPRUNE_UNROLL
    for (int i = 0; i < kTokens * kQuarters; ++i) sums[i / kQuarters][i % kQuarters] = _mm256_setzero_ps();
    DenseStream<kF16> tile;
    tile.values = static_cast<const std::uint16_t*>(w.values) + w.offsets[panel] * 256;
    for (std::uint64_t i = w.offsets[panel]; i < w.offsets[panel + 1]; ++i, tile.values += 256) {
      const std::int64_t first = std::int64_t{8} * w.columns[i];
      const std::int64_t steps = w.steps - first < 8 ? w.steps - first : 8;
      const float* x = static_cast<const float*>(args.x) + first * 2 * kTokens;
      for (std::int64_t k = 0; k < steps; ++k, x += 2 * kTokens) {
        SWIFTPRUNE_UNROLL
        for (int q = 0; q < kQuarters; ++q) {
          const __m256 weights = tile.next(k, q);
          SWIFTPRUNE_UNROLL
          for (int t = 0; t < kTokens; ++t) {
            sums[t][q] = _mm256_fmadd_ps(weights, pair_of(x + 2 * t), sums[t][q]);
          }
        }
      }
    }
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      store_sums(sums[t], args.y + t * args.y_stride + (panel - args.first_panel) * kRows);
    }
  }
}

template <bool kF16>
void decode_block(const DecodeArgs& args) {
  if (args.tokens == 1) return decode_block_tokens<kF16, 1>(args);
  decode_block_tokens<kF16, 2>(args);
}

// -- N:M --

// Two slots' values of eight rows as floats.
template <bool kF16>
inline void slot_pair(const std::uint16_t* values, __m256& first, __m256& second) {
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  if constexpr (kF16) {
    const __m256i low = _mm256_and_si256(both, _mm256_set1_epi32(0xffff));
    const __m256i high = _mm256_srli_epi32(both, 16);
    // Four 64-bit parts: low 0-3, high 0-3, low 4-7, high 4-7.
    const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
    first = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
    second = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
  } else {
    first = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
    second = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
}

// The inputs of one slot for rows 8·half to 8·half + 7.
template <int kM>
inline __m256 slot_inputs(const void* indices, std::int64_t slot, int half, const float* group) {
  if constexpr (kM == 4) {
    const __m256i shift = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    const auto word = static_cast<int>(static_cast<const std::uint32_t*>(indices)[slot] >> (16 * half));
    const __m256 inputs = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(group));
    return _mm256_permutevar_ps(inputs, _mm256_srlv_epi32(_mm256_set1_epi32(word), shift));
  } else {
    const __m256i shift = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const auto word = static_cast<int>(static_cast<const std::uint64_t*>(indices)[slot] >> (32 * half));
    const __m256i index = _mm256_srlv_epi32(_mm256_set1_epi32(word), shift);
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(group), index);
    if constexpr (kM == 8) return low;
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(group + (kM == 16 ? 8 : 0)), index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
  }
}

template <bool kF16, int kM, int kN, int kTokens>
void decode_nm_panel(const DecodeArgs& args, std::int64_t panel) {
  const Weights& w = *args.weights;
  const int n = kN != 0 ? kN : w.group_n;
  __m256 a[2][kTokens], b[2][kTokens];
  SWIFTPRUNE_UNROLL
  for (int i = 0; i < 2 * kTokens; ++i)
    a[i / kTokens][i % kTokens] = b[i / kTokens][i % kTokens] = _mm256_setzero_ps();
  const auto* values = static_cast<const std::uint16_t*>(w.values);
  const auto* x = static_cast<const float*>(args.x);
  std::int64_t group[2] = {0, n == 1 ? 1 : 0};  // of the even and the odd slot
  int within[2] = {0, n == 1 ? 0 : 1};
  const std::int64_t last_group = w.used_slots / n - 1;
  for (std::int64_t s = 0; s < w.slots; s += 2) {
    const std::int64_t first = group[0] * kM * kTokens;
    const std::int64_t second = (group[1] < last_group ? group[1] : last_group) * kM * kTokens;
    const std::int64_t slot = panel * w.slots + s;
    prefetch(values + slot * kRows);
    SWIFTPRUNE_UNROLL
    for (int half = 0; half < 2; ++half) {
      __m256 w0, w1;
      slot_pair<kF16>(values + slot * kRows + 16 * half, w0, w1);
      SWIFTPRUNE_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        const __m256 x0 = slot_inputs<kM>(w.indices, slot, half, x + first + kM * t);
        const __m256 x1 = slot_inputs<kM>(w.indices, slot + 1, half, x + second + kM * t);
        a[half][t] = _mm256_fmadd_ps(w0, x0, a[half][t]);
        b[half][t] = _mm256_fmadd_ps(w1, x1, b[half][t]);
      }
    }
    for (int i = 0; i < 2; ++i) {  // two slots on
      within[i] += 2;
      while (within[i] >= n) within[i] -= n, ++group[i];
    }
  }
  SWIFTPRUNE_UNROLL
  for (int i = 0; i < 2 * kTokens; ++i) {
    float* y = args.y + i % kTokens * args.y_stride + (panel - args.first_panel) * kRows + i / kTokens * 8;
    _mm256_storeu_ps(y, _mm256_add_ps(a[i / kTokens][i % kTokens], b[i / kTokens][i % kTokens]));
  }
}

template <bool kF16, int kM, int kN>
void decode_nm_groups(const DecodeArgs& args) {
  for (std::int64_t panel = args.first_panel; panel < args.last_panel; ++panel) {
    if (args.tokens == 1) {
      decode_nm_panel<kF16, kM, kN, 1>(args, panel);
    } else {
      decode_nm_panel<kF16, kM, kN, 2>(args, panel);
    }
  }
}

template <bool kF16>
void decode_nm(const DecodeArgs& args) {
  const Weights& w = *args.weights;
  if (w.group_m == 4 && w.group_n == 2) return decode_nm_groups<kF16, 4, 2>(args);
  if (w.group_m == 4) return decode_nm_groups<kF16, 4, 0>(args);
  if (w.group_m == 8) return decode_nm_groups<kF16, 8, 0>(args);
  decode_nm_groups<kF16, 16, 0>(args);
}

// -- int8 weights times 16-bit activations --

// [n rounded up to a quad] int16
void quantize(const float* x, std::int64_t n, float scale, void* out) {
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  auto* q = static_cast<std::int16_t*>(out);
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i wide = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(inverse)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i),
                     _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1)));
  }
  for (; i < n; ++i) q[i] = static_cast<std::int16_t>(_mm_cvtss_si32(_mm_set_ss(x[i] * inverse)));
  for (; i % 4 != 0; ++i) q[i] = 0;
}

struct DenseInt8Stream {
  const std::int8_t* values = nullptr;

  void open(const Weights& w, std::int64_t panel) {
    values = static_cast<const std::int8_t*>(w.values) + panel * w.steps * 64;
  }
  void begin(std::int64_t) {}
  __m128i next(std::int64_t step, int quarter) {  // four rows, four columns each
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + step * 64) + quarter);
  }
};

struct BitmapInt8Stream {
  const std::int8_t* values = nullptr;
  const std::uint64_t* masks = nullptr;
  std::uint64_t mask = 0;

  void open(const Weights& w, std::int64_t panel) {
    values = static_cast<const std::int8_t*>(w.values) + w.offsets[panel];
    masks = static_cast<const std::uint64_t*>(w.masks) + panel * w.steps;
  }
  void begin(std::int64_t step) {
    mask = masks[step];
    prefetch(values);
    if (step % 8 == 0) prefetch(masks + step);
  }
  __m128i next_rows(std::uint32_t lanes) {
    const __m128i packed = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(values));
    values += __builtin_popcount(lanes);
    return _mm_shuffle_epi8(packed, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpand8.entry[lanes])));
  }
  __m128i next(std::int64_t, int quarter) {
    const __m128i first = next_rows(static_cast<std::uint32_t>(mask >> (16 * quarter)) & 0xff);
    const __m128i second = next_rows(static_cast<std::uint32_t>(mask >> (16 * quarter + 8)) & 0xff);
    return _mm_unpacklo_epi64(first, second);
  }
};

template <class Stream, int kTokens>
void decode_int8_panel(const DecodeInt8Args& args, std::int64_t panel) {
  constexpr std::int64_t kSafeSteps = 128;  // 2·32767·128 a lane and step: 255 steps fit in 32 bits
  const std::int64_t steps = args.weights->steps;
  const auto* x = static_cast<const std::int64_t*>(args.x);  // four int16
  std::int64_t totals[kTokens][kRows] = {};
  Stream stream;
  stream.open(*args.weights, panel);
  for (std::int64_t first = 0; first < steps; first += kSafeSteps) {
    __m256i sums[kTokens][kQuarters];
    SWIFTPRUNE_UNROLL
    for (int i = 0; i < kTokens * kQuarters; ++i) sums[i / kQuarters][i % kQuarters] = _mm256_setzero_si256();
    const std::int64_t last = first + kSafeSteps < steps ? first + kSafeSteps : steps;
    for (std::int64_t k = first; k < last; ++k) {
      stream.begin(k);
      SWIFTPRUNE_UNROLL
      for (int q = 0; q < kQuarters; ++q) {
        const __m256i weights = _mm256_cvtepi8_epi16(stream.next(k, q));
        SWIFTPRUNE_UNROLL
        for (int t = 0; t < kTokens; ++t) {
          const __m256i product = _mm256_madd_epi16(weights, _mm256_set1_epi64x(x[t * steps + k]));
          sums[t][q] = _mm256_add_epi32(sums[t][q], product);
        }
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      for (int q = 0; q < kQuarters; ++q) {
        std::int32_t lanes[8];
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sums[t][q]);
        for (int r = 0; r < 4; ++r) totals[t][4 * q + r] += std::int64_t{lanes[2 * r]} + lanes[2 * r + 1];
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) {
      args.y[t * args.y_stride + (panel - args.first_panel) * kRows + r] = totals[t][r];
    }
  }
}

template <class Stream>
void decode_int8(const DecodeInt8Args& args) {
  for (std::int64_t panel = args.first_panel; panel < args.last_panel; ++panel) {
    if (args.tokens == 1) {
      decode_int8_panel<Stream, 1>(args, panel);
    } else {
      decode_int8_panel<Stream, 2>(args, panel);
    }
  }
}

}  // namespace

void set_avx2_decode(Table& table) {
  table.name = "avx2";
  table.decode_tokens = 2;
  table.decode[kDense][0] = decode<DenseStream<false>>;
  table.decode[kDense][1] = decode<DenseStream<true>>;
  table.decode[kBitmap][0] = decode<BitmapStream<false>>;
  table.decode[kBitmap][1] = decode<BitmapStream<true>>;
  table.decode[kNm][0] = decode_nm<false>;
  table.decode[kNm][1] = decode_nm<true>;
  table.decode[kBlock][0] = decode_block<false>;
  table.decode[kBlock][1] = decode_block<true>;
  table.decode_int8_tokens = 2;
  table.most_int8_tokens[0] = 8;
  table.most_int8_tokens[1] = 4;
  table.quantize = quantize;
  table.decode_int8[0] = decode_int8<DenseInt8Stream>;
  table.decode_int8[1] = decode_int8<BitmapInt8Stream>;
}

}  // namespace swiftprune::sparse_kernels
#else
namespace swiftprune::sparse_kernels {
void set_avx2_decode(Table&) {}
}  // namespace swiftprune::sparse_kernels
#endif
