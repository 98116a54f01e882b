// NEON kernels: decode, and products with float tiles. As on AVX2 eight mask bits choose a byte shuffle from a table.
// Expansions are the baseline's.
#include "swiftprune/sparse/kernels_neon.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include "swiftprune/sparse/neon.h"

namespace swiftprune::sparse_kernels {
namespace {

constexpr int kEighths = 8;  // registers of a step: two rows by two columns each

template <bool kF16>
inline void widen(uint16x8_t bits, float32x4_t out[2]) {
  if constexpr (kF16) {
    const float16x8_t halves = vreinterpretq_f16_u16(bits);
    out[0] = vcvt_f32_f16(vget_low_f16(halves));
    out[1] = vcvt_high_f32_f16(halves);
  } else {
    out[0] = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(bits), 16));
    out[1] = vreinterpretq_f32_u32(vshll_high_n_u16(bits, 16));
  }
}

template <bool kF16>
struct DenseStream {
  const std::uint16_t* values = nullptr;

  void open(const Weights& w, std::int64_t panel) {
    values = static_cast<const std::uint16_t*>(w.values) + panel * w.steps * 32;
  }
  void begin(std::int64_t) {}
  void next(std::int64_t step, int quarter, float32x4_t out[2]) {
    widen<kF16>(vld1q_u16(values + step * 32 + 8 * quarter), out);
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
  void next(std::int64_t, int quarter, float32x4_t out[2]) {
    const std::uint32_t lanes = (mask >> (8 * quarter)) & 0xff;
    const uint8x16_t packed = vld1q_u8(reinterpret_cast<const std::uint8_t*>(values));
    values += kBitCounts[lanes];
    widen<kF16>(vreinterpretq_u16_u8(vqtbl1q_u8(packed, vld1q_u8(kExpand16.entry[lanes]))), out);
  }
};

// Lanes of an eighth: two rows, two columns each; neighbours are added at the end.
inline void store_sums(const float32x4_t* eighths, float* y) {
  for (int i = 0; i < kEighths / 2; ++i) vst1q_f32(y + 4 * i, vpaddq_f32(eighths[2 * i], eighths[2 * i + 1]));
}

inline float32x4_t pair_of(const float* x) {
  const float32x2_t pair = vld1_f32(x);
  return vcombine_f32(pair, pair);
}

template <class Stream, int kTokens>
inline void add_step(Stream& stream, std::int64_t step, const float32x4_t* x, float32x4_t (*sums)[kEighths]) {
  stream.begin(step);
  SWIFTPRUNE_UNROLL
  for (int q = 0; q < kEighths / 2; ++q) {
    float32x4_t weights[2];
    stream.next(step, q, weights);
    SWIFTPRUNE_UNROLL
    for (int i = 0; i < 2 * kTokens; ++i)
      sums[i / 2][2 * q + i % 2] = vfmaq_f32(sums[i / 2][2 * q + i % 2], weights[i % 2], x[i / 2]);
  }
}

template <int kTokens>
inline void load_pairs(const float* inputs, float32x4_t* x) {
  SWIFTPRUNE_UNROLL
  for (int t = 0; t < kTokens; ++t) x[t] = pair_of(inputs + 2 * t);
}

template <class Stream, int kTokens, int kPanels>
void decode_panels(const DecodeArgs& args, std::int64_t panel) {
  float32x4_t sums[kPanels][kTokens][kEighths];
  for (auto& of_panel : sums) {
    for (auto& of_token : of_panel) std::fill(std::begin(of_token), std::end(of_token), vdupq_n_f32(0.0f));
  }
  Stream streams[kPanels];
  for (int p = 0; p < kPanels; ++p) streams[p].open(*args.weights, panel + p);
  const auto* inputs = static_cast<const float*>(args.x);
  for (std::int64_t k = 0; k < args.weights->steps; ++k, inputs += 2 * kTokens) {
    float32x4_t x[kTokens];
    load_pairs<kTokens>(inputs, x);
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kPanels; ++p) add_step<Stream, kTokens>(streams[p], k, x, sums[p]);
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int t = 0; t < kTokens; ++t)
      store_sums(sums[p][t], args.y + t * args.y_stride + (panel + p - args.first_panel) * kRows);
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
    float32x4_t sums[kTokens][kEighths];
    for (auto& of_token : sums) std::fill(std::begin(of_token), std::end(of_token), vdupq_n_f32(0.0f));
    DenseStream<kF16> tile;
    tile.values = static_cast<const std::uint16_t*>(w.values) + w.offsets[panel] * 256;
    for (std::uint64_t i = w.offsets[panel]; i < w.offsets[panel + 1]; ++i, tile.values += 256) {
      const std::int64_t first = std::int64_t{8} * w.columns[i];
      const std::int64_t steps = std::min<std::int64_t>(8, w.steps - first);
      const float* inputs = static_cast<const float*>(args.x) + first * 2 * kTokens;
      for (std::int64_t k = 0; k < steps; ++k, inputs += 2 * kTokens) {
        float32x4_t x[kTokens];
        load_pairs<kTokens>(inputs, x);
        add_step<DenseStream<kF16>, kTokens>(tile, k, x, sums);
      }
    }
    for (int t = 0; t < kTokens; ++t)
      store_sums(sums[t], args.y + t * args.y_stride + (panel - args.first_panel) * kRows);
  }
}

template <bool kF16>
void decode_block(const DecodeArgs& args) {
  args.tokens == 1 ? decode_block_tokens<kF16, 1>(args) : decode_block_tokens<kF16, 2>(args);
}

// -- N:M --

// Two slots' values of four rows as floats.
template <bool kF16>
inline void slot_pair(const std::uint16_t* values, float32x4_t& first, float32x4_t& second) {
  const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(values));
  if constexpr (kF16) {
    first = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(both)));
    second = vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(both, 16)));
  } else {
    first = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
    second = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000u)));
  }
}

// A group's inputs as bytes to choose from.
template <int kM>
inline float32x4_t chosen(const float* group, uint8x16_t bytes) {
  const auto* p = reinterpret_cast<const std::uint8_t*>(group);
  if constexpr (kM == 4) return vreinterpretq_f32_u8(vqtbl1q_u8(vld1q_u8(p), bytes));
  if constexpr (kM == 8) return vreinterpretq_f32_u8(vqtbl2q_u8(vld1q_u8_x2(p), bytes));
  return vreinterpretq_f32_u8(vqtbl4q_u8(vld1q_u8_x4(p), bytes));
}

// The places of one slot's inputs of rows 4·quarter to 4·quarter + 3, in bytes.
template <int kM>
inline uint8x16_t slot_bytes(const void* indices, std::int64_t slot, int quarter) {
  constexpr int kBits = kM == 4 ? 2 : 4;
  static const std::int32_t kShifts[4] = {0, -kBits, -2 * kBits, -3 * kBits};
  const std::uint64_t word = kM == 4 ? static_cast<const std::uint32_t*>(indices)[slot]
                                     : static_cast<const std::uint64_t*>(indices)[slot];
  const uint32x4_t shifted =
      vshlq_u32(vdupq_n_u32(static_cast<std::uint32_t>(word >> (4 * kBits * quarter))), vld1q_s32(kShifts));
  const uint32x4_t index = vandq_u32(shifted, vdupq_n_u32(kM - 1));
  return vreinterpretq_u8_u32(vmlaq_n_u32(vdupq_n_u32(0x03020100u), index, 0x04040404u));
}

template <bool kF16, int kM, int kTokens>
void decode_nm_panel(const DecodeArgs& args, std::int64_t panel) {
  constexpr int kQuarters = 4;
  const Weights& w = *args.weights;
  const int n = w.group_n;
  float32x4_t even[kTokens][kQuarters], odd[kTokens][kQuarters];
  for (auto* sums : {even, odd}) {
    for (int t = 0; t < kTokens; ++t) std::fill(sums[t], sums[t] + kQuarters, vdupq_n_f32(0.0f));
  }
  const auto* values = static_cast<const std::uint16_t*>(w.values);
  const auto* x = static_cast<const float*>(args.x);
  std::int64_t group[2] = {0, n == 1 ? 1 : 0};  // of the even and the odd slot
  int within[2] = {0, n == 1 ? 0 : 1};
  const std::int64_t last_group = w.used_slots / n - 1;
  for (std::int64_t s = 0; s < w.slots; s += 2) {
    const float* first = x + group[0] * kM * kTokens;
    const float* second = x + std::min(group[1], last_group) * kM * kTokens;
    const std::int64_t slot = panel * w.slots + s;
    prefetch(values + slot * kRows);
    SWIFTPRUNE_UNROLL
    for (int q = 0; q < kQuarters; ++q) {
      float32x4_t w0, w1;
      slot_pair<kF16>(values + slot * kRows + 8 * q, w0, w1);
      const uint8x16_t bytes0 = slot_bytes<kM>(w.indices, slot, q);
      const uint8x16_t bytes1 = slot_bytes<kM>(w.indices, slot + 1, q);
      SWIFTPRUNE_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        even[t][q] = vfmaq_f32(even[t][q], w0, chosen<kM>(first + kM * t, bytes0));
        odd[t][q] = vfmaq_f32(odd[t][q], w1, chosen<kM>(second + kM * t, bytes1));
      }
    }
    for (int i = 0; i < 2; ++i) {  // two slots on
      within[i] += 2;
      while (within[i] >= n) within[i] -= n, ++group[i];
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    float* y = args.y + t * args.y_stride + (panel - args.first_panel) * kRows;
    for (int q = 0; q < kQuarters; ++q) vst1q_f32(y + 4 * q, vaddq_f32(even[t][q], odd[t][q]));
  }
}

template <bool kF16, int kM>
void decode_nm_groups(const DecodeArgs& args) {
  for (std::int64_t panel = args.first_panel; panel < args.last_panel; ++panel) {
    args.tokens == 1 ? decode_nm_panel<kF16, kM, 1>(args, panel) : decode_nm_panel<kF16, kM, 2>(args, panel);
  }
}

template <bool kF16>
void decode_nm(const DecodeArgs& args) {
  const int m = args.weights->group_m;
  if (m == 4) return decode_nm_groups<kF16, 4>(args);
  if (m == 8) return decode_nm_groups<kF16, 8>(args);
  decode_nm_groups<kF16, 16>(args);
}

// -- int8 weights times 16-bit activations --

// [n rounded up to a quad] int16
void quantize(const float* x, std::int64_t n, float scale, void* out) {
  const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
  auto* q = static_cast<std::int16_t*>(out);
  std::int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    vst1_s16(q + i, vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i), inverse))));
  for (; i < n; ++i) q[i] = static_cast<std::int16_t>(vcvtns_s32_f32(x[i] * inverse));
  for (; i % 4 != 0; ++i) q[i] = 0;
}

struct DenseInt8Stream {
  const std::int8_t* values = nullptr;

  void open(const Weights& w, std::int64_t panel) {
    values = static_cast<const std::int8_t*>(w.values) + panel * w.steps * 64;
  }
  void begin(std::int64_t) {}
  int8x16_t next(std::int64_t step, int quarter) {  // four rows, four columns each
    return vld1q_s8(values + step * 64 + 16 * quarter);
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
  int8x8_t next_rows(std::uint32_t lanes) {
    const int8x8_t packed = vld1_s8(values);
    values += kBitCounts[lanes];
    return vtbl1_s8(packed, vreinterpret_s8_u8(vld1_u8(kExpand8.entry[lanes])));
  }
  int8x16_t next(std::int64_t, int quarter) {
    const int8x8_t first = next_rows(static_cast<std::uint32_t>(mask >> (16 * quarter)) & 0xff);
    return vcombine_s8(first, next_rows(static_cast<std::uint32_t>(mask >> (16 * quarter + 8)) & 0xff));
  }
};

template <class Stream>
void decode_int8_panel(const DecodeInt8Args& args, std::int64_t panel) {
  constexpr std::int64_t kSafeSteps = 256;  // a lane adds a product of 128·32767 a step
  const std::int64_t steps = args.weights->steps;
  const auto* x = static_cast<const std::int16_t*>(args.x);
  std::int64_t totals[kRows] = {};
  Stream stream;
  stream.open(*args.weights, panel);
  for (std::int64_t first = 0; first < steps; first += kSafeSteps) {
    int32x4_t sums[kRows];  // of a row, its four columns
    std::fill(std::begin(sums), std::end(sums), vdupq_n_s32(0));
    for (std::int64_t k = first; k < std::min(first + kSafeSteps, steps); ++k) {
      stream.begin(k);
      const int16x4_t inputs = vld1_s16(x + 4 * k);
      SWIFTPRUNE_UNROLL
      for (int q = 0; q < 4; ++q) {
        const int8x16_t weights = stream.next(k, q);
        const int16x8_t low = vmovl_s8(vget_low_s8(weights)), high = vmovl_high_s8(weights);
        sums[4 * q] = vmlal_s16(sums[4 * q], vget_low_s16(low), inputs);
        sums[4 * q + 1] = vmlal_s16(sums[4 * q + 1], vget_high_s16(low), inputs);
        sums[4 * q + 2] = vmlal_s16(sums[4 * q + 2], vget_low_s16(high), inputs);
        sums[4 * q + 3] = vmlal_s16(sums[4 * q + 3], vget_high_s16(high), inputs);
      }
    }
    for (int r = 0; r < kRows; ++r) totals[r] += vaddlvq_s32(sums[r]);
  }
  std::copy_n(totals, kRows, args.y + (panel - args.first_panel) * kRows);
}

template <class Stream>
void decode_int8(const DecodeInt8Args& args) {
  for (std::int64_t panel = args.first_panel; panel < args.last_panel; ++panel)
    decode_int8_panel<Stream>(args, panel);
}

// -- Tiles --

constexpr int kTokens = 6;

void multiply(const GemmArgs& a) {
  for (int p = 0; p < a.num_panels; ++p) {
    const auto* tile = static_cast<const float*>(a.tiles[p]);
    float* c = a.c + p * kRows;
    float32x4_t sums[kTokens][4];
    SWIFTPRUNE_UNROLL
    for (int i = 0; i < 4 * kTokens; ++i) sums[i / 4][i % 4] = vld1q_f32(c + i / 4 * a.c_stride + i % 4 * 4);
    const auto* x = static_cast<const float*>(a.x);
    for (std::int64_t k = 0; k < a.pairs; ++k, x += 2 * kTokens, tile += 2 * kRows) {
      SWIFTPRUNE_UNROLL
      for (int j = 0; j < 2; ++j) {
        float32x4_t weights[4];
        SWIFTPRUNE_UNROLL
        for (int q = 0; q < 4; ++q) weights[q] = vld1q_f32(tile + j * kRows + 4 * q);
        SWIFTPRUNE_UNROLL
        for (int t = 0; t < kTokens; ++t) {
          SWIFTPRUNE_UNROLL
          for (int q = 0; q < 4; ++q) sums[t][q] = vfmaq_n_f32(sums[t][q], weights[q], x[2 * t + j]);
        }
      }
    }
    SWIFTPRUNE_UNROLL
    for (int i = 0; i < 4 * kTokens; ++i) vst1q_f32(c + i / 4 * a.c_stride + i % 4 * 4, sums[i / 4][i % 4]);
  }
}

}  // namespace

void set_neon_decode(Table& table) {
  table.name = "neon";
  table.decode_tokens = 2;
  table.decode[kDense][0] = decode<DenseStream<false>>;
  table.decode[kDense][1] = decode<DenseStream<true>>;
  table.decode[kBitmap][0] = decode<BitmapStream<false>>;
  table.decode[kBitmap][1] = decode<BitmapStream<true>>;
  table.decode[kNm][0] = decode_nm<false>;
  table.decode[kNm][1] = decode_nm<true>;
  table.decode[kBlock][0] = decode_block<false>;
  table.decode[kBlock][1] = decode_block<true>;
  table.decode_int8_tokens = 1;
  table.quantize = quantize;
  table.decode_int8[0] = decode_int8<DenseInt8Stream>;
  table.decode_int8[1] = decode_int8<BitmapInt8Stream>;
  table.gemm_f32 = {kTokens, 2, multiply};
}

const Table* neon_table() {
  static const Table table = [] {
    Table t = kBaselineTable;
    set_neon_decode(t);
    set_neon_grid(t);
    return t;
  }();
  return &table;
}

const Table* neon_dot_table() {
  static const Table table = [] {
    Table t = *neon_table();
    t.name = "neon with dot products";
    set_neon_dot_grid(t);
    return t;
  }();
  return &table;
}

}  // namespace swiftprune::sparse_kernels
#else
namespace swiftprune::sparse_kernels {
void set_neon_decode(Table&) {}
const Table* neon_table() { return nullptr; }
const Table* neon_dot_table() { return nullptr; }
}  // namespace swiftprune::sparse_kernels
#endif
