#include "swiftprune/backend/rounded_gram.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "swiftprune/backend/cpu/gram_kernels.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

using namespace cpu::gram_kernels;

constexpr std::int64_t kTokens = 2048;  // packed at a time
constexpr std::int64_t kPairsATask = 32;
constexpr std::int64_t kTileCols = kTilePanels * kPanel;

// One chunk of tokens.
void add_chunk(const Table& kernels, ConstMatrixView x, MatrixView gram) {
  const std::int64_t pairs = ceil_div(x.rows, std::int64_t{2});
  const std::int64_t panel_stride = pairs * kPanel;
  const std::int64_t columns = round_up(x.cols, kTileCols);
  thread_local std::vector<std::int32_t> words;  // kept: new pages would cost as much as the rounding
  words.resize(std::max(words.size(), static_cast<std::size_t>(columns * pairs)));
  std::int32_t* packed = words.data();
  parallel_for(pairs, kPairsATask, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t p = first; p < last; ++p) {
      const float* odd = 2 * p + 1 < x.rows ? x.row(2 * p + 1) : nullptr;
      kernels.pack_pair(x.row(2 * p), odd, x.cols, panel_stride, packed + p * kPanel);
    }
  });
  // Panels beyond the last channel hold anything: each output reads its own two channels only.
  parallel_for(columns / kTileCols, 1, [&](std::int64_t first, std::int64_t last) {
    float sums[kTileRows * kTileCols];
    for (std::int64_t c0 = first * kTileCols; c0 < last * kTileCols; c0 += kTileCols) {
      for (std::int64_t r0 = c0; r0 < x.cols; r0 += kTileRows) {
        const std::int32_t* rows = packed + r0 / kPanel * panel_stride + r0 % kPanel;
        kernels.multiply(rows, packed + c0 / kPanel * panel_stride, panel_stride, pairs, sums);
        for (std::int64_t r = r0; r < std::min(r0 + kTileRows, x.cols); ++r) {
          for (std::int64_t c = c0; c < std::min(c0 + kTileCols, x.cols); ++c) {
            gram.at(r, c) += sums[(r - r0) * kTileCols + c - c0];
          }
        }
      }
    }
  });
}

}  // namespace

void add_rounded_gram(const Backend& backend, ConstMatrixView x, MatrixView gram) {
  expect(gram.rows == x.cols && gram.cols == x.cols, "add_rounded_gram: x [N, I], gram [I, I]");
  const Table* kernels = cpu_features().avx512_bf16 ? avx512_bf16_table() : nullptr;
  if (kernels != nullptr) {
    for (std::int64_t first = 0; first < x.rows; first += kTokens) {
      add_chunk(*kernels, x.row_block(first, std::min(kTokens, x.rows - first)), gram);
    }
    return;
  }
  Matrix rounded(x.rows, x.cols);
  parallel_for(x.rows, kPairsATask, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      for (std::int64_t c = 0; c < x.cols; ++c) rounded.at(r, c) = bf16_to_f32(f32_to_bf16(x.at(r, c)));
    }
  });
  backend.add_gram(std::as_const(rounded).view(), gram);
}

}  // namespace swiftprune
