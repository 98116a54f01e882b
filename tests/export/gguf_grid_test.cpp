#include "swiftprune/export/gguf_grid.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "swiftprune/export/gguf_quantize.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

constexpr GgmlType kGridTypes[] = {GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ5_0, GgmlType::kQ5_1,
                                   GgmlType::kQ8_0, GgmlType::kQ2_K, GgmlType::kQ3_K, GgmlType::kQ4_K,
                                   GgmlType::kQ5_K, GgmlType::kQ6_K};

const GgmlTypeTraits& traits_of(GgmlType type) { return *find_ggml_type(static_cast<std::uint32_t>(type)); }

std::vector<float> read_back(const GgmlGrid& grid, const BlockScales& scales,
                             const std::vector<std::int8_t>& codes) {
  std::vector<std::byte> block(static_cast<std::size_t>(traits_of(grid.type).block_bytes));
  pack_block(grid, scales, codes.data(), block.data());
  std::vector<float> values(codes.size());
  dequantize(traits_of(grid.type), block, values);
  return values;
}

class GgufGrid : public testing::TestWithParam<GgmlType> {
 protected:
  const GgmlGrid& grid() const { return *find_grid(GetParam()); }
  std::size_t size() const { return static_cast<std::size_t>(grid().block); }

  // Weights as models have them: parts of different spread, a few far out.
  std::vector<float> weights(unsigned seed) const {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = 0.02f * (1.0f + static_cast<float>(i / 32 % 5)) * normal(random);
      if (random() % 50 == 0) values[i] *= 3.0f;
    }
    return values;
  }

  // What a block's fit makes of x.
  std::vector<float> rounded(const std::vector<float>& x, const std::vector<float>& importance,
                             bool keep_zeros = false) const {
    const BlockScales scales = fit_block(grid(), x.data(), importance.data(), keep_zeros);
    std::vector<std::int8_t> codes(size());
    round_block(grid(), scales, x.data(), codes.data());
    return read_back(grid(), scales, codes);
  }
};

INSTANTIATE_TEST_SUITE_P(Types, GgufGrid, testing::ValuesIn(kGridTypes),
                         [](const auto& test_info) { return std::string(traits_of(test_info.param).name); });

double squared_error(const std::vector<float>& x, const std::vector<float>& y,
                     const std::vector<float>& importance) {
  double total = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double e = double{x[i]} - double{y[i]};
    total += double{importance[i]} * e * e;
  }
  return total;
}

// dequantize() is tested against another library, so this says that every number lies where it belongs.
TEST_P(GgufGrid, EveryNumberOfABlockIsReadBack) {
  std::mt19937 random(3);
  const auto draw = [&](int low, int high) {
    return static_cast<std::int8_t>(std::uniform_int_distribution<int>(low, high)(random));
  };
  for (int repeat = 0; repeat < 20; ++repeat) {
    BlockScales scales;
    scales.d = f32_to_f16(0.01f * static_cast<float>(1 + random() % 100));
    if (grid().has_offset) scales.m = f32_to_f16(0.03f * static_cast<float>(random() % 50));
    for (std::size_t p = 0; grid().has_scales() && p < static_cast<std::size_t>(grid().parts()); ++p) {
      scales.scale[p] = draw(grid().lowest_scale, grid().highest_scale);
      if (grid().has_offset) scales.min[p] = draw(0, grid().highest_min);
    }
    std::vector<std::int8_t> codes(size());
    for (std::int8_t& code : codes) code = draw(grid().lowest, grid().highest);
    const std::vector<float> values = read_back(grid(), scales, codes);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const GridLine line = line_of(grid(), scales, static_cast<int>(i) / grid().part);
      ASSERT_EQ(values[i], line.value(codes[i])) << i;
      if (line.step != 0.0f) {
        ASSERT_EQ(line.nearest_code(values[i]), codes[i]) << i;
      }
    }
  }
}

// The plain way: the extremes of each part lie on the grid's ends; scales of parts are rounded to their codes.
double plain_error(const GgmlGrid& grid, const std::vector<float>& x, const std::vector<float>& importance) {
  const auto parts = static_cast<std::size_t>(grid.parts()), size = static_cast<std::size_t>(grid.part);
  std::vector<double> steps, offsets;
  for (std::size_t p = 0; p < parts; ++p) {
    const auto begin = x.begin() + static_cast<std::ptrdiff_t>(p * size), end = begin + grid.part;
    const double low = std::min(double{*std::min_element(begin, end)}, 0.0);
    const double high = std::max(double{*std::max_element(begin, end)}, 0.0);
    steps.push_back(grid.has_offset ? (high - low) / grid.highest : std::max(-low, high) / grid.highest);
    offsets.push_back(grid.has_offset ? low : 0.0);
  }
  const double d = *std::max_element(steps.begin(), steps.end()) / std::max(1, grid.highest_scale);
  const double m = -*std::min_element(offsets.begin(), offsets.end()) / std::max(1, grid.highest_min);
  double total = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    double step = steps[i / size], offset = offsets[i / size];
    if (grid.has_scales()) step = d * std::nearbyint(step / d);
    if (grid.has_scales() && m > 0.0) offset = -m * std::nearbyint(-offset / m);
    const double code =
        std::clamp(std::nearbyint((double{x[i]} - offset) / step), double(grid.lowest), double(grid.highest));
    const double e = double{x[i]} - (step * code + offset);
    total += double{importance[i]} * e * e;
  }
  return total;
}

TEST_P(GgufGrid, SearchedScalesBeatPlainOnes) {
  double found = 0.0, plain = 0.0, energy = 0.0;
  for (unsigned seed = 1; seed <= 8; ++seed) {
    const std::vector<float> x = weights(seed), ones(x.size(), 1.0f);
    found += squared_error(x, rounded(x, ones), ones);
    plain += plain_error(grid(), x, ones);
    energy += squared_error(x, std::vector<float>(x.size()), ones);
  }
  EXPECT_LT(found, (grid().highest - grid().lowest <= 31 ? 0.9 : 1.0) * plain);
  EXPECT_GT(found, 0.0);
  EXPECT_LT(found, energy * (grid().type == GgmlType::kQ2_K ? 0.1 : 0.05));
}

TEST_P(GgufGrid, ErrorsGoWhereTheyCountLess) {
  double aware = 0.0, unaware = 0.0;
  for (unsigned seed = 1; seed <= 8; ++seed) {
    const std::vector<float> x = weights(seed), ones(x.size(), 1.0f);
    std::vector<float> importance(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) importance[i] = i % 7 == 0 ? 50.0f : i % 7 == 1 ? 0.0f : 1.0f;
    aware += squared_error(x, rounded(x, importance), importance);
    unaware += squared_error(x, rounded(x, ones), importance);
  }
  EXPECT_LT(aware, 0.97 * unaware);
}

TEST_P(GgufGrid, ZerosStayWhereTheyAreKept) {
  std::vector<float> x = weights(5);
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (i % 3 != 0) x[i] = 0.0f;
  }
  const std::vector<float> ones(x.size(), 1.0f), values = rounded(x, ones, true);
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (x[i] == 0.0f) {
      EXPECT_EQ(values[i], 0.0f) << i;
    }
  }
  const double energy = squared_error(x, std::vector<float>(x.size()), ones);
  EXPECT_LT(squared_error(x, values, ones), 0.25 * energy);
}

TEST_P(GgufGrid, OddBlocks) {
  const std::vector<float> ones(size(), 1.0f);
  const auto expect_near = [&](const std::vector<float>& x, float tolerance, const char* what) {
    for (const bool keep_zeros : {false, true}) {
      const std::vector<float> values = rounded(x, ones, keep_zeros);
      for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(values[i], x[i], tolerance) << what << " " << i;
    }
  };
  expect_near(std::vector<float>(size(), 0.0f), 0.0f, "zeros");
  expect_near(std::vector<float>(size(), 0.75f), 0.01f, "one value");
  expect_near(std::vector<float>(size(), -0.75f), 0.01f, "one negative value");
  expect_near(std::vector<float>(size(), 65504.0f), 700.0f, "f16's largest");
  expect_near(std::vector<float>(size(), -1e-30f), 1e-7f, "next to nothing");
  std::vector<float> one(size(), 0.0f);
  one[1] = -3.0f;
  expect_near(one, 0.05f, "one weight");
  // Nothing counts: any finite values will do.
  for (const float value : rounded(weights(1), std::vector<float>(size(), 0.0f))) {
    EXPECT_TRUE(std::isfinite(value));
  }
}

TEST(GgufQuantizeTypes, RowsTakeTheWeightsOfTheirColumns) {
  const GgmlTypeTraits& type = *writable_ggml_type(GgmlType::kQ4_0);
  std::vector<float> columns(64, 1.0f), values(128);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (float& value : values) value = normal(random);
  columns[40] = 1e4f;
  std::vector<std::byte> blocks(4 * 18), plain(4 * 18);
  quantize(type, values, blocks, {.columns = columns});
  quantize(type, values, plain, {.columns = std::vector<float>(64, 1.0f)});
  std::vector<float> found(128), unaware(128);
  dequantize(type, blocks, found), dequantize(type, plain, unaware);
  for (const std::size_t row : {std::size_t{0}, std::size_t{64}}) {
    EXPECT_LT(std::abs(found[row + 40] - values[row + 40]), 0.01f);
    EXPECT_TRUE(std::equal(found.begin() + static_cast<std::ptrdiff_t>(row),
                           found.begin() + static_cast<std::ptrdiff_t>(row + 32),
                           unaware.begin() + static_cast<std::ptrdiff_t>(row)));
  }
}

TEST(GgufQuantizeTypes, WhatIsWritten) {
  EXPECT_EQ(writable_ggml_type(GgmlType::kIQ4_NL), nullptr);
  EXPECT_EQ(writable_ggml_type(GgmlType::kTQ1_0), nullptr);
  EXPECT_EQ(find_grid(GgmlType::kF16), nullptr);
  EXPECT_EQ(writable_ggml_type(GgmlType::kQ4_K)->name, "Q4_K");
}

}  // namespace
}  // namespace swiftprune
