// AVX2 kernels of grids. A step is two halves of eight rows by four columns, unsigned bytes, which vpmaddubsw
// multiplies with two planes of signed bytes of x; 16-bit sums hold a chunk. Without vpexpand, eight mask bits
// choose a byte shuffle from a table.
#include "swiftprune/sparse/kernels_avx2.h"

#if defined(__AVX2__)
#include <immintrin.h>

#include "swiftprune/sparse/grid_streams.h"

#define SWIFTPRUNE_UNROLL _Pragma("GCC unroll 16")

namespace swiftprune::sparse_kernels {
namespace {

struct Step {
  __m256i half[2];
};

// The plane's bits of step `s` of those that share a byte.
template <int kBits, int s>
inline __m256i plane(__m256i bytes) {
  if constexpr (kBits == 8) return bytes;
  constexpr int kWidth = kBits == 3 ? 2 : 4;
  constexpr int kShift = s % (8 / kWidth) * kWidth;
  return _mm256_and_si256(kShift == 0 ? bytes : _mm256_srli_epi16(bytes, kShift),
                          _mm256_set1_epi8((1 << kWidth) - 1));
}

// 4 in the bytes whose bit is set.
inline __m256i third_bits(std::uint32_t bits) {
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,  //
                                          2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i one_each = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
  const __m256i words = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), spread);
  const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(words, one_each), one_each);
  return _mm256_and_si256(set, _mm256_set1_epi8(4));
}

template <int kBits>
inline void add_third_bits(Step& step, std::uint64_t bits) {
  if constexpr (kBits == 3) {
    step.half[0] = _mm256_or_si256(step.half[0], third_bits(static_cast<std::uint32_t>(bits)));
    step.half[1] = _mm256_or_si256(step.half[1], third_bits(static_cast<std::uint32_t>(bits >> 32)));
  }
}

// Bytes from `codes` on to the lanes of `mask`; lanes without one get the high bit of `absent`.
inline __m256i expand_half(const std::uint8_t*& codes, std::uint32_t mask, __m256i& absent) {
  __m128i bytes[2], orders[2];
  SWIFTPRUNE_UNROLL
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t low = mask & 255u;
    const std::uint32_t high = mask >> 8 & 255u;
    mask >>= 16;
    const std::uint64_t first = load64(codes);
    codes += __builtin_popcount(low);
    const std::uint64_t second = load64(codes);
    codes += __builtin_popcount(high);
    bytes[i] = _mm_set_epi64x(static_cast<long long>(second), static_cast<long long>(first));
    orders[i] = _mm_or_si128(
        _mm_unpacklo_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpand8.entry[low])),
                           _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kExpand8.entry[high]))),
        _mm_set_epi64x(0x0808080808080808ll, 0));
  }
  absent = _mm256_set_m128i(orders[1], orders[0]);
  return _mm256_shuffle_epi8(_mm256_set_m128i(bytes[1], bytes[0]), absent);
}

// A step's stored codes, from `codes` on, in their lanes; `third` has a bit for each of them.
template <int kBits, int s>
inline Step expand_step(const std::uint8_t* codes, std::uint64_t mask, std::uint64_t third,
                        const Step& zeros) {
  Step step;
  __m256i absent[2];
  SWIFTPRUNE_UNROLL
  for (int h = 0; h < 2; ++h) {
    step.half[h] =
        plane<kBits, s>(expand_half(codes, static_cast<std::uint32_t>(mask >> (32 * h)), absent[h]));
  }
  if constexpr (kBits == 3) add_third_bits<kBits>(step, _pdep_u64(third, mask));
  for (int h = 0; h < 2; ++h) step.half[h] = _mm256_blendv_epi8(step.half[h], zeros.half[h], absent[h]);
  return step;
}

template <int kBits, bool kMasked>
struct FixedStream : FixedPlace<kBits, kMasked> {
  template <int s>
  Step next(const Step& zeros) {
    const std::uint8_t* at = this->template codes_of<s>();
    const std::uint64_t third = this->template third_bits_of<s>();
    if constexpr (kMasked) return expand_step<kBits, s>(at, this->mask[s], third, zeros);
    Step step;
    for (int h = 0; h < 2; ++h) {
      step.half[h] = plane<kBits, s>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 32 * h)));
    }
    add_third_bits<kBits>(step, third);
    return step;
  }
};

template <int kBits>
struct BitmapGridStream : BitmapPlace<kBits> {
  template <int s>
  Step next(const Step& zeros) {
    const std::uint64_t bits = this->mask[s];
    const std::uint8_t* codes = this->at[s % BitmapPlace<kBits>::kStreams];
    const Step step = expand_step<kBits, s>(codes, bits, this->third_bits(), zeros);
    this->template pass<s>(__builtin_popcountll(bits));
    return step;
  }
};

// Scale and zero point of a group for a panel, eight rows each.
struct Group {
  __m256 scales[2];
  __m256i zeros[2];
  Step zero_lanes;  // a row's zero point in its four lanes

  Group(const Weights& w, std::int64_t panel, std::int64_t group) {
    const std::int64_t cell = panel * w.groups + (w.row_groups ? 0 : group);
    for (int h = 0; h < 2; ++h) {
      scales[h] =
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.scales + cell * kRows + 8 * h)));
      if (w.zeros == nullptr) {
        zeros[h] = _mm256_set1_epi32(w.middle);
      } else if (w.bits == 8) {
        zeros[h] = _mm256_cvtepu8_epi32(
            _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w.zeros + cell * kRows + 8 * h)));
      } else {
        std::int32_t word;
        __builtin_memcpy(&word, w.zeros + cell * kRows / 2 + 4 * h, sizeof word);
        const __m256i shift = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
        zeros[h] = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(word), shift), _mm256_set1_epi32(15));
      }
      zero_lanes.half[h] = _mm256_mullo_epi32(zeros[h], _mm256_set1_epi32(0x01010101));
    }
  }
};

// -- A few tokens --

// Of one token and half: products with both planes of x. Codes of 8 bits are two times four, as 16-bit sums of
// their products would overflow.
template <int kBits>
struct Sums {
  static constexpr int kParts = kBits == 8 ? 2 : 1;
  __m256i high[kParts], low[kParts];  // 16 bits, of a chunk: 8·2·15·128 fits
  __m256i group_high, group_low;      // 32 bits

  void clear_chunk() {
    for (int p = 0; p < kParts; ++p) high[p] = low[p] = _mm256_setzero_si256();
  }
  void add(__m256i codes, __m256i x_high, __m256i x_low) {
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kParts; ++p) {
      __m256i part = codes;
      if constexpr (kBits == 8) {
        part = _mm256_and_si256(p == 0 ? codes : _mm256_srli_epi16(codes, 4), _mm256_set1_epi8(15));
      }
      high[p] = _mm256_add_epi16(high[p], _mm256_maddubs_epi16(part, x_high));
      low[p] = _mm256_add_epi16(low[p], _mm256_maddubs_epi16(part, x_low));
    }
  }
  void end_chunk() {
    const __m256i ones = _mm256_set1_epi16(1);
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kParts; ++p) {
      group_high = _mm256_add_epi32(group_high, _mm256_slli_epi32(_mm256_madd_epi16(high[p], ones), 4 * p));
      group_low = _mm256_add_epi32(group_low, _mm256_slli_epi32(_mm256_madd_epi16(low[p], ones), 4 * p));
    }
  }
};

template <class Stream, int kBits, int kTokens>
struct Decoder {
  const DecodeGridArgs& args;
  std::int64_t steps;
  Stream stream;
  Sums<kBits> sums[kTokens][2];

  explicit Decoder(const DecodeGridArgs& of) : args(of), steps(of.weights->steps) {}
  const std::int32_t* words(int token) const {
    return reinterpret_cast<const std::int32_t*>(args.x + token * args.x_stride);
  }
  template <int s>
  __attribute__((always_inline)) void step(std::int64_t k, const Step& zeros) {
    const Step codes = stream.template next<s>(zeros);
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const __m256i x_high = _mm256_set1_epi32(words(t)[k + s]);
      const __m256i x_low = _mm256_set1_epi32(words(t)[steps + k + s]);
      for (int h = 0; h < 2; ++h) sums[t][h].add(codes.half[h], x_high, x_low);
    }
  }
  __attribute__((always_inline)) void chunk(std::int64_t at, const Step& zeros) {
    stream.begin(at);
    for (int i = 0; i < 2 * kTokens; ++i) sums[i / 2][i % 2].clear_chunk();
    const std::int64_t k = at * kSteps;
    step<0>(k, zeros), step<1>(k, zeros), step<2>(k, zeros), step<3>(k, zeros);
    step<4>(k, zeros), step<5>(k, zeros), step<6>(k, zeros), step<7>(k, zeros);
    for (int i = 0; i < 2 * kTokens; ++i) sums[i / 2][i % 2].end_chunk();
  }
};

template <class Stream, int kBits, int kTokens>
void decode_panel(const DecodeGridArgs& args, std::int64_t panel) {
  const Weights& w = *args.weights;
  Decoder<Stream, kBits, kTokens> d(args);
  d.stream.open(w, panel, {});
  __m256 y[kTokens][2];
  for (int i = 0; i < 2 * kTokens; ++i) y[i / 2][i % 2] = _mm256_setzero_ps();
  for (std::int64_t group = 0, at = 0; at < w.chunks; ++group) {
    const Group of(w, panel, group);
    for (int i = 0; i < 2 * kTokens; ++i) {
      Sums<kBits>& sums = d.sums[i / 2][i % 2];
      sums.group_high = sums.group_low = _mm256_setzero_si256();
    }
    const std::int64_t last = at + w.group_chunks < w.chunks ? at + w.group_chunks : w.chunks;
    for (; at < last; ++at) d.chunk(at, of.zero_lanes);
    for (int t = 0; t < kTokens; ++t) {
      const __m256i x_sum = _mm256_set1_epi32(d.words(t)[2 * w.steps + group]);
      for (int h = 0; h < 2; ++h) {
        const Sums<kBits>& sums = d.sums[t][h];
        const __m256i products = _mm256_add_epi32(_mm256_slli_epi32(sums.group_high, 8), sums.group_low);
        const __m256i sum = _mm256_sub_epi32(products, _mm256_mullo_epi32(of.zeros[h], x_sum));
        y[t][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), of.scales[h], y[t][h]);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    float* to = args.y + t * args.y_stride + (panel - args.first_panel) * kRows;
    for (int h = 0; h < 2; ++h) _mm256_storeu_ps(to + 8 * h, y[t][h]);
  }
}

template <class Stream, int kBits>
void decode(const DecodeGridArgs& args) {
  for (std::int64_t panel = args.first_panel; panel < args.last_panel; ++panel) {
    if (args.tokens == 1) {
      decode_panel<Stream, kBits, 1>(args, panel);
    } else {
      decode_panel<Stream, kBits, 2>(args, panel);
    }
  }
}

// -- Tiles --

template <class Stream>
struct Expander {
  const ExpandArgs& a;
  Stream stream;

  template <int s>
  __attribute__((always_inline)) void put(std::int64_t first_step, const Group& group) {
    const Step codes = stream.template next<s>(group.zero_lanes);
    float* columns = static_cast<float*>(a.tile) + (first_step + s) * 4 * kRows;
    for (int h = 0; h < 2; ++h) {
      for (int j = 0; j < 4; ++j) {
        const __m256i code =
            _mm256_and_si256(_mm256_srli_epi32(codes.half[h], 8 * j), _mm256_set1_epi32(255));
        const __m256 value = _mm256_cvtepi32_ps(_mm256_sub_epi32(code, group.zeros[h]));
        _mm256_storeu_ps(columns + j * kRows + 8 * h, _mm256_mul_ps(value, group.scales[h]));
      }
    }
  }
};

template <class Stream>
std::int64_t expand(const ExpandArgs& a) {
  const Weights& w = *a.weights;
  Expander<Stream> e{.a = a, .stream = {}};
  e.stream.open(w, a.panel, *a.grid_cursor);
  const std::int64_t first = a.first_pair / (2 * kSteps);
  for (std::int64_t chunk = first; chunk < a.last_pair / (2 * kSteps); ++chunk) {
    const Group of(w, a.panel, chunk / w.group_chunks);
    const std::int64_t step = (chunk - first) * kSteps;
    e.stream.begin(chunk);
    e.template put<0>(step, of), e.template put<1>(step, of), e.template put<2>(step, of);
    e.template put<3>(step, of), e.template put<4>(step, of), e.template put<5>(step, of);
    e.template put<6>(step, of), e.template put<7>(step, of);
  }
  e.stream.close(*a.grid_cursor);
  return 0;
}

template <class Stream, int kBits>
void set_kind(Table& table, int kind, int bits) {
  table.decode_grid[kind][bits] = decode<Stream, kBits>;
  table.expand_f32_grid[kind][bits] = expand<Stream>;
}

template <int kBits>
void set_bits(Table& table, int bits) {
  set_kind<FixedStream<kBits, false>, kBits>(table, kDense, bits);
  set_kind<BitmapGridStream<kBits>, kBits>(table, kBitmap, bits);
  set_kind<FixedStream<kBits, true>, kBits>(table, kNm, bits);
}

}  // namespace

void set_avx2_grid(Table& table) {
  table.decode_grid_tokens = 2;
  table.most_grid_tokens[kDense] = 8;
  table.most_grid_tokens[kBitmap] = table.most_grid_tokens[kNm] = 4;
  set_bits<8>(table, 0);
  set_bits<4>(table, 1);
  set_bits<3>(table, 2);
}

}  // namespace swiftprune::sparse_kernels
#else
namespace swiftprune::sparse_kernels {
void set_avx2_grid(Table&) {}
}  // namespace swiftprune::sparse_kernels
#endif
