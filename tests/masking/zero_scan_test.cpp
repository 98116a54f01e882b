#include "swiftprune/masking/zero_scan.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "swiftprune/tensor/matrix.h"

namespace swiftprune {
namespace {

// A matrix in `dtype` whose rows are `gap` elements longer than its view.
struct Stored {
  std::vector<std::byte> bytes;
  WeightView view;
};

Stored store(const Matrix& m, DType dtype, std::int64_t gap = 0) {
  const std::int64_t size = size_of(dtype), stride = m.cols() + gap;
  Stored stored{std::vector<std::byte>(static_cast<std::size_t>(m.rows() * stride * size), std::byte{0x11}),
                {}};
  for (std::int64_t r = 0; r < m.rows(); ++r) {
    convert_from_f32({m.row(r), static_cast<std::size_t>(m.cols())}, dtype,
                     {stored.bytes.data() + r * stride * size, static_cast<std::size_t>(m.cols() * size)});
  }
  stored.view = {stored.bytes.data(), dtype, m.rows(), m.cols(), stride};
  return stored;
}

Matrix sparse(std::int64_t rows, std::int64_t cols, double sparsity, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform;
  Matrix m(rows, cols);
  for (float& value : m.values())
    value = uniform(random) < sparsity ? 0.0f : static_cast<float>(uniform(random)) + 1.0f;
  return m;
}

// The definition, weight by weight.
ZeroScan scan_plainly(const Matrix& m) {
  ZeroScan scan;
  scan.rows = m.rows(), scan.cols = m.cols();
  const auto count = [&](std::int64_t r0, std::int64_t c0, std::int64_t height, std::int64_t width) {
    std::int64_t kept = 0;
    for (std::int64_t r = r0; r < r0 + height; ++r) {
      for (std::int64_t c = c0; c < c0 + width; ++c) kept += m.at(r, c) != 0.0f;
    }
    return kept;
  };
  scan.num_zeros = m.numel() - count(0, 0, m.rows(), m.cols());
  for (std::int64_t r = 0; r < m.rows(); ++r) scan.num_zero_rows += count(r, 0, 1, m.cols()) == 0;
  for (std::int64_t c = 0; c < m.cols(); ++c) scan.num_zero_cols += count(0, c, m.rows(), 1) == 0;
  for (std::size_t g = 0; g < scan.max_kept.size(); ++g) {
    const std::int64_t size = 2 << g;
    scan.max_kept[g] = m.cols() % size == 0 ? 0 : size;
    for (std::int64_t i = 0; m.cols() % size == 0 && i < m.numel() / size; ++i) {
      const std::int64_t at = i * size;
      scan.max_kept[g] = std::max(scan.max_kept[g], count(at / m.cols(), at % m.cols(), 1, size));
    }
  }
  for (std::size_t r = 0; r < scan.num_zero_tiles.size(); ++r) {
    for (std::size_t c = 0; c < scan.num_zero_tiles.size(); ++c) {
      const std::int64_t height = 1 << r, width = 1 << c;
      if (m.rows() % height != 0 || m.cols() % width != 0) continue;
      for (std::int64_t i = 0; i < m.rows(); i += height) {
        for (std::int64_t j = 0; j < m.cols(); j += width)
          scan.num_zero_tiles[r][c] += count(i, j, height, width) == 0;
      }
    }
  }
  return scan;
}

void expect_equal(const ZeroScan& found, const ZeroScan& expected) {
  EXPECT_EQ(found.num_zeros, expected.num_zeros);
  EXPECT_EQ(found.num_zero_rows, expected.num_zero_rows);
  EXPECT_EQ(found.num_zero_cols, expected.num_zero_cols);
  EXPECT_EQ(found.max_kept, expected.max_kept);
  EXPECT_EQ(found.num_zero_tiles, expected.num_zero_tiles);
}

TEST(ZeroScan, CountsAsTheDefinition) {
  const std::pair<std::int64_t, std::int64_t> shapes[] = {
      {0, 5},    {3, 0},   {1, 1},    {2, 63},  {3, 64},   {4, 65},   {63, 32},
      {64, 128}, {65, 96}, {128, 64}, {192, 1}, {130, 48}, {64, 192}, {256, 256}};
  unsigned seed = 0;
  for (const auto& [rows, cols] : shapes) {
    for (const double sparsity : {0.0, 0.3, 0.9, 0.99, 1.0}) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        SCOPED_TRACE(fmt::format("[{}, {}] sparsity {} {}", rows, cols, sparsity, name_of(dtype)));
        const Matrix m = sparse(rows, cols, sparsity, ++seed);
        expect_equal(scan_zeros(store(m, dtype, seed % 3).view), scan_plainly(m));
      }
    }
  }
}

TEST(ZeroScan, NegativeZerosAndWhatIsNotFinite) {
  const std::vector<std::uint16_t> bf16 = {0x8000, 0x0000, 0x7f80, 0xff81, 0x3f80, 0x8001};
  const ZeroScan scan = scan_zeros({reinterpret_cast<const std::byte*>(bf16.data()), DType::kBF16, 2, 3, 3});
  EXPECT_EQ(scan.num_zeros, 2);
  EXPECT_EQ(scan.num_negative_zeros, 1);
  EXPECT_EQ(scan.num_not_finite, 2);
  const std::vector<float> f32 = {-0.0f, NAN, -INFINITY, 1e-45f};
  const ZeroScan full = scan_zeros({reinterpret_cast<const std::byte*>(f32.data()), DType::kF32, 1, 4, 4});
  EXPECT_EQ(full.num_zeros, 1);
  EXPECT_EQ(full.num_negative_zeros, 1);
  EXPECT_EQ(full.num_not_finite, 2);
}

std::string found_in(const Matrix& m) {
  const auto pattern = find_pattern(scan_zeros(store(m, DType::kF16).view));
  return pattern ? format(*pattern) : "none";
}

// Keeps the first n of each m, shuffled.
Matrix n_of_m(std::int64_t n, std::int64_t m) {
  Matrix matrix = sparse(64, 256, 0.0, 7);
  std::mt19937 random(3);
  std::vector<int> order(static_cast<std::size_t>(m));
  for (std::int64_t i = 0; i < matrix.numel(); i += m) {
    for (std::size_t k = 0; k < order.size(); ++k) order[k] = static_cast<int>(k);
    std::shuffle(order.begin(), order.end(), random);
    for (std::size_t k = static_cast<std::size_t>(n); k < order.size(); ++k)
      matrix.values()[static_cast<std::size_t>(i + order[k])] = 0.0f;
  }
  return matrix;
}

TEST(FindPattern, NofM) {
  EXPECT_EQ(found_in(n_of_m(2, 4)), "2:4");
  EXPECT_EQ(found_in(n_of_m(4, 8)), "4:8");
  EXPECT_EQ(found_in(n_of_m(1, 4)), "1:4");
  EXPECT_EQ(found_in(n_of_m(3, 4)), "3:4");
  EXPECT_EQ(found_in(n_of_m(8, 16)), "8:16");
  EXPECT_EQ(found_in(n_of_m(16, 32)), "16:32");
  EXPECT_EQ(found_in(n_of_m(1, 2)), "1:2");
}

TEST(FindPattern, OneBadGroupIsNoPattern) {
  Matrix m = n_of_m(2, 4);
  for (int c = 0; c < 4; ++c) m.at(63, 252 + c) = 1.0f;
  EXPECT_EQ(found_in(m), "none");
}

TEST(FindPattern, RandomZerosAreNoPattern) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    for (const double sparsity : {0.05, 0.5, 0.7, 0.9, 0.99}) {
      EXPECT_EQ(found_in(sparse(96, 128, sparsity, seed)), "none") << seed << " " << sparsity;
    }
  }
  EXPECT_EQ(found_in(sparse(64, 64, 0.0, 1)), "none");
  EXPECT_EQ(found_in(sparse(64, 64, 1.0, 1)), "none");
}

TEST(FindPattern, Tiles) {
  for (const auto& [height, width] :
       std::vector<std::pair<int, int>>{{16, 16}, {4, 4}, {1, 8}, {32, 1}, {64, 64}}) {
    Matrix m = sparse(256, 256, 0.0, 5);
    std::mt19937 random(static_cast<unsigned>(height));
    for (int r = 0; r < 256; r += height) {
      for (int c = 0; c < 256; c += width) {
        if (random() % 2 == 0 && (r > 0 || c > 0)) continue;
        for (int i = 0; i < height * width; ++i) m.at(r + i / width, c + i % width) = 0.0f;
      }
    }
    const std::string expected = height * width < 4096 ? fmt::format("block:{}x{}", height, width) : "none";
    // Of 16 tiles of 64 x 64 too few are zero to tell them from tiles of 32 x 32: any tile will do.
    if (expected == "none") {
      EXPECT_TRUE(found_in(m).starts_with("block:")) << found_in(m);
    } else {
      EXPECT_EQ(found_in(m), expected);
    }
  }
}

}  // namespace
}  // namespace swiftprune
