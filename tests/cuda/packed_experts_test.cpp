// Packed experts on the GPU: products of few tokens that find their experts on the device, and of many with one expert,
// against sums in double over the unpacked weights.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include <gmock/gmock.h>

#include "cuda/gpu.h"
#include "sparse/weights.h"
#include "swiftprune/core/index.h"
#include "swiftprune/cuda/forward/packed_experts.h"
#include "swiftprune/cuda/sparse/expert_stack.h"
#include "swiftprune/sparse/linear.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune {
namespace {

using cuda::view_of;
using test::relative_error;
using test::rounded;
using testing::random_matrix;
using testing_sparse::random_block_weight;
using testing_sparse::random_grid_weight;
using testing_sparse::random_nm_weight;
using testing_sparse::random_weight;

double rounding(DType dtype) { return dtype == DType::kF32 ? 2e-5 : dtype == DType::kF16 ? 1e-3 : 6e-3; }

// How an expert's linear is packed; `divides`: what its columns must be a multiple of.
struct ExpertKind {
  const char* name;
  std::function<PackedTensor(std::int64_t rows, std::int64_t cols, DType dtype, std::uint32_t seed)> make;
  std::int64_t divides = 1;
  double bits = 16.0;  // a weight in the GPU's memory, at most, of shapes without padding
};

void PrintTo(const ExpertKind& kind, std::ostream* out) { *out << kind.name; }

ExpertKind grid_kind(const char* name, const QuantGrid& grid, double zeros, int n, PackFormat format,
                     double bits) {
  return {name,
          [=](std::int64_t rows, std::int64_t cols, DType, std::uint32_t seed) {
            return pack(random_grid_weight(rows, cols, grid, zeros, n, seed), format);
          },
          std::max<std::int64_t>(grid.group, n < 4 ? 4 : 1), bits};
}
ExpertKind bit_kind(const char* name, double sparsity, const PackFormat& format, double bits) {
  return {name,
          [=](std::int64_t rows, std::int64_t cols, DType dtype, std::uint32_t seed) {
            return pack(random_weight(rows, cols, dtype, sparsity, seed).view(), format);
          },
          1, bits};
}

// Every other linear of one kind, the others of another.
ExpertKind mixed(const char* name, const ExpertKind& a, const ExpertKind& b, double bits) {
  return {name,
          [=](std::int64_t rows, std::int64_t cols, DType dtype, std::uint32_t seed) {
            return (seed % 2 == 0 ? a : b).make(rows, cols, dtype, seed);
          },
          std::max(a.divides, b.divides), bits};
}

std::vector<ExpertKind> expert_kinds() {
  const PackFormat all{PackedKind::kDenseGrid}, some{PackedKind::kBitmapGrid};
  const PackFormat two{PackedKind::kNmGrid, 2, 4};
  const ExpertKind bitmap = bit_kind("bitmap16", 0.5, {PackedKind::kBitmap16}, 10.0);
  const ExpertKind dense = bit_kind("dense16", 0.0, {PackedKind::kDense16}, 18.0);
  const ExpertKind fp8 = bit_kind("bitmap_fp8", 0.5, {PackedKind::kBitmapFp8}, 6.0);
  const ExpertKind int4 = grid_kind("int4", {4, 64, false}, 0.0, 4, all, 4.3);
  const ExpertKind two_four{
      "two_four",
      [](std::int64_t rows, std::int64_t cols, DType dtype, std::uint32_t) {
        return pack(random_nm_weight(rows, cols, dtype, 2, 4).view(), {PackedKind::kNm16, 2, 4});
      },
      4, 10.0};
  const ExpertKind blocks{"blocks",
                          [](std::int64_t rows, std::int64_t cols, DType dtype, std::uint32_t seed) {
                            return pack(random_block_weight(rows, cols, dtype, 0.5, seed).view(),
                                        {PackedKind::kBlock16});
                          },
                          16, 10.0};
  return {int4,
          grid_kind("int4_row", {4, 0, false}, 0.0, 4, all, 4.3),
          grid_kind("int4_g32_asymmetric", {4, 32, true}, 0.0, 4, all, 4.8),
          grid_kind("int4_g128", {4, 128, false}, 0.0, 4, all, 4.2),
          grid_kind("int3_g32", {3, 32, false}, 0.0, 4, all, 4.6),
          grid_kind("int3_row_asymmetric", {3, 0, true}, 0.0, 4, all, 4.5),
          grid_kind("int8", {8, 64, false}, 0.0, 4, all, 8.3),
          grid_kind("int8_row", {8, 0, false}, 0.0, 4, all, 8.3),
          grid_kind("int8_g32_asymmetric", {8, 32, true}, 0.0, 4, all, 8.8),
          mixed("int4_and_zeros", int4, grid_kind("", {4, 64, false}, 0.5, 4, some, 4.3), 4.3),
          grid_kind("int4_two_four", {4, 64, false}, 0.0, 2, two, 4.3),
          bitmap,
          bit_kind("bitmap_int8", 0.5, {PackedKind::kBitmapInt8}, 6.0),
          fp8,
          bit_kind("dense_int8", 0.0, {PackedKind::kDenseInt8}, 18.0),
          dense,
          two_four,
          blocks,
          mixed("bitmap16_and_dense16", bitmap, dense, 14.0),
          mixed("bitmap16_and_fp8", bitmap, fp8, 10.0)};
}

// The values that products are made with.
Matrix values_of(const PackedTensor& packed) {
  if (is_grid(packed.kind())) return unpack_f32(packed);
  const std::vector<std::uint16_t> bits = unpack(packed);
  Matrix values(packed.rows(), packed.cols());
  convert_to_f32(std::as_bytes(std::span(bits)), packed.shape().dtype, values.values());
  return values;
}

double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

std::span<const float> row_of(const Matrix& m, std::int64_t row) {
  return m.values().subspan(at(row * m.cols()), at(m.cols()));
}

class CudaPackedExpertsTest : public test::GpuTest, public ::testing::WithParamInterface<ExpertKind> {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (memory_) products_ = std::make_unique<cuda::Products>(*memory_, *stream_);
  }

  static std::vector<PackedTensor> linears(std::int64_t count, std::int64_t rows, std::int64_t cols,
                                           DType dtype) {
    std::vector<PackedTensor> made;
    for (std::int64_t i = 0; i < count; ++i)
      made.push_back(GetParam().make(rows, cols, dtype, static_cast<std::uint32_t>(i + 1)));
    return made;
  }

  struct Shape {
    std::int64_t hidden, width;
    std::int64_t experts = 5;
    bool fits(const ExpertKind& kind) const {
      return hidden % kind.divides == 0 && width % kind.divides == 0;
    }
  };

  // inner and output of `rows` tokens against the plain sums.
  void expect_few(const Shape& shape, DType dtype, std::int64_t rows, int top_k, bool gated, bool biased,
                  cuda::ClampedGate clamped, cuda::ActivationKind kind);

  std::unique_ptr<cuda::Products> products_;
};

double activated(cuda::ActivationKind kind, double x) {
  switch (kind) {
    case cuda::ActivationKind::kSilu:
      return x / (1.0 + std::exp(-x));
    case cuda::ActivationKind::kGelu:
      return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
    case cuda::ActivationKind::kReluSquared:
      return x > 0.0 ? x * x : 0.0;
    default:
      return std::nan("");
  }
}

double clamped_gate(const cuda::ClampedGate& c, double gate, double up) {
  gate = std::min(gate, double{c.limit});
  up = std::clamp(up, -double{c.limit}, double{c.limit});
  return gate / (1.0 + std::exp(-double{c.alpha} * gate)) * (up + 1.0);
}

void CudaPackedExpertsTest::expect_few(const Shape& shape, DType dtype, std::int64_t rows, int top_k,
                                       bool gated, bool biased, cuda::ClampedGate clamped,
                                       cuda::ActivationKind kind) {
  const std::int64_t parts = gated ? 2 : 1;
  const auto up = linears(shape.experts * parts, shape.width, shape.hidden, dtype);
  const auto down = linears(shape.experts, shape.hidden, shape.width, dtype);
  std::vector<Matrix> up_values, down_values;
  for (const PackedTensor& w : up) up_values.push_back(values_of(w));
  for (const PackedTensor& w : down) down_values.push_back(values_of(w));
  std::mt19937 engine(17);
  std::vector<std::int32_t> chosen, order(at(shape.experts));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t t = 0; t < rows; ++t) {
    std::shuffle(order.begin(), order.end(), engine);
    chosen.insert(chosen.end(), order.begin(), order.begin() + top_k);
  }
  const Matrix gates = random_matrix(rows, top_k, 3);
  const Matrix x = rounded(random_matrix(rows, shape.hidden, 4), dtype);
  const Matrix up_bias = rounded(random_matrix(shape.experts * parts, shape.width, 5), dtype);
  const Matrix down_bias = random_matrix(shape.experts, shape.hidden, 6);
  const Matrix before = random_matrix(rows, shape.hidden, 7);

  Matrix inner(rows * top_k, shape.width), expected = before.clone();
  for (std::int64_t pair = 0; pair < rows * top_k; ++pair) {
    const std::int64_t e = chosen[at(pair)], t = pair / top_k;
    for (std::int64_t i = 0; i < shape.width; ++i) {
      double values[2] = {0.0, 1.0};
      for (std::int64_t p = 0; p < parts; ++p) {
        values[p] = dot(row_of(up_values[at(e * parts + p)], i), row_of(x, t));
        if (biased) values[p] += double{up_bias.at(e * parts + p, i)};
      }
      const double value = clamped.limit > 0.0f ? clamped_gate(clamped, values[0], values[1])
                                                : activated(kind, values[0]) * values[1];
      inner.at(pair, i) = static_cast<float>(value);
    }
  }
  const Matrix stored = rounded(inner.clone(), dtype);
  for (std::int64_t pair = 0; pair < rows * top_k; ++pair) {
    const std::int64_t e = chosen[at(pair)], t = pair / top_k;
    for (std::int64_t o = 0; o < shape.hidden; ++o) {
      const double value = dot(row_of(down_values[at(e)], o), row_of(stored, pair)) +
                           (biased ? double{down_bias.at(e, o)} : 0.0);
      expected.at(t, o) += static_cast<float>(double{gates.at(t, pair % top_k)} * value);
    }
  }

  const cuda::ExpertStack up_stack(*memory_, up, parts, dtype, *stream_);
  const cuda::ExpertStack down_stack(*memory_, down, 1, dtype, *stream_);
  const auto d_chosen = upload(std::span<const std::int32_t>(chosen));
  const auto d_gates = upload_as(gates, DType::kF32), d_x = upload_as(x, dtype);
  const auto d_up_bias = upload_as(up_bias, dtype), d_down_bias = upload_as(down_bias, DType::kF32);
  const auto d_inner = poisoned(rows * top_k * shape.width * size_of(dtype));
  const auto d_y = upload_as(before, DType::kF32);
  cuda::FewExpertsArgs args;
  args.dtype = dtype;
  args.rows = rows;
  args.hidden = shape.hidden;
  args.width = shape.width;
  args.top_k = top_k;
  args.chosen = d_chosen.as<std::int32_t>();
  args.gates = d_gates.as<float>();
  args.up_bias = biased ? d_up_bias.data() : nullptr;
  args.down_bias = biased ? d_down_bias.as<float>() : nullptr;
  args.clamped = clamped;
  args.gated = gated;
  cuda::packed_experts_up(args, kind, d_x.data(), up_stack.weight(), d_inner.data(), *stream_);
  cuda::packed_experts_down(args, d_inner.data(), down_stack.weight(), d_y.as<float>(), *stream_);
  const auto name = [&] {
    return fmt::format("{}: hidden {}, width {}, {} tokens, {} experts each, {}", GetParam().name,
                       shape.hidden, shape.width, rows, top_k, name_of(dtype));
  };
  EXPECT_LE(relative_error(download_as(d_inner, dtype, rows * top_k, shape.width).view(), inner.view()),
            rounding(dtype))
      << name();
  EXPECT_LE(relative_error(download_as(d_y, DType::kF32, rows, shape.hidden).view(), expected.view()),
            rounding(dtype))
      << name();
}

TEST_P(CudaPackedExpertsTest, FewTokensOfAnyShape) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const Shape& shape : {Shape{24, 12}, {128, 64}, {192, 128}, {256, 384}, {100, 20}, {64, 1040}}) {
      if (!shape.fits(GetParam())) continue;
      for (const std::int64_t rows : {1, 2, 5, 16}) {
        expect_few(shape, dtype, rows, 2, true, false, {}, cuda::ActivationKind::kSilu);
      }
    }
  }
}

TEST_P(CudaPackedExpertsTest, FewTokensOfEveryForm) {
  using enum cuda::ActivationKind;
  const Shape shape{128, 128, 9};
  expect_few(shape, DType::kBF16, 3, 1, true, true, {}, kGelu);
  expect_few(shape, DType::kBF16, 3, 8, true, false, {}, kSilu);
  expect_few(shape, DType::kBF16, 4, 9, false, false, {}, kReluSquared);
  expect_few(shape, DType::kF16, 2, 4, true, true, {1.702f, 7.0f}, kSilu);
}

// An expert alone, of few tokens (packed) and of more, for which a dense copy pays.
TEST_P(CudaPackedExpertsTest, ManyTokensOfOneExpert) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const Shape& shape : {Shape{24, 12}, {256, 128}, {128, 400}}) {
      if (!shape.fits(GetParam())) continue;
      for (const std::int64_t linears_each : {1, 2}) {
        const auto parts = linears(3 * linears_each, shape.width, shape.hidden, dtype);
        const cuda::ExpertStack stack(*memory_, parts, linears_each, dtype, *stream_);
        ASSERT_EQ(stack.outputs(), linears_each * shape.width);
        const auto scratch = poisoned(2 * stack.outputs() * shape.hidden);
        for (const std::int64_t tokens : {1, 2, 7, 16, 17, 33, 200}) {
          const Matrix x = rounded(random_matrix(tokens, shape.hidden, 1), dtype);
          const DType y_dtype = tokens % 2 == 0 ? DType::kF32 : dtype;
          const Matrix bias = rounded(random_matrix(1, stack.outputs(), 2), y_dtype);
          const auto d_x = upload_as(x, dtype), d_bias = upload_as(bias, y_dtype);
          for (const std::int64_t expert : {0, 2}) {
            Matrix expected(tokens, stack.outputs());
            for (std::int64_t p = 0; p < linears_each; ++p) {
              const Matrix values = values_of(parts[at(expert * linears_each + p)]);
              for (std::int64_t t = 0; t < tokens; ++t) {
                for (std::int64_t o = 0; o < shape.width; ++o) {
                  expected.at(t, p * shape.width + o) = static_cast<float>(
                      dot(row_of(values, o), row_of(x, t)) + double{bias.at(0, p * shape.width + o)});
                }
              }
            }
            const auto d_y = poisoned(tokens * stack.outputs() * size_of(y_dtype));
            stack.linear(*products_, expert, view_of(d_x.data(), dtype, tokens, shape.hidden), d_bias.data(),
                         view_of(d_y.data(), y_dtype, tokens, stack.outputs()),
                         view_of(scratch.data(), dtype, stack.outputs(), shape.hidden), *stream_);
            // Grids are rounded to 16 bits where they are expanded.
            const bool expanded = is_grid(parts.front().kind()) && tokens > 16;
            EXPECT_LE(
                relative_error(download_as(d_y, y_dtype, tokens, stack.outputs()).view(), expected.view()),
                rounding(expanded || is_8bit(parts.front().kind()) ? dtype : y_dtype))
                << GetParam().name << ": " << tokens << " tokens, " << linears_each << " linears of ["
                << shape.width << ", " << shape.hidden << "], expert " << expert;
          }
        }
      }
    }
  }
}

TEST_P(CudaPackedExpertsTest, StayPacked) {
  constexpr std::int64_t kExperts = 4, kRows = 512, kCols = 1024;
  const cuda::ExpertStack stack(*memory_, linears(2 * kExperts, kRows, kCols, DType::kBF16), 2, DType::kBF16,
                                *stream_);
  EXPECT_LE(8.0 * static_cast<double>(stack.bytes()) / static_cast<double>(2 * kExperts * kRows * kCols),
            GetParam().bits);
  EXPECT_EQ(stack.expert_bytes(), stack.bytes() / kExperts);
}

TEST_P(CudaPackedExpertsTest, EqualRunsGiveEqualBits) {
  const Shape shape{256, 128};
  const auto up = linears(2 * shape.experts, shape.width, shape.hidden, DType::kBF16);
  const cuda::ExpertStack stack(*memory_, up, 2, DType::kBF16, *stream_);
  const auto x = upload_as(rounded(random_matrix(2, shape.hidden, 1), DType::kBF16), DType::kBF16);
  const std::vector<std::int32_t> choice{4, 0, 1, 4};
  const auto chosen = upload(std::span<const std::int32_t>(choice));
  cuda::FewExpertsArgs args;
  args.rows = 2;
  args.hidden = shape.hidden;
  args.width = shape.width;
  args.top_k = 2;
  args.chosen = chosen.as<std::int32_t>();
  std::vector<std::vector<std::uint16_t>> results;
  for (int i = 0; i < 2; ++i) {
    const auto inner = poisoned(4 * shape.width * 2);
    cuda::packed_experts_up(args, cuda::ActivationKind::kSilu, x.data(), stack.weight(), inner.data(),
                            *stream_);
    results.push_back(download<std::uint16_t>(inner));
  }
  EXPECT_EQ(results[0], results[1]);
}

INSTANTIATE_TEST_SUITE_P(Kinds, CudaPackedExpertsTest, ::testing::ValuesIn(expert_kinds()),
                         [](const auto& kind) { return kind.param.name; });

// Needs no GPU.
TEST(ExpertStack, TellsWhatDoesNotStack) {
  const auto shape = [](const PackedTensor& packed) { return packed.shape(); };
  const auto grid = [&](const QuantGrid& of) {
    return shape(pack(random_grid_weight(16, 128, of, 0.0), {PackedKind::kDenseGrid}));
  };
  const auto bits = [&](PackedKind kind, DType dtype) {
    return shape(pack(random_weight(16, 128, dtype, 0.5).view(), {kind}));
  };
  const auto problem = [](const PackedShape& a, const PackedShape& b) {
    return cuda::ExpertStack::problem(a, b, DType::kBF16).value_or("none");
  };
  const PackedShape four = grid({4, 64, false});
  const PackedShape zeros =
      shape(pack(random_grid_weight(16, 128, {4, 64, false}, 0.5), {PackedKind::kBitmapGrid}));
  EXPECT_EQ(problem(four, zeros), "none");
  EXPECT_EQ(
      problem(four, grid({4, 32, false})),
      "found dense int4 g32 beside dense int4 g64, expected one grid for all experts of a layer, or none");
  EXPECT_THAT(problem(four, grid({8, 64, false})), ::testing::HasSubstr("found dense int8 g64 beside"));
  EXPECT_THAT(problem(four, bits(PackedKind::kBitmap16, DType::kBF16)),
              ::testing::HasSubstr("found bitmap16 beside dense int4 g64"));
  EXPECT_EQ(problem(bits(PackedKind::kBitmap16, DType::kBF16), bits(PackedKind::kDense16, DType::kBF16)),
            "none");
  EXPECT_THAT(problem(bits(PackedKind::kBitmap16, DType::kBF16), bits(PackedKind::kBitmap16, DType::kF16)),
              ::testing::HasSubstr("found F16, expected BF16"));
  EXPECT_THAT(problem(bits(PackedKind::kBitmap16, DType::kBF16), PackedShape{.dtype = DType::kF32}),
              ::testing::HasSubstr("found F32, expected BF16"));
}

}  // namespace
}  // namespace swiftprune
