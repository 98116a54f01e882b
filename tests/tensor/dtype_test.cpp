#include "swiftprune/tensor/dtype.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/tensor/dtype_kernels.h"

namespace swiftprune {
namespace {

std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }
float float_of(std::uint32_t bits) { return std::bit_cast<float>(bits); }

TEST(DType, NamesAndSizes) {
  for (const char* name : {"F32", "F16", "BF16", "F64", "BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64",
                           "I64", "F8_E4M3", "F8_E5M2"}) {
    const auto dtype = dtype_from_name(name);
    ASSERT_TRUE(dtype) << name;
    EXPECT_EQ(name_of(*dtype), name);
  }
  EXPECT_FALSE(dtype_from_name("f32"));
  EXPECT_EQ(size_of(DType::kBF16), 2);
  EXPECT_EQ(size_of(DType::kF64), 8);
  EXPECT_EQ(size_of(DType::kF8E5M2), 1);
}

TEST(DType, KnownHalves) {
  EXPECT_EQ(f16_to_f32(0x3c00), 1.0f);
  EXPECT_EQ(f16_to_f32(0xc100), -2.5f);
  EXPECT_EQ(f16_to_f32(0x7bff), 65504.0f);
  EXPECT_EQ(f16_to_f32(0x0001), 0x1p-24f);
  EXPECT_EQ(f16_to_f32(0x03ff), 0x1p-14f - 0x1p-24f);
  EXPECT_EQ(f16_to_f32(0xfc00), -INFINITY);
  EXPECT_EQ(bits_of(f16_to_f32(0x7d01)), 0x7fe02000u);  // signalling NaN, made quiet
  EXPECT_EQ(f32_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0x0000);  // a tie, to even
  EXPECT_EQ(f32_to_f16(0x1.000002p-25f), 0x0001);
  EXPECT_EQ(f32_to_f16(1.0f + 0x1p-11f), 0x3c00);  // a tie, to even
  EXPECT_EQ(f32_to_f16(1.0f + 0x3p-11f), 0x3c02);
  EXPECT_EQ(bf16_to_f32(0x3fc0), 1.5f);
  EXPECT_EQ(f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
  EXPECT_EQ(f32_to_bf16(1.0f + 0x3p-8f), 0x3f82);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(f32_to_bf16(float_of(0x7f800001u)), 0x7fc0);
}

// The processor's own definition of a half, by arithmetic.
TEST(DType, AllHalvesHaveTheirValueAndComeBack) {
  for (std::uint32_t h = 0; h < 0x10000u; ++h) {
    const auto half = static_cast<std::uint16_t>(h);
    const int exponent = static_cast<int>((h >> 10) & 31u);
    const double mantissa = h & 0x3ffu;
    const float value = f16_to_f32(half);
    if (exponent == 31 && mantissa != 0) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_EQ(f32_to_f16(value), half | 0x200u);
      continue;
    }
    double expected = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) expected = INFINITY;
    if (h & 0x8000u) expected = -expected;
    ASSERT_EQ(static_cast<double>(value), expected) << h;
    ASSERT_EQ(f32_to_f16(value), half);
  }
}

std::vector<float> boundary_floats() {
  std::vector<float> floats;
  // Around every half and every tie between two halves (and the same for bfloat16), both signs.
  for (std::uint32_t h = 0; h < 0x8000u; ++h) {
    const auto half = static_cast<std::uint16_t>(h);
    for (const std::uint32_t center : {bits_of(f16_to_f32(half)), bits_of(f16_to_f32(half)) + 0x1000u,
                                       bits_of(bf16_to_f32(half)), bits_of(bf16_to_f32(half)) + 0x8000u}) {
      for (const std::uint32_t bits : {center - 1, center, center + 1}) {
        floats.push_back(float_of(bits & 0x7fffffffu));
        floats.push_back(float_of(bits | 0x80000000u));
      }
    }
    // Ties among half's subnormals lie at odd multiples of 2^-25.
    if (h < 0x400u) {
      const std::uint32_t tie = bits_of((static_cast<float>(h) + 0.5f) * 0x1p-24f);
      for (const std::uint32_t bits : {tie - 1, tie, tie + 1}) floats.push_back(float_of(bits));
    }
  }
  for (int exponent = 0; exponent < 256; ++exponent) {
    for (const std::uint32_t mantissa : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x7fffffu, 0x400000u, 0x3fffffu}) {
      floats.push_back(float_of((static_cast<std::uint32_t>(exponent) << 23) | mantissa));
    }
  }
  std::mt19937 random(1);
  for (int i = 0; i < 200'000; ++i) floats.push_back(float_of(static_cast<std::uint32_t>(random())));
  return floats;
}

struct Isa {
  const char* name;
  const DTypeKernels* (*kernels)();
  bool (*available)();
};

class DTypeKernelsTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!GetParam().available() || GetParam().kernels() == nullptr) GTEST_SKIP() << "not on this processor";
  }
  const DTypeKernels& kernels() const { return *GetParam().kernels(); }
};

INSTANTIATE_TEST_SUITE_P(Isas, DTypeKernelsTest,
                         testing::Values(Isa{"Avx2", dtype_kernels_avx2, [] { return cpu_features().avx2; }},
                                         Isa{"Avx512", dtype_kernels_avx512,
                                             [] { return cpu_features().avx512; }}),
                         [](const auto& test_info) { return test_info.param.name; });

TEST_P(DTypeKernelsTest, WidensAll65536PatternsAsTheScalarFunctions) {
  std::vector<std::uint16_t> source(0x10000);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::uint16_t>(i);
  std::vector<float> target(source.size());
  const auto* bytes = reinterpret_cast<const std::byte*>(source.data());
  kernels().f16_to_f32(bytes, target.data(), 0x10000);
  for (std::size_t i = 0; i < source.size(); ++i)
    ASSERT_EQ(bits_of(target[i]), bits_of(f16_to_f32(source[i])));
  kernels().bf16_to_f32(bytes, target.data(), 0x10000);
  for (std::size_t i = 0; i < source.size(); ++i)
    ASSERT_EQ(bits_of(target[i]), bits_of(bf16_to_f32(source[i])));
}

TEST_P(DTypeKernelsTest, NarrowsBoundaryFloatsAsTheScalarFunctions) {
  const std::vector<float> source = boundary_floats();
  std::vector<std::uint16_t> target(source.size());
  auto* bytes = reinterpret_cast<std::byte*>(target.data());
  const auto n = static_cast<std::int64_t>(source.size());
  const auto without_sign_of_zero = [](std::uint16_t bits) {
    return bits == 0x8000u ? std::uint16_t{0} : bits;
  };
  kernels().f32_to_f16(source.data(), bytes, n);
  for (std::size_t i = 0; i < source.size(); ++i) {
    ASSERT_EQ(target[i], without_sign_of_zero(f32_to_f16(source[i]))) << std::hex << bits_of(source[i]);
  }
  kernels().f32_to_bf16(source.data(), bytes, n);
  for (std::size_t i = 0; i < source.size(); ++i) {
    ASSERT_EQ(target[i], without_sign_of_zero(f32_to_bf16(source[i]))) << std::hex << bits_of(source[i]);
  }
}

// Lengths around the lanes, unaligned 16-bit arrays; nothing past the end is touched.
TEST_P(DTypeKernelsTest, LengthsAndAlignment) {
  for (std::int64_t n = 0; n <= 35; ++n) {
    const auto size = static_cast<std::size_t>(n);
    std::vector<float> floats(size + 1, 7.0f);
    std::vector<std::byte> bytes(2 * size + 2, std::byte{0x55});
    for (std::size_t i = 0; i < size; ++i) floats[i] = static_cast<float>(i) - 3.5f;
    kernels().f32_to_f16(floats.data(), bytes.data() + 1, n);
    EXPECT_EQ(bytes.front(), std::byte{0x55});
    EXPECT_EQ(bytes.back(), std::byte{0x55});
    std::vector<float> back(size + 1, 7.0f);
    kernels().f16_to_f32(bytes.data() + 1, back.data(), n);
    EXPECT_EQ(back, floats) << n;
    kernels().f32_to_bf16(floats.data(), bytes.data() + 1, n);
    EXPECT_EQ(bytes.back(), std::byte{0x55});
    std::fill(back.begin(), back.end(), 7.0f);
    kernels().bf16_to_f32(bytes.data() + 1, back.data(), n);
    EXPECT_EQ(back, floats) << n;
  }
}

TEST(DType, ConvertDropsTheSignOfZero) {
  const std::vector<float> source = {-0.0f, -1e-40f, 1.0f, -1e-9f};
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<std::byte> stored(source.size() * static_cast<std::size_t>(size_of(dtype)));
    convert_from_f32(source, dtype, stored);
    std::vector<float> back(source.size());
    convert_to_f32(stored, dtype, back);
    EXPECT_FALSE(std::signbit(back[0])) << name_of(dtype);
    EXPECT_EQ(back[2], 1.0f);
    if (dtype == DType::kF32) {
      EXPECT_EQ(back[1], -1e-40f);
    }
    if (dtype == DType::kF16) {
      EXPECT_FALSE(std::signbit(back[3]));
    }
  }
}

// Every code, and the middle between neighbours: to the even one.
TEST(DType, E4M3KeepsItsNumbersAndRoundsToNearestEven) {
  EXPECT_EQ(e4m3_to_f32(static_cast<E4M3>(0x7e)), 448.0f);
  EXPECT_EQ(e4m3_to_f32(static_cast<E4M3>(0x38)), 1.0f);
  EXPECT_EQ(e4m3_to_f32(static_cast<E4M3>(0x01)), 0x1p-9f);
  EXPECT_EQ(e4m3_to_f32(static_cast<E4M3>(0x08)), 0x1p-6f);
  EXPECT_EQ(e4m3_to_f32(static_cast<E4M3>(0xc9)), -4.5f);
  EXPECT_TRUE(std::isnan(e4m3_to_f32(static_cast<E4M3>(0x7f))));
  EXPECT_EQ(f32_to_e4m3(NAN), static_cast<E4M3>(0x7f));
  for (const float large : {449.0f, 1e30f, INFINITY}) {
    EXPECT_EQ(f32_to_e4m3(large), static_cast<E4M3>(0x7e));
    EXPECT_EQ(f32_to_e4m3(-large), static_cast<E4M3>(0xfe));
  }
  for (unsigned code = 0; code < 0x7f; ++code) {
    for (const unsigned sign : {0u, 0x80u}) {
      const float value = e4m3_to_f32(static_cast<E4M3>(sign | code));
      EXPECT_EQ(f32_to_e4m3(value), static_cast<E4M3>(sign | code));
      if (code == 0x7e) continue;
      const float next = e4m3_to_f32(static_cast<E4M3>(sign | (code + 1)));
      const float middle = 0.5f * (value + next);
      EXPECT_EQ(f32_to_e4m3(middle), static_cast<E4M3>(sign | (code % 2 == 0 ? code : code + 1)));
      EXPECT_EQ(f32_to_e4m3(std::nextafter(middle, value)), static_cast<E4M3>(sign | code));
      EXPECT_EQ(f32_to_e4m3(std::nextafter(middle, next)), static_cast<E4M3>(sign | (code + 1)));
    }
  }
}

}  // namespace
}  // namespace swiftprune
