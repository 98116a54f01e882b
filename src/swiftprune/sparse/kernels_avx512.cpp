// AVX-512 (with VBMI2 and VNNI) kernels: decode. A step of a 16-bit stream is one register: 16 rows by two
// columns, so a product needs two broadcasts of x and no sum across lanes.
#include "swiftprune/sparse/kernels_avx512.h"

#if defined(__AVX512VBMI2__)
// GCC 12 warns about its own _mm512_undefined_epi32 (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "swiftprune/sparse/streams_avx512.h"

namespace swiftprune::sparse_kernels {
namespace {

// Sums of 16 rows for one token. BF16: even and odd columns apart (kSplit: two chains, or one when there are
// enough tokens). F16: rows 0-7 and 8-15, each lane pair one row's two columns.
template <bool kF16, bool kSplit>
struct Sums {
  __m512 a = _mm512_setzero_ps();
  __m512 b = _mm512_setzero_ps();

  void add(__m512i weights, const float* x) {
    if constexpr (kF16) {
      long long bits;
      __builtin_memcpy(&bits, x, sizeof bits);
      const __m512 pair = _mm512_castsi512_ps(_mm512_set1_epi64(bits));
      a = _mm512_fmadd_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(weights)), pair, a);
      b = _mm512_fmadd_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(weights, 1)), pair, b);
    } else {
      const __m512i odd = _mm512_and_si512(weights, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
      __m512& second = kSplit ? b : a;
      a = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(weights, 16)), _mm512_set1_ps(x[0]), a);
      second = _mm512_fmadd_ps(_mm512_castsi512_ps(odd), _mm512_set1_ps(x[1]), second);
    }
  }
  void store(float* y) const {
    if constexpr (kF16) {
      const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
      _mm512_storeu_ps(y,
                       _mm512_add_ps(_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b)));
    } else {
      _mm512_storeu_ps(y, kSplit ? _mm512_add_ps(a, b) : a);
    }
  }
};

// kPanels panels at once: as many independent streams and sums.
template <class Stream, bool kF16, int kTokens, int kPanels>
void decode_panels(const DecodeArgs& args, std::int64_t panel) {
  Sums<kF16, kTokens <= 4> sums[kPanels][kTokens];
  Stream streams[kPanels];
  SWIFTPRUNE_UNROLL
  for (int p = 0; p < kPanels; ++p) streams[p].open(*args.weights, panel + p);
  const std::int64_t steps = args.weights->steps;
  const auto* x = static_cast<const float*>(args.x);
  for (std::int64_t k = 0; k < steps; ++k, x += 2 * kTokens) {
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const __m512i weights = streams[p].next(k);
      SWIFTPRUNE_UNROLL
      for (int t = 0; t < kTokens; ++t) sums[p][t].add(weights, x + 2 * t);
    }
  }
  SWIFTPRUNE_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      sums[p][t].store(args.y + t * args.y_stride + (panel + p - args.first_panel) * kRows);
    }
  }
}

template <class Stream, bool kF16, int kTokens>
void decode_tokens(const DecodeArgs& args) {
  constexpr int kPanels =
      kTokens <= 2 ? 4 : (kTokens == 8 && kF16 ? 1 : 2);  // as many sums as registers allow
  std::int64_t panel = args.first_panel;
  for (; panel + kPanels <= args.last_panel; panel += kPanels) {
    decode_panels<Stream, kF16, kTokens, kPanels>(args, panel);
  }
  for (; panel < args.last_panel; ++panel) decode_panels<Stream, kF16, kTokens, 1>(args, panel);
}

// Tiles of 8 steps; the sums of a panel pass over the tiles left out.
template <bool kF16, int kTokens>
void decode_block_tokens(const DecodeArgs& args) {
  const Weights& w = *args.weights;
  for (std::int64_t panel = args.first_panel; panel < args.last_panel; ++panel) {
    Sums<kF16, kTokens <= 4> sums[kTokens];
    const auto* tile = static_cast<const std::uint16_t*>(w.values) + w.offsets[panel] * 256;
    for (std::uint64_t i = w.offsets[panel]; i < w.offsets[panel + 1]; ++i, tile += 256) {
      const std::int64_t first = std::int64_t{8} * w.columns[i];
      const std::int64_t steps = w.steps - first < 8 ? w.steps - first : 8;
      const float* x = static_cast<const float*>(args.x) + first * 2 * kTokens;
      for (std::int64_t k = 0; k < steps; ++k, x += 2 * kTokens) {
        const __m512i weights = _mm512_loadu_si512(tile + k * 32);
        SWIFTPRUNE_UNROLL
        for (int t = 0; t < kTokens; ++t) sums[t].add(weights, x + 2 * t);
      }
    }
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      sums[t].store(args.y + t * args.y_stride + (panel - args.first_panel) * kRows);
    }
  }
}

template <class Stream, bool kF16>
void decode(const DecodeArgs& args) {
  switch (args.tokens) {
    case 1:
      return decode_tokens<Stream, kF16, 1>(args);
    case 2:
      return decode_tokens<Stream, kF16, 2>(args);
    case 4:
      return decode_tokens<Stream, kF16, 4>(args);
    default:
      return decode_tokens<Stream, kF16, 8>(args);
  }
}

template <bool kF16>
void decode_block(const DecodeArgs& args) {
  switch (args.tokens) {
    case 1:
      return decode_block_tokens<kF16, 1>(args);
    case 2:
      return decode_block_tokens<kF16, 2>(args);
    case 4:
      return decode_block_tokens<kF16, 4>(args);
    default:
      return decode_block_tokens<kF16, 8>(args);
  }
}

// -- N:M: x is permuted to the weights' places --

// Two slots' values of 16 rows as floats.
template <bool kF16>
inline void slot_pair(const std::uint16_t* values, __m512& first, __m512& second) {
  const __m512i both = _mm512_loadu_si512(values);
  if constexpr (kF16) {
    first = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both));
    second = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
  } else {
    first = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
    second = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
}

// The inputs of one slot for 16 rows: group of M inputs, an index of 2 or 4 bits a row.
template <int kM>
inline __m512 slot_inputs(const void* indices, std::int64_t slot, const float* group) {
  if constexpr (kM == 4) {
    const __m512i shift = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const auto word = static_cast<int>(static_cast<const std::uint32_t*>(indices)[slot]);
    const __m512 inputs = _mm512_broadcast_f32x4(_mm_loadu_ps(group));
    return _mm512_permutevar_ps(inputs,
                                _mm512_srlv_epi32(_mm512_set1_epi32(word), shift));  // low 2 bits count
  } else {
    const __m512i shift = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    const std::uint64_t word = static_cast<const std::uint64_t*>(indices)[slot];
    const __m512i words = _mm512_mask_set1_epi32(_mm512_set1_epi32(static_cast<int>(word)), 0xff00,
                                                 static_cast<int>(word >> 32));
    const __m512 inputs = kM == 8 ? _mm512_broadcast_f32x8(_mm256_loadu_ps(group)) : _mm512_loadu_ps(group);
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(words, shift), inputs);  // low 4 bits count
  }
}

template <bool kF16, int kM, int kN, int kTokens, int kPanels>
void decode_nm_panels(const DecodeArgs& args, std::int64_t panel) {
  const Weights& w = *args.weights;
  const int n = kN != 0 ? kN : w.group_n;
  __m512 a[kPanels][kTokens], b[kPanels][kTokens];
  SWIFTPRUNE_UNROLL
  for (int i = 0; i < kPanels * kTokens; ++i) {
    a[i / kTokens][i % kTokens] = b[i / kTokens][i % kTokens] = _mm512_setzero_ps();
  }
  const auto* values = static_cast<const std::uint16_t*>(w.values);
  const auto* x = static_cast<const float*>(args.x);
  std::int64_t group[2] = {0, n == 1 ? 1 : 0};  // of the even and the odd slot
  int within[2] = {0, n == 1 ? 0 : 1};
  const std::int64_t last_group = w.used_slots / n - 1;
  for (std::int64_t s = 0; s < w.slots; s += 2) {
    // The padding slot of an odd number has weight 0 and may take any input.
    const std::int64_t first = group[0] * kM * kTokens;
    const std::int64_t second = (group[1] < last_group ? group[1] : last_group) * kM * kTokens;
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const std::int64_t slot = (panel + p) * w.slots + s;
      _mm_prefetch(reinterpret_cast<const char*>(values + slot * kRows) + kPrefetch, _MM_HINT_T0);
      __m512 w0, w1;
      slot_pair<kF16>(values + slot * kRows, w0, w1);
      SWIFTPRUNE_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        const __m512 x0 = slot_inputs<kM>(w.indices, slot, x + first + kM * t);
        const __m512 x1 = slot_inputs<kM>(w.indices, slot + 1, x + second + kM * t);
        __m512& second_sum = kTokens <= 4 ? b[p][t] : a[p][t];
        a[p][t] = _mm512_fmadd_ps(w0, x0, a[p][t]);
        second_sum = _mm512_fmadd_ps(w1, x1, second_sum);
      }
    }
    for (int i = 0; i < 2; ++i) {  // two slots on
      within[i] += 2;
      while (within[i] >= n) within[i] -= n, ++group[i];
    }
  }
  SWIFTPRUNE_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      _mm512_storeu_ps(args.y + t * args.y_stride + (panel + p - args.first_panel) * kRows,
                       _mm512_add_ps(a[p][t], b[p][t]));
    }
  }
}

template <bool kF16, int kM, int kN, int kTokens>
void decode_nm_tokens(const DecodeArgs& args) {
  constexpr int kPanels = kTokens <= 2 ? 4 : 2;
  std::int64_t panel = args.first_panel;
  for (; panel + kPanels <= args.last_panel; panel += kPanels) {
    decode_nm_panels<kF16, kM, kN, kTokens, kPanels>(args, panel);
  }
  for (; panel < args.last_panel; ++panel) decode_nm_panels<kF16, kM, kN, kTokens, 1>(args, panel);
}

template <bool kF16, int kM, int kN>
void decode_nm_groups(const DecodeArgs& args) {
  switch (args.tokens) {
    case 1:
      return decode_nm_tokens<kF16, kM, kN, 1>(args);
    case 2:
      return decode_nm_tokens<kF16, kM, kN, 2>(args);
    case 4:
      return decode_nm_tokens<kF16, kM, kN, 4>(args);
    default:
      return decode_nm_tokens<kF16, kM, kN, 8>(args);
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

// u = q + 32768 as two planes of bytes, high then low: vpdpbusd multiplies unsigned by signed bytes.
void quantize(const float* x, std::int64_t n, float scale, void* out) {
  const std::int64_t padded = (n + 3) / 4 * 4;
  auto* high = static_cast<std::uint8_t*>(out);
  std::uint8_t* low = high + padded;
  const __m512 inverse = _mm512_set1_ps(scale > 0.0f ? 1.0f / scale : 0.0f);
  for (std::int64_t i = 0; i < padded; i += 16) {
    const auto store = static_cast<__mmask16>(padded - i >= 16 ? 0xffff : (1u << (padded - i)) - 1);
    const auto load = static_cast<__mmask16>(n - i >= 16 ? 0xffff : (1u << (n - i)) - 1);
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(load, x + i), inverse));
    const __m512i u = _mm512_add_epi32(q, _mm512_set1_epi32(32768));
    _mm_mask_storeu_epi8(high + i, store, _mm512_cvtepi32_epi8(_mm512_srli_epi32(u, 8)));
    _mm_mask_storeu_epi8(low + i, store, _mm512_cvtepi32_epi8(u));
  }
}

template <class Stream, int kTokens, int kPanels>
void decode_int8_panels(const DecodeInt8Args& args, std::int64_t panel) {
  const std::int64_t steps = args.weights->steps;
  const auto* x = static_cast<const std::int32_t*>(args.x);  // a quad of bytes
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i high[kPanels][kTokens], low[kPanels][kTokens], weight_sums[kPanels];
  SWIFTPRUNE_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    weight_sums[p] = _mm512_setzero_si512();
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kTokens; ++t) high[p][t] = low[p][t] = _mm512_setzero_si512();
  }
  Stream streams[kPanels];
  SWIFTPRUNE_UNROLL
  for (int p = 0; p < kPanels; ++p) streams[p].open(*args.weights, panel + p);
  for (std::int64_t k = 0; k < steps; ++k) {
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const __m512i weights = streams[p].next(k);
      weight_sums[p] = _mm512_dpbusd_epi32(weight_sums[p], ones, weights);
      SWIFTPRUNE_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        const std::int32_t* token = x + t * 2 * steps;
        high[p][t] = _mm512_dpbusd_epi32(high[p][t], _mm512_set1_epi32(token[k]), weights);
        low[p][t] = _mm512_dpbusd_epi32(low[p][t], _mm512_set1_epi32(token[steps + k]), weights);
      }
    }
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int t = 0; t < kTokens; ++t) {
      std::int32_t h[kRows], l[kRows], s[kRows];
      _mm512_storeu_si512(h, high[p][t]);
      _mm512_storeu_si512(l, low[p][t]);
      _mm512_storeu_si512(s, weight_sums[p]);
      std::int64_t* y = args.y + t * args.y_stride + (panel + p - args.first_panel) * kRows;
      for (int r = 0; r < kRows; ++r) y[r] = 256 * std::int64_t{h[r]} + l[r] - 32768 * std::int64_t{s[r]};
    }
  }
}

template <class Stream, int kTokens>
void decode_int8_tokens(const DecodeInt8Args& args) {
  std::int64_t panel = args.first_panel;
  for (; panel + 2 <= args.last_panel; panel += 2) decode_int8_panels<Stream, kTokens, 2>(args, panel);
  if (panel < args.last_panel) decode_int8_panels<Stream, kTokens, 1>(args, panel);
}

template <class Stream>
void decode_int8(const DecodeInt8Args& args) {
  switch (args.tokens) {
    case 1:
      return decode_int8_tokens<Stream, 1>(args);
    case 2:
      return decode_int8_tokens<Stream, 2>(args);
    case 3:
      return decode_int8_tokens<Stream, 3>(args);
    default:
      return decode_int8_tokens<Stream, 4>(args);
  }
}

}  // namespace

void set_avx512_decode(Table& table) {
  table.name = "avx512";
  table.decode_tokens = 8;
  table.decode[kDense][0] = decode<DenseStream, false>;
  table.decode[kDense][1] = decode<DenseStream, true>;
  table.decode[kBitmap][0] = decode<BitmapStream, false>;
  table.decode[kBitmap][1] = decode<BitmapStream, true>;
  table.decode[kNm][0] = decode_nm<false>;
  table.decode[kNm][1] = decode_nm<true>;
  table.decode[kBlock][0] = decode_block<false>;
  table.decode[kBlock][1] = decode_block<true>;
  table.decode_int8_tokens = 4;
  table.quantize = quantize;
  table.decode_int8[0] = decode_int8<DenseInt8Stream>;
  table.decode_int8[1] = decode_int8<BitmapInt8Stream>;
}

}  // namespace swiftprune::sparse_kernels
#else
namespace swiftprune::sparse_kernels {
void set_avx512_decode(Table&) {}
}  // namespace swiftprune::sparse_kernels
#endif
