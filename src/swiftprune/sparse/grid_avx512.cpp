// AVX-512 (with VBMI2 and VNNI) kernels of grids: codes are unsigned bytes of 16 rows by four columns, which
// vpdpbusd multiplies with two planes of signed bytes of x. A lane that is not stored gets its group's zero
// point from vpexpand's old content, so that one subtraction a group serves every kind.
#include "swiftprune/sparse/kernels_avx512.h"

#if defined(__AVX512VBMI2__)
// GCC 12 warns about its own _mm512_undefined_epi32 (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "swiftprune/sparse/grid_streams.h"
#include "swiftprune/sparse/streams_avx512.h"

namespace swiftprune::sparse_kernels {
namespace {

// The plane's bits of step `s` of those that share a byte.
template <int kBits, int s>
inline __m512i plane(const std::uint8_t* codes) {
  const __m512i bytes = _mm512_loadu_si512(codes);
  if constexpr (kBits == 8) return bytes;
  constexpr int kWidth = kBits == 3 ? 2 : 4;
  constexpr int kShift = s % (8 / kWidth) * kWidth;
  return _mm512_and_si512(kShift == 0 ? bytes : _mm512_srli_epi16(bytes, kShift),
                          _mm512_set1_epi8((1 << kWidth) - 1));
}

inline __m512i with_third_bits(__m512i codes, std::uint64_t bits) {
  return _mm512_mask_add_epi8(codes, bits, codes, _mm512_set1_epi8(4));
}

inline __m512i expand_codes(__m512i codes, std::uint64_t mask, __m512i zeros) {
  return _mm512_mask_expand_epi8(zeros, mask, codes);
}

template <int kBits, bool kMasked>
struct FixedStream : FixedPlace<kBits, kMasked> {
  template <int s>
  __m512i next(__m512i zeros) {
    __m512i step = plane<kBits, s>(this->template codes_of<s>());
    if constexpr (kBits == 3) step = with_third_bits(step, this->template third_bits_of<s>());
    return kMasked ? expand_codes(step, this->mask[s], zeros) : step;
  }
};

template <int kBits>
struct BitmapGridStream : BitmapPlace<kBits> {
  template <int s>
  __m512i next(__m512i zeros) {
    const std::uint64_t bits = this->mask[s];
    __m512i step = plane<kBits, s>(this->at[s % BitmapPlace<kBits>::kStreams]);
    if constexpr (kBits == 3) step = with_third_bits(step, this->third_bits());
    this->template pass<s>(__builtin_popcountll(bits));
    return expand_codes(step, bits, zeros);
  }
};

// Scales and zero points of a group for 16 rows.
inline std::int64_t scale_cell(const Weights& w, std::int64_t panel, std::int64_t group) {
  return panel * w.groups + (w.row_groups ? 0 : group);
}
inline __m512 group_scales(const Weights& w, std::int64_t cell) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w.scales + cell * kRows)));
}
inline __m512i group_zeros(const Weights& w, std::int64_t cell) {
  if (w.zeros == nullptr) return _mm512_set1_epi32(w.middle);
  if (w.bits == 8) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.zeros + cell * kRows)));
  }
  const std::uint64_t word = load64(w.zeros + cell * kRows / 2);
  const __m512i shift = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
  const __m512i words =
      _mm512_mask_set1_epi32(_mm512_set1_epi32(static_cast<int>(word)), 0xff00, static_cast<int>(word >> 32));
  return _mm512_and_si512(_mm512_srlv_epi32(words, shift), _mm512_set1_epi32(15));
}
// A row's zero point in its four lanes.
inline __m512i in_all_lanes(__m512i zeros) {
  return _mm512_or_si512(_mm512_or_si512(zeros, _mm512_slli_epi32(zeros, 8)),
                         _mm512_or_si512(_mm512_slli_epi32(zeros, 16), _mm512_slli_epi32(zeros, 24)));
}

// -- A few tokens --

template <class Stream, int kTokens, int kPanels>
struct Decoder {
  const DecodeGridArgs& args;
  std::int64_t steps;
  Stream streams[kPanels];
  __m512i zeros[kPanels];
  __m512i high[kPanels][kTokens];
  __m512i low[kPanels][kTokens];

  explicit Decoder(const DecodeGridArgs& of) : args(of), steps(of.weights->steps) {}
  __attribute__((always_inline)) const std::int32_t* words(int token) const {
    return reinterpret_cast<const std::int32_t*>(args.x + token * args.x_stride);
  }

  template <int s>
  __attribute__((always_inline)) void step(std::int64_t k) {
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const __m512i codes = streams[p].template next<s>(zeros[p]);
      SWIFTPRUNE_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        high[p][t] = _mm512_dpbusd_epi32(high[p][t], codes, _mm512_set1_epi32(words(t)[k + s]));
        low[p][t] = _mm512_dpbusd_epi32(low[p][t], codes, _mm512_set1_epi32(words(t)[steps + k + s]));
      }
    }
  }
  __attribute__((always_inline)) void chunk(std::int64_t at) {
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kPanels; ++p) streams[p].begin(at);
    const std::int64_t k = at * kSteps;
    step<0>(k), step<1>(k), step<2>(k), step<3>(k), step<4>(k), step<5>(k), step<6>(k), step<7>(k);
  }
};

template <class Stream, int kTokens, int kPanels>
void decode_panels(const DecodeGridArgs& args, std::int64_t panel) {
  const Weights& w = *args.weights;
  Decoder<Stream, kTokens, kPanels> d(args);
  __m512 sums[kPanels][kTokens];
  SWIFTPRUNE_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    d.streams[p].open(w, panel + p, {});
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kTokens; ++t) sums[p][t] = _mm512_setzero_ps();
  }
  for (std::int64_t group = 0, at = 0; at < w.chunks; ++group) {
    __m512i zeros[kPanels];
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      zeros[p] = group_zeros(w, scale_cell(w, panel + p, group));
      d.zeros[p] = in_all_lanes(zeros[p]);
      SWIFTPRUNE_UNROLL
      for (int t = 0; t < kTokens; ++t) d.high[p][t] = d.low[p][t] = _mm512_setzero_si512();
    }
    const std::int64_t last = at + w.group_chunks < w.chunks ? at + w.group_chunks : w.chunks;
    for (; at < last; ++at) d.chunk(at);
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const __m512 scales = group_scales(w, scale_cell(w, panel + p, group));
      SWIFTPRUNE_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        const __m512i x_sum = _mm512_set1_epi32(d.words(t)[2 * w.steps + group]);
        const __m512i products = _mm512_add_epi32(_mm512_slli_epi32(d.high[p][t], 8), d.low[p][t]);
        const __m512i sum = _mm512_sub_epi32(products, _mm512_mullo_epi32(zeros[p], x_sum));
        sums[p][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scales, sums[p][t]);
      }
    }
  }
  SWIFTPRUNE_UNROLL
  for (int p = 0; p < kPanels; ++p) {
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      _mm512_storeu_ps(args.y + t * args.y_stride + (panel + p - args.first_panel) * kRows, sums[p][t]);
    }
  }
}

template <class Stream, int kTokens>
void decode_tokens(const DecodeGridArgs& args) {
  constexpr int kPanels = kTokens <= 2 ? 4 : kTokens == 4 ? 2 : 1;
  std::int64_t panel = args.first_panel;
  for (; panel + kPanels <= args.last_panel; panel += kPanels) {
    decode_panels<Stream, kTokens, kPanels>(args, panel);
  }
  for (; panel < args.last_panel; ++panel) decode_panels<Stream, kTokens, 1>(args, panel);
}

template <class Stream>
void decode(const DecodeGridArgs& args) {
  switch (args.tokens) {
    case 1:
      return decode_tokens<Stream, 1>(args);
    case 2:
      return decode_tokens<Stream, 2>(args);
    case 4:
      return decode_tokens<Stream, 4>(args);
    default:
      return decode_tokens<Stream, 8>(args);
  }
}

// -- Tiles --

struct FloatTile {
  float* at;

  explicit FloatTile(const ExpandArgs& args) : at(static_cast<float*>(args.tile)) {}
  // Column j of the quad `step` of the tile.
  void put(std::int64_t step, const __m512* columns) const {
    SWIFTPRUNE_UNROLL
    for (int j = 0; j < 4; ++j) _mm512_storeu_ps(at + (4 * step + j) * kRows, columns[j]);
  }
};

struct Bf16Tile {
  std::uint16_t* at;

  explicit Bf16Tile(const ExpandArgs& args) : at(static_cast<std::uint16_t*>(args.tile)) {}
  void put(std::int64_t step, const __m512* columns) const {
    const __m512i half = _mm512_set1_epi32(0x8000);  // to nearest, ties away from zero
    SWIFTPRUNE_UNROLL
    for (int j = 0; j < 4; j += 2) {
      const __m512i even = _mm512_add_epi32(_mm512_castps_si512(columns[j]), half);
      const __m512i odd = _mm512_add_epi32(_mm512_castps_si512(columns[j + 1]), half);
      const __m512i pair =
          _mm512_or_si512(_mm512_srli_epi32(even, 16),
                          _mm512_and_si512(odd, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
      _mm512_storeu_si512(at + (2 * step + j / 2) * 2 * kRows, pair);
    }
  }
};

template <class Tile>
struct Group {
  __m512 scales;
  __m512 zeros;
  __m512i zero_lanes;

  __attribute__((always_inline)) void put(const Tile& tile, std::int64_t step, __m512i codes) const {
    __m512 columns[4];
    SWIFTPRUNE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const __m512i code =
          _mm512_and_si512(_mm512_srli_epi32(codes, static_cast<unsigned>(8 * j)), _mm512_set1_epi32(255));
      columns[j] = _mm512_mul_ps(_mm512_sub_ps(_mm512_cvtepi32_ps(code), zeros), scales);
    }
    tile.put(step, columns);
  }
};

template <class Stream, class Tile>
std::int64_t expand(const ExpandArgs& a) {
  const Weights& w = *a.weights;
  const Tile tile(a);
  Stream stream;
  stream.open(w, a.panel, *a.grid_cursor);
  const std::int64_t first = a.first_pair / (2 * kSteps);
  for (std::int64_t chunk = first; chunk < a.last_pair / (2 * kSteps); ++chunk) {
    const std::int64_t cell = scale_cell(w, a.panel, chunk / w.group_chunks);
    const __m512i zeros = group_zeros(w, cell);
    const Group<Tile> group{group_scales(w, cell), _mm512_cvtepi32_ps(zeros), in_all_lanes(zeros)};
    const std::int64_t step = (chunk - first) * kSteps;
    stream.begin(chunk);
    group.put(tile, step, stream.template next<0>(group.zero_lanes));
    group.put(tile, step + 1, stream.template next<1>(group.zero_lanes));
    group.put(tile, step + 2, stream.template next<2>(group.zero_lanes));
    group.put(tile, step + 3, stream.template next<3>(group.zero_lanes));
    group.put(tile, step + 4, stream.template next<4>(group.zero_lanes));
    group.put(tile, step + 5, stream.template next<5>(group.zero_lanes));
    group.put(tile, step + 6, stream.template next<6>(group.zero_lanes));
    group.put(tile, step + 7, stream.template next<7>(group.zero_lanes));
  }
  stream.close(*a.grid_cursor);
  return 0;
}

template <class Stream>
void set_kind(Table& table, int kind, int bits) {
  table.decode_grid[kind][bits] = decode<Stream>;
  table.expand_f32_grid[kind][bits] = expand<Stream, FloatTile>;
  table.expand_bf16_grid[kind][bits] = expand<Stream, Bf16Tile>;
}

template <int kBits>
void set_bits(Table& table, int bits) {
  set_kind<FixedStream<kBits, false>>(table, kDense, bits);
  set_kind<BitmapGridStream<kBits>>(table, kBitmap, bits);
  set_kind<FixedStream<kBits, true>>(table, kNm, bits);
}

}  // namespace

void set_avx512_grid(Table& table) {
  table.decode_grid_tokens = 8;
  set_bits<8>(table, 0);
  set_bits<4>(table, 1);
  set_bits<3>(table, 2);
}

}  // namespace swiftprune::sparse_kernels
#else
namespace swiftprune::sparse_kernels {
void set_avx512_grid(Table&) {}
}  // namespace swiftprune::sparse_kernels
#endif
