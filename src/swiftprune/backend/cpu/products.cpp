#include "swiftprune/backend/cpu/products.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include "swiftprune/backend/backend.h"
#include "swiftprune/backend/cpu/tiles.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune::cpu {
namespace {

// sgemm reaches its full rate from about 200 rows; equal parts keep two threads busy to the end.
constexpr std::int64_t kGramTile = 256;
constexpr std::int64_t kWideTile = 1024;
constexpr std::int64_t kFewRows = 64;  // up to here only the columns give the threads work
constexpr std::int64_t kNarrowTile = 96;

// oneDNN takes all threads where it is called outside of a parallel loop, as by a product of one tile, and on processors
// without AVX-512 cuts long sums for them: then the bits would depend on how many there are.
class OneThread {
 public:
  OneThread() : threads_(omp_in_parallel() ? 1 : omp_get_max_threads()) {
    if (threads_ > 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (threads_ > 1) omp_set_num_threads(threads_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  const int threads_;
};

// Of products whose rows make one tile: narrower ones, so that threads have work.
std::int64_t wide_tile(std::int64_t rows) {
  return rows <= kFewRows ? kNarrowTile : rows <= kGramTile ? kGramTile : kWideTile;
}

// -- Inverse of a positive definite matrix ------------------------------------------------------------------
//
// Recursive Cholesky that carries L⁻¹ along, so that every large step is a matrix product:
//   A = [A11 ·; A21 A22], L11 and W11 = L11⁻¹ from A11; L21 = A21 W11ᵀ; L22, W22 from A22 − L21 L21ᵀ; W21 =
//   −W22 L21 W11.
constexpr std::int64_t kBase = 64;

// a: lower triangle of A in, W = L⁻¹ out (zeros above). In double.
bool invert_cholesky_base(MatrixView a) {
  const std::int64_t n = a.rows;
  double l[kBase][kBase];
  double w[kBase][kBase] = {};
  for (std::int64_t j = 0; j < n; ++j) {
    for (std::int64_t i = j; i < n; ++i) {
      double sum = a.at(i, j);
      for (std::int64_t k = 0; k < j; ++k) sum -= l[i][k] * l[j][k];
      if (i == j) {
        if (!(sum > 0.0) || !std::isfinite(sum)) return false;
        l[j][j] = std::sqrt(sum);
      } else {
        l[i][j] = sum / l[j][j];
      }
    }
  }
  for (std::int64_t j = 0; j < n; ++j) {
    w[j][j] = 1.0 / l[j][j];
    for (std::int64_t i = j + 1; i < n; ++i) {
      double sum = 0.0;
      for (std::int64_t k = j; k < i; ++k) sum -= l[i][k] * w[k][j];
      w[i][j] = sum / l[i][i];
    }
  }
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) a.at(i, j) = j <= i ? static_cast<float>(w[i][j]) : 0.0f;
  }
  return true;
}

bool invert_cholesky(MatrixView a) {
  const std::int64_t n = a.rows;
  if (n <= kBase) return invert_cholesky_base(a);
  const std::int64_t n1 = round_up(n / 2, kBase);
  const std::int64_t n2 = n - n1;
  const MatrixView a11 = a.row_block(0, n1).col_block(0, n1);
  const MatrixView a21 = a.row_block(n1, n2).col_block(0, n1);
  const MatrixView a22 = a.row_block(n1, n2).col_block(n1, n2);
  if (!invert_cholesky(a11)) return false;
  Matrix l21(n2, n1);
  matmul(a21, a11, true, 1.0f, 0.0f, l21.view());
  matmul(l21.view(), l21.view(), true, -1.0f, 1.0f, a22);
  if (!invert_cholesky(a22)) return false;
  Matrix product(n2, n1);
  matmul(l21.view(), a11, false, 1.0f, 0.0f, product.view());
  matmul(a22, product.view(), false, -1.0f, 0.0f, a21);
  const MatrixView a12 = a.row_block(0, n1).col_block(n1, n2);
  for (std::int64_t r = 0; r < n1; ++r) std::fill_n(a12.row(r), n2, 0.0f);
  return true;
}

}  // namespace

void sgemm(bool a_transposed, bool b_transposed, float alpha, ConstMatrixView a, ConstMatrixView b,
           float beta, MatrixView c) {
  if (c.numel() == 0) return;
  const OneThread one;
  const std::int64_t k = a_transposed ? a.rows : a.cols;
  const dnnl_status_t status = dnnl_sgemm(a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N', c.rows, c.cols,
                                          k, alpha, a.data, std::max<std::int64_t>(1, a.stride), b.data,
                                          std::max<std::int64_t>(1, b.stride), beta, c.data, c.stride);
  expect(status == dnnl_success, "dnnl_sgemm succeeds");
}

void matmul(ConstMatrixView a, ConstMatrixView b, bool b_transposed, float alpha, float beta, MatrixView c) {
  for_tiles(c.rows, c.cols, split(c.rows, kGramTile), split(c.cols, kGramTile),
            [&](std::int64_t r0, std::int64_t rows, std::int64_t c0, std::int64_t cols) {
              sgemm(false, b_transposed, alpha, a.row_block(r0, rows),
                    b_transposed ? b.row_block(c0, cols) : b.col_block(c0, cols), beta,
                    c.row_block(r0, rows).col_block(c0, cols));
            });
}

void linear(ConstMatrixView x, ConstMatrixView weight, std::span<const float> bias, MatrixView y) {
  for_tiles(y.rows, y.cols, split(y.rows, kGramTile), split(y.cols, wide_tile(y.rows)),
            [&](std::int64_t r0, std::int64_t rows, std::int64_t c0, std::int64_t cols) {
              const MatrixView tile = y.row_block(r0, rows).col_block(c0, cols);
              if (!bias.empty()) {
                for (std::int64_t r = 0; r < rows; ++r) std::copy_n(bias.data() + c0, cols, tile.row(r));
              }
              sgemm(false, true, 1.0f, x.row_block(r0, rows), weight.row_block(c0, cols),
                    bias.empty() ? 0.0f : 1.0f, tile);
            });
}

std::int64_t moment_rows(std::int64_t n) { return split(n, kGramTile).size; }

std::int64_t product_rows(std::int64_t rows, std::int64_t outputs) {
  return split(outputs, kGramTile).parts < 2 ? rows : split(rows, kGramTile).size;
}

void add_gram(ConstMatrixView x, MatrixView gram, std::int64_t first, std::int64_t count) {
  const Split tiles = split(x.cols, kGramTile);
  for_tile_rows(first, count, x.cols, tiles, tiles,
                [&](std::int64_t r0, std::int64_t rows, std::int64_t c0, std::int64_t cols) {
                  if (c0 > r0) return;
                  sgemm(true, false, 1.0f, x.col_block(r0, rows), x.col_block(c0, cols), 1.0f,
                        gram.row_block(r0, rows).col_block(c0, cols));
                });
}

void add_cross(ConstMatrixView a, ConstMatrixView b, MatrixView c, std::int64_t first, std::int64_t count) {
  for_tile_rows(first, count, c.cols, split(c.rows, kGramTile), split(c.cols, kGramTile),
                [&](std::int64_t r0, std::int64_t rows, std::int64_t c0, std::int64_t cols) {
                  sgemm(true, false, 1.0f, a.col_block(r0, rows), b.col_block(c0, cols), 1.0f,
                        c.row_block(r0, rows).col_block(c0, cols));
                });
}

// A⁻¹ = Wᵀ W with W = L⁻¹.
bool invert_spd(MatrixView a) {
  if (!invert_cholesky(a)) return false;
  Matrix inverse = Matrix::zeros(a.rows, a.cols);
  add_gram(a, inverse.view(), 0, a.rows);
  Backend::symmetrize(inverse.view());
  for (std::int64_t r = 0; r < a.rows; ++r) std::copy_n(inverse.row(r), a.cols, a.row(r));
  return true;
}

}  // namespace swiftprune::cpu
