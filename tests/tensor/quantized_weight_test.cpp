#include "swiftprune/tensor/quantized_weight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

using testing::HasSubstr;
using testing::Property;
using testing::Throws;

auto says(const char* text) { return Throws<Error>(Property(&Error::what, HasSubstr(text))); }

TEST(QuantizedWeight, ValuesAreDistancesFromTheZeroPoint) {
  QuantizedWeight weight;
  weight.grid = {.bits = 4, .group = 32};
  weight.rows = 1;
  weight.cols = 64;
  weight.codes.assign(64, 8);
  weight.codes[0] = 0;
  weight.codes[40] = 15;
  weight.scales = {f32_to_f16(0.5f), f32_to_f16(2.0f)};
  const Matrix values = dequantize(weight);
  EXPECT_EQ(values.at(0, 0), -4.0f);
  EXPECT_EQ(values.at(0, 40), 14.0f);
  EXPECT_EQ(values.at(0, 1), 0.0f);
  EXPECT_EQ(num_nonzero(weight), 2);

  weight.grid.asymmetric = true;
  weight.zeros = {8, 3};
  EXPECT_EQ(dequantize(weight).at(0, 40), 24.0f);
  EXPECT_EQ(dequantize(weight).at(0, 41), 10.0f);
}

TEST(QuantizedWeight, GridsThatDoNotFitAreRefusedByName) {
  EXPECT_NO_THROW(check_grid({.bits = 3, .group = 0}, 7, "q.weight"));
  EXPECT_THAT([] { check_grid({.bits = 5}, 64, "q.weight"); }, says("8, 4, 3"));
  EXPECT_THAT([] { check_grid({.group = 48}, 96, "q.weight"); }, says("32, 64, 128"));
  EXPECT_THAT([] { check_grid({.group = 128}, 576, "q.weight"); }, says("these do: 32, 64"));
  EXPECT_THAT([] { check_grid({.group = 32}, 100, "q.weight"); }, says("only whole rows"));
}

}  // namespace
}  // namespace swiftprune
