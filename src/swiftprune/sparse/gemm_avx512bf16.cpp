// The product of bf16 tiles with bf16 tokens: vdpbf16ps does twice the work of a float multiply-add.
#include "swiftprune/sparse/kernels_avx512.h"

#if defined(__AVX512BF16__)
// GCC 12 warns about its own _mm512_undefined_epi32 (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "swiftprune/sparse/streams_avx512.h"

namespace swiftprune::sparse_kernels {
namespace {

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
  const auto* x = static_cast<const std::int32_t*>(a.x);  // two bf16
  for (std::int64_t k = 0; k < a.pairs; ++k, x += kTokens) {
    __m512i weights[kCount];
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kCount; ++p) {
      weights[p] = _mm512_loadu_si512(static_cast<const std::uint16_t*>(a.tiles[p]) + k * 2 * kRows);
    }
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const __m512i xt = _mm512_set1_epi32(x[t]);
      SWIFTPRUNE_UNROLL
      for (int p = 0; p < kCount; ++p) {
        sums[t][p] = _mm512_dpbf16_ps(sums[t][p], reinterpret_cast<__m512bh>(weights[p]),
                                      reinterpret_cast<__m512bh>(xt));
      }
    }
  }
  SWIFTPRUNE_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kCount; ++p) _mm512_storeu_ps(a.c + t * a.c_stride + p * kRows, sums[t][p]);
  }
}

// A block of tokens straight from the stream.
template <class Stream, int kCount>
void decode_panels(const DecodeArgs& args, std::int64_t panel) {
  __m512 sums[kCount][kTokens];
  Stream streams[kCount];
  SWIFTPRUNE_UNROLL
  for (int p = 0; p < kCount; ++p) {
    streams[p].open(*args.weights, panel + p);
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kTokens; ++t) sums[p][t] = _mm512_setzero_ps();
  }
  const auto* x = static_cast<const std::int32_t*>(args.x);
  for (std::int64_t k = 0; k < args.weights->steps; ++k, x += kTokens) {
    SWIFTPRUNE_UNROLL
    for (int p = 0; p < kCount; ++p) {
      const auto weights = reinterpret_cast<__m512bh>(streams[p].next(k));
      SWIFTPRUNE_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        sums[p][t] =
            _mm512_dpbf16_ps(sums[p][t], weights, reinterpret_cast<__m512bh>(_mm512_set1_epi32(x[t])));
      }
    }
  }
  SWIFTPRUNE_UNROLL
  for (int p = 0; p < kCount; ++p) {
    SWIFTPRUNE_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      _mm512_storeu_ps(args.y + t * args.y_stride + (panel + p - args.first_panel) * kRows, sums[p][t]);
    }
  }
}

template <class Stream>
void decode(const DecodeArgs& args) {
  std::int64_t panel = args.first_panel;
  for (; panel + 2 <= args.last_panel; panel += 2) decode_panels<Stream, 2>(args, panel);
  if (panel < args.last_panel) decode_panels<Stream, 1>(args, panel);
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

void set_avx512_bf16_gemm(Table& table) {
  table.name = "avx512_bf16";
  table.decode_bf16[kDense] = decode<DenseStream>;
  table.decode_bf16[kBitmap] = decode<BitmapStream>;
  table.gemm_bf16 = {kTokens, kPanels, multiply};
}

const Table* avx512_bf16_table() {
  static const Table table = [] {
    Table t = *avx512_table();
    set_avx512_bf16_gemm(t);
    return t;
  }();
  return &table;
}

}  // namespace swiftprune::sparse_kernels
#else
namespace swiftprune::sparse_kernels {
void set_avx512_bf16_gemm(Table&) {}
const Table* avx512_bf16_table() { return nullptr; }
}  // namespace swiftprune::sparse_kernels
#endif
