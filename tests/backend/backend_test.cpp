// Every operation of the CPU backend against the reference, over sizes around the vector lanes and tiles,
// strided too.
#include "swiftprune/backend/backend.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/random_matrix.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

using testing::random_matrix;
using testing::random_strided;

// Tolerances relative to the size of the result: float rounding over the sums of each operation.
constexpr double kExact = 0.0;
constexpr double kElementwise = 2e-6;
constexpr double kGelu = 1e-5;  // the erf approximation is exact to 1.5e-7 absolutely
constexpr double kProduct = 1e-5;
constexpr double kInverse = 2e-4;

double relative_error(ConstMatrixView found, ConstMatrixView expected) {
  double difference = 0.0;
  double size = 0.0;
  for (std::int64_t r = 0; r < expected.rows; ++r) {
    for (std::int64_t c = 0; c < expected.cols; ++c) {
      const double d = double{found.at(r, c)} - double{expected.at(r, c)};
      if (std::isnan(d)) return d;
      difference += d * d;
      size += double{expected.at(r, c)} * double{expected.at(r, c)};
    }
  }
  return size == 0.0 ? difference : std::sqrt(difference / size);
}

void round_to_bf16(Matrix& m) {
  for (float& value : m.values()) value = bf16_to_f32(f32_to_bf16(value));
}

struct Shape {
  std::int64_t rows, cols;
};
const Shape kShapes[] = {{1, 1},   {3, 7},  {2, 8},    {5, 15},  {4, 16},
                         {65, 17}, {7, 31}, {130, 33}, {64, 64}, {3, 257}};

class BackendTest : public ::testing::Test {
 protected:
  std::unique_ptr<Backend> reference_ = make_reference_backend();
  std::unique_ptr<Backend> cpu_ = make_cpu_backend();
};

TEST_F(BackendTest, Linear) {
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
    for (const auto& [rows, inputs] : kShapes) {
      for (const std::int64_t outputs : {std::int64_t{1}, std::int64_t{19}, std::int64_t{1100}}) {
        auto x = random_strided(rows, inputs, 1);
        Matrix weight = random_matrix(outputs, inputs, 2);
        if (compute == ComputeType::kBF16) {  // operands that bf16 holds exactly: what is left is the sum
          round_to_bf16(x.storage);
          round_to_bf16(weight);
        }
        const Matrix bias = random_matrix(1, outputs, 3);
        Matrix expected(rows, outputs);
        auto y = random_strided(rows, outputs, 4);
        for (const bool with_bias : {false, true}) {
          const std::span<const float> b = with_bias ? bias.values() : std::span<const float>{};
          reference_->linear(x.view, *reference_->pack(weight.view(), compute), b, expected.view());
          cpu_->linear(x.view, *cpu_->pack(weight.view(), compute), b, y.view);
          EXPECT_LE(relative_error(y.view, expected.view()), kProduct)
              << rows << "x" << inputs << " -> " << outputs;
        }
      }
    }
  }
}

TEST_F(BackendTest, LinearGivesTheSameBitsWithAnyNumberOfThreads) {
  const Matrix x = random_matrix(700, 300, 1);
  const Matrix weight = random_matrix(1500, 300, 2);
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
    Matrix one(700, 1500);
    Matrix many(700, 1500);
    set_num_threads(1);
    cpu_->linear(x.view(), *cpu_->pack(weight.view(), compute), {}, one.view());
    for (const int threads : {2, 3}) {
      set_num_threads(threads);
      cpu_->linear(x.view(), *cpu_->pack(weight.view(), compute), {}, many.view());
      EXPECT_EQ(relative_error(many.view(), one.view()), kExact);
    }
    set_num_threads(0);
  }
}

TEST_F(BackendTest, Matmul) {
  for (const auto& [rows, inner] : kShapes) {
    for (const std::int64_t cols : {std::int64_t{1}, std::int64_t{18}, std::int64_t{300}}) {
      const auto a = random_strided(rows, inner, 1);
      const auto b = random_strided(inner, cols, 2);
      const auto bt = random_strided(cols, inner, 3);
      Matrix expected = random_matrix(rows, cols, 4);
      Matrix found = expected.clone();
      reference_->matmul(a.view, b.view, 0.5f, 2.0f, expected.view());
      cpu_->matmul(a.view, b.view, 0.5f, 2.0f, found.view());
      EXPECT_LE(relative_error(found.view(), expected.view()), kProduct);
      reference_->matmul_transposed(a.view, bt.view, -1.0f, 0.0f, expected.view());
      cpu_->matmul_transposed(a.view, bt.view, -1.0f, 0.0f, found.view());
      EXPECT_LE(relative_error(found.view(), expected.view()), kProduct);
    }
  }
}

TEST_F(BackendTest, GramIsSymmetricAndAddsUp) {
  for (const auto& [rows, cols] : kShapes) {
    const auto x = random_strided(rows, cols, 1);
    Matrix expected = Matrix::zeros(cols, cols);
    Matrix found = Matrix::zeros(cols, cols);
    for (int pass = 0; pass < 2; ++pass) {
      reference_->add_gram(x.view, expected.view());
      cpu_->add_gram(x.view, found.view());
    }
    Backend::symmetrize(expected.view());
    Backend::symmetrize(found.view());
    EXPECT_LE(relative_error(found.view(), expected.view()), kProduct);
  }
}

TEST_F(BackendTest, CrossMomentsAddUp) {
  for (const auto& [rows, cols] : kShapes) {
    const std::int64_t others = cols / 2 + 3;
    const auto a = random_strided(rows, cols, 1);
    const auto b = random_strided(rows, others, 2);
    Matrix expected = random_matrix(cols, others, 3);
    Matrix found = expected.clone();
    reference_->add_cross(a.view, b.view, expected.view());
    cpu_->add_cross(a.view, b.view, found.view());
    EXPECT_LE(relative_error(found.view(), expected.view()), kProduct);
  }
}

// Where the processor has bf16 products the operands are rounded: the exact sums of the rounded values.
TEST_F(BackendTest, Bf16MomentsAreExactForBf16Values) {
  for (const auto& [rows, cols] : kShapes) {
    const std::int64_t others = cols / 2 + 3;
    Matrix a = random_matrix(rows, cols, 1);
    Matrix b = random_matrix(rows, others, 2);
    round_to_bf16(a);
    round_to_bf16(b);
    Matrix expected = random_matrix(cols, others, 3);
    Matrix found = expected.clone();
    reference_->add_cross(std::as_const(a).view(), std::as_const(b).view(), expected.view());
    cpu_->add_cross(std::as_const(a).view(), std::as_const(b).view(), found.view(), ComputeType::kBF16);
    EXPECT_LE(relative_error(found.view(), expected.view()), kProduct);
    Matrix expected_gram = Matrix::zeros(cols, cols);
    Matrix found_gram = Matrix::zeros(cols, cols);
    reference_->add_gram(std::as_const(a).view(), expected_gram.view());
    cpu_->add_gram(std::as_const(a).view(), found_gram.view(), ComputeType::kBF16);
    Backend::symmetrize(expected_gram.view());
    Backend::symmetrize(found_gram.view());
    EXPECT_LE(relative_error(found_gram.view(), expected_gram.view()), kProduct);
  }
}

TEST_F(BackendTest, InverseOfPositiveDefinite) {
  for (const std::int64_t n : {1, 2, 63, 64, 65, 128, 200}) {
    const Matrix x = random_matrix(2 * n, n, 5);
    Matrix a = Matrix::zeros(n, n);
    reference_->add_gram(x.view(), a.view());
    Backend::symmetrize(a.view());
    Matrix expected = a.clone();
    ASSERT_TRUE(reference_->invert_spd(expected.view()));
    ASSERT_TRUE(cpu_->invert_spd(a.view()));
    EXPECT_LE(relative_error(a.view(), expected.view()), kInverse) << n;
  }
}

TEST_F(BackendTest, InverseRefusesIndefinite) {
  for (Backend* backend : {reference_.get(), cpu_.get()}) {
    Matrix a = Matrix::zeros(70, 70);
    for (std::int64_t i = 0; i < 70; ++i) a.at(i, i) = i == 68 ? -1.0f : 1.0f;
    EXPECT_FALSE(backend->invert_spd(a.view()));
  }
}

TEST_F(BackendTest, Norms) {
  for (const auto& [rows, cols] : kShapes) {
    const auto x = random_strided(rows, cols, 1, 3.0f);
    const Matrix gain = random_matrix(1, cols, 2);
    const Matrix bias = random_matrix(1, cols, 3);
    Matrix expected(rows, cols);
    auto y = random_strided(rows, cols, 4);
    for (const float offset : {0.0f, 1.0f}) {
      reference_->rms_norm(x.view, gain.values(), offset, 1e-5f, expected.view());
      cpu_->rms_norm(x.view, gain.values(), offset, 1e-5f, y.view);
      EXPECT_LE(relative_error(y.view, expected.view()), kElementwise);
    }
    reference_->layer_norm(x.view, gain.values(), bias.values(), 1e-5f, expected.view());
    cpu_->layer_norm(x.view, gain.values(), bias.values(), 1e-5f, y.view);
    EXPECT_LE(relative_error(y.view, expected.view()), kProduct);
    reference_->layer_norm(x.view, {}, {}, 1e-5f, expected.view());
    cpu_->layer_norm(x.view, {}, {}, 1e-5f, y.view);
    EXPECT_LE(relative_error(y.view, expected.view()), kProduct);
  }
}

TEST_F(BackendTest, RopeRotatesTheFirstPartOfEachHead) {
  RopeTable table{random_matrix(40, 3, 1), random_matrix(40, 3, 2)};
  for (const std::int64_t head_size : {std::int64_t{6}, std::int64_t{9}}) {
    auto expected = random_strided(33, 4 * head_size, 3);
    auto found = random_strided(33, 4 * head_size, 3);
    reference_->rope(expected.view, table, head_size, 5);
    cpu_->rope(found.view, table, head_size, 5);
    EXPECT_LE(relative_error(found.view, expected.view), kElementwise);
  }
}

struct AttentionCase {
  std::int64_t queries, first_position, heads, kv_heads, head_size, window;
  float softcap;
};

TEST_F(BackendTest, Attention) {
  const AttentionCase cases[] = {
      {1, 0, 1, 1, 1, 0, 0.0f},
      {1, 70, 4, 2, 16, 0, 0.0f},
      {5, 0, 3, 1, 7, 0, 0.0f},
      {300, 0, 2, 2, 8, 0, 0.0f},
      {300, 300, 6, 2, 8, 0, 0.0f},
      {130, 0, 2, 1, 16, 1, 0.0f},
      {300, 0, 2, 1, 8, 40, 0.0f},
      {280, 20, 4, 4, 8, 270, 2.0f},
      {64, 0, 3, 3, 33, 0, 5.0f},
      // The keys in parts: just one, one more, a row that has none of the last part, windows over their borders.
      {1, 511, 4, 2, 8, 0, 0.0f},
      {1, 512, 4, 2, 8, 0, 0.0f},
      {16, 1500, 3, 1, 8, 0, 0.0f},
      {3, 1023, 2, 2, 16, 0, 2.0f},
      {9, 2000, 4, 2, 8, 700, 0.0f},
      {16, 1020, 2, 1, 8, 1, 0.0f},
  };
  for (const AttentionCase& c : cases) {
    const std::int64_t keys = c.first_position + c.queries;
    const auto q = random_strided(c.queries, c.heads * c.head_size, 1, 2.0f);
    const auto k = random_strided(keys, c.kv_heads * c.head_size, 2, 2.0f);
    const auto v = random_strided(keys, c.kv_heads * c.head_size, 3);
    AttentionParams params{c.heads, c.kv_heads, c.head_size, 0.7f, c.softcap, c.window, c.first_position, {}};
    std::vector<float> sinks(static_cast<std::size_t>(c.heads));
    for (std::size_t h = 0; h < sinks.size(); ++h) sinks[h] = 3.0f * static_cast<float>(h) - 2.0f;
    for (const bool with_sinks : {false, true}) {
      if (with_sinks) params.sinks = sinks;
      Matrix expected(c.queries, c.heads * c.head_size);
      auto found = random_strided(c.queries, c.heads * c.head_size, 4);
      reference_->attention(q.view, k.view, v.view, params, expected.view());
      cpu_->attention(q.view, k.view, v.view, params, found.view);
      EXPECT_LE(relative_error(found.view, expected.view()), kProduct)
          << c.queries << " queries, window " << c.window << (with_sinks ? ", sinks" : "");
    }
    if (c.softcap > 0.0f) continue;
    params.sinks = {};
    std::vector<float> slopes(sinks.size());
    for (std::size_t h = 0; h < slopes.size(); ++h) slopes[h] = 0.3f / static_cast<float>(h + 1);
    params.slopes = slopes;
    Matrix expected(c.queries, c.heads * c.head_size);
    auto found = random_strided(c.queries, c.heads * c.head_size, 4);
    reference_->attention(q.view, k.view, v.view, params, expected.view());
    cpu_->attention(q.view, k.view, v.view, params, found.view);
    EXPECT_LE(relative_error(found.view, expected.view()), kProduct) << c.queries << " queries, slopes";
  }
}

// A sink takes its share of the weight and gives nothing: one key of score s and a sink of score s halve the value.
TEST_F(BackendTest, AttentionSinkByHand) {
  const float zero[] = {0.0f}, value[] = {3.0f}, sink[] = {0.0f};
  const AttentionParams params{1, 1, 1, 1.0f, 0.0f, 0, 0, sink};
  for (const Backend* backend : {reference_.get(), cpu_.get()}) {
    Matrix out(1, 1);
    backend->attention({zero, 1, 1, 1}, {zero, 1, 1, 1}, {value, 1, 1, 1}, params, out.view());
    EXPECT_NEAR(out.at(0, 0), 1.5f, 1e-6f);
  }
}

// Two equal scores: a slope of log 2 makes the nearer key count twice.
TEST_F(BackendTest, AttentionSlopeByHand) {
  const float zero[] = {0.0f, 0.0f}, values[] = {3.0f, 6.0f}, slope[] = {std::log(2.0f)};
  AttentionParams params{1, 1, 1, 0.5f, 0.0f, 0, 1};
  params.slopes = slope;
  for (const Backend* backend : {reference_.get(), cpu_.get()}) {
    Matrix out(1, 1);
    backend->attention({zero, 1, 1, 1}, {zero, 2, 1, 1}, {values, 2, 1, 1}, params, out.view());
    EXPECT_NEAR(out.at(0, 0), 5.0f, 1e-5f);
  }
}

TEST_F(BackendTest, Activations) {
  for (const Activation activation : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh,
                                      Activation::kRelu, Activation::kReluSquared, Activation::kQuickGelu,
                                      Activation::kClippedGelu, Activation::kMish, Activation::kSigmoid}) {
    for (const auto& [rows, cols] : kShapes) {
      const bool is_erf = activation == Activation::kGelu || activation == Activation::kClippedGelu;
      const double tolerance = is_erf ? kGelu : kElementwise;
      for (const float scale : {0.01f, 4.0f, 60.0f}) {
        auto expected = random_strided(rows, cols, 1, scale);
        auto found = random_strided(rows, cols, 1, scale);
        const Matrix up = random_matrix(rows, cols, 2);
        reference_->activate(activation, expected.view);
        cpu_->activate(activation, found.view);
        EXPECT_LE(relative_error(found.view, expected.view), tolerance)
            << name_of(activation) << " " << scale;
        reference_->gated_activate(activation, expected.view, up.view());
        cpu_->gated_activate(activation, found.view, up.view());
        EXPECT_LE(relative_error(found.view, expected.view), 2 * tolerance)
            << name_of(activation) << " " << scale;
      }
    }
  }
}

// Of x = -1, 0.5 and 12, from a table of the functions' definitions (40 digits, rounded).
TEST_F(BackendTest, ActivationsOfTransformersByHand) {
  const std::pair<Activation, std::array<float, 3>> kExpected[] = {
      {Activation::kReluSquared, {0.0f, 0.25f, 144.0f}},
      {Activation::kQuickGelu, {-0.15420423f, 0.35038835f, 12.0f}},
      {Activation::kClippedGelu, {-0.15865525f, 0.34573123f, 10.0f}},
      {Activation::kMish, {-0.30340146f, 0.37524524f, 12.0f}},
      {Activation::kSigmoid, {0.26894142f, 0.62245933f, 0.99999386f}}};
  for (const auto& [activation, expected] : kExpected) {
    for (const Backend* backend : {reference_.get(), cpu_.get()}) {
      std::array<float, 3> x = {-1.0f, 0.5f, 12.0f};
      backend->activate(activation, {x.data(), 1, 3, 3});
      for (std::size_t i = 0; i < x.size(); ++i)
        EXPECT_NEAR(x[i], expected[i], 2e-6f * (1.0f + std::abs(expected[i])))
            << name_of(activation) << " " << i;
    }
  }
}

// Three taps over two channels, one row before the sequence.
TEST_F(BackendTest, CausalConvolutionByHand) {
  const float x[] = {1, 10, 2, 20}, taps[] = {1, 0, 2, 1, 3, 5}, bias[] = {0.5f, 0};
  for (const Backend* backend : {reference_.get(), cpu_.get()}) {
    float past[] = {0, 0, 4, 40};
    Matrix y(2, 2);
    backend->causal_convolution({x, 2, 2, 2}, {taps, 3, 2, 2}, bias, {past, 2, 2, 2}, y.view());
    EXPECT_THAT(y.values(), ::testing::ElementsAre(11.5f, 90, 12.5f, 110)) << backend->name();
    EXPECT_THAT(past, ::testing::ElementsAre(1, 10, 2, 20)) << backend->name();
    backend->causal_convolution({x, 1, 2, 2}, {taps, 3, 2, 2}, {}, {past, 2, 2, 2}, y.view().row_block(0, 1));
    EXPECT_EQ(y.at(0, 0), 1 * 1 + 2 * 2 + 3 * 1);
    EXPECT_THAT(past, ::testing::ElementsAre(2, 20, 1, 10)) << "a sequence shorter than the filter";
  }
}

TEST_F(BackendTest, CausalConvolution) {
  for (const auto& [rows, cols] : kShapes) {
    for (const std::int64_t taps : {1, 2, 4}) {
      const auto x = random_strided(rows, cols, 1);
      const Matrix filter = random_matrix(taps, cols, 2), bias = random_matrix(1, cols, 3);
      Matrix past = random_matrix(taps - 1, cols, 4), found_past = past.clone();
      Matrix expected(rows, cols);
      auto found = random_strided(rows, cols, 5);
      reference_->causal_convolution(x.view, filter.view(), bias.values(), past.view(), expected.view());
      cpu_->causal_convolution(x.view, filter.view(), bias.values(), found_past.view(), found.view);
      EXPECT_LE(relative_error(found.view, expected.view()), kElementwise) << rows << " " << taps;
      EXPECT_TRUE(std::ranges::equal(past.values(), found_past.values()));
    }
  }
}

// One head, keys and values of one element: S = 0.5·S + k·u, out = q·S.
TEST_F(BackendTest, RecurrenceByHand) {
  const float q[] = {2, 3}, k[] = {1, 0.5f}, v[] = {4, 6}, decay[] = {0.5f, 0.25f}, step[] = {1, 0.5f};
  const auto column = [](const float* values) { return ConstMatrixView{values, 2, 1, 1}; };
  for (const Backend* backend : {reference_.get(), cpu_.get()}) {
    for (const bool delta : {false, true}) {
      float state[] = {8};
      Matrix out(2, 1);
      backend->recurrence(column(q), column(k), column(v), column(decay), column(step), {1, 1, 1, 1, delta},
                          {state, 1, 1, 1}, out.view());
      // Plain: 4 + 4 = 8; 2 + 0.5·3 = 3.5. Delta rule: 4 + (4 - 4) = 4; 1 + 0.5·0.5·(6 - 0.5) = 2.375.
      EXPECT_FLOAT_EQ(out.at(0, 0), delta ? 8.0f : 16.0f);
      EXPECT_FLOAT_EQ(out.at(1, 0), delta ? 7.125f : 10.5f);
      EXPECT_FLOAT_EQ(state[0], delta ? 2.375f : 3.5f);
    }
  }
}

TEST_F(BackendTest, Recurrence) {
  const RecurrenceParams kCases[] = {{1, 1, 1, 1}, {4, 2, 6, 5}, {6, 1, 16, 33}, {3, 3, 128, 8}};
  for (RecurrenceParams p : kCases) {
    for (const bool delta : {false, true}) {
      p.delta_rule = delta;
      constexpr std::int64_t kTokens = 23;
      const auto q = random_strided(kTokens, p.num_key_heads * p.key_size, 1, 0.2f);
      const auto k = random_strided(kTokens, p.num_key_heads * p.key_size, 2, 0.2f);
      const auto v = random_strided(kTokens, p.num_heads * p.value_size, 3);
      Matrix decay = random_matrix(kTokens, p.num_heads, 4), step = random_matrix(kTokens, p.num_heads, 5);
      for (Matrix* gate : {&decay, &step}) reference_->activate(Activation::kSigmoid, gate->view());
      Matrix expected_state = random_matrix(p.num_heads * p.key_size, p.value_size, 6);
      Matrix found_state = expected_state.clone(), in_parts = expected_state.clone();
      Matrix expected(kTokens, v.view.cols), parts(kTokens, v.view.cols);
      auto found = random_strided(kTokens, v.view.cols, 7);
      reference_->recurrence(q.view, k.view, v.view, decay.view(), step.view(), p, expected_state.view(),
                             expected.view());
      cpu_->recurrence(q.view, k.view, v.view, decay.view(), step.view(), p, found_state.view(), found.view);
      EXPECT_LE(relative_error(found.view, expected.view()), kProduct);
      EXPECT_LE(relative_error(found_state.view(), expected_state.view()), kProduct);
      // The state is all that a part needs to know of those before it.
      for (const auto& [first, count] : {std::pair{0, 9}, std::pair{9, 1}, std::pair{10, 13}}) {
        const auto rows = [&](ConstMatrixView x) { return x.row_block(first, count); };
        cpu_->recurrence(rows(q.view), rows(k.view), rows(v.view), rows(decay.view()), rows(step.view()), p,
                         in_parts.view(), parts.view().row_block(first, count));
      }
      EXPECT_EQ(relative_error(parts.view(), found.view), kExact);
      EXPECT_EQ(relative_error(in_parts.view(), found_state.view()), kExact);
    }
  }
}

TEST_F(BackendTest, Softcap) {
  for (const auto& [rows, cols] : kShapes) {
    auto expected = random_strided(rows, cols, 1, 40.0f);
    auto found = random_strided(rows, cols, 1, 40.0f);
    reference_->softcap(30.0f, expected.view);
    cpu_->softcap(30.0f, found.view);
    EXPECT_LE(relative_error(found.view, expected.view), kElementwise);
  }
}

TEST_F(BackendTest, AddAndEnergy) {
  for (const auto& [rows, cols] : kShapes) {
    const auto x = random_strided(rows, cols, 1);
    auto expected = random_strided(rows, cols, 2);
    auto found = random_strided(rows, cols, 2);
    reference_->add(x.view, expected.view);
    cpu_->add(x.view, found.view);
    EXPECT_EQ(relative_error(found.view, expected.view), kExact);
    std::vector<double> expected_energy(static_cast<std::size_t>(cols), 0.5);
    std::vector<double> found_energy(static_cast<std::size_t>(cols), 0.5);
    reference_->add_energy(x.view, expected_energy);
    cpu_->add_energy(x.view, found_energy);
    for (std::size_t i = 0; i < expected_energy.size(); ++i) {
      EXPECT_NEAR(found_energy[i], expected_energy[i], kElementwise * expected_energy[i]);
    }
  }
}

TEST_F(BackendTest, TargetLogProbs) {
  for (const auto& [rows, cols] : kShapes) {
    auto logits = random_strided(rows, cols, 1, 20.0f);
    std::vector<std::int32_t> targets;
    for (std::int64_t r = 0; r < rows; ++r) targets.push_back(static_cast<std::int32_t>(r % cols));
    std::vector<double> expected(targets.size());
    std::vector<double> found(targets.size());
    std::vector<std::int32_t> expected_best(targets.size());
    std::vector<std::int32_t> found_best(targets.size());
    reference_->target_log_probs(logits.view, targets, expected, expected_best);
    cpu_->target_log_probs(logits.view, targets, found, found_best);
    EXPECT_EQ(found_best, expected_best);
    for (std::size_t i = 0; i < expected.size(); ++i)
      EXPECT_NEAR(found[i], expected[i], 1e-5 * (1.0 - expected[i]));
  }
}

}  // namespace
}  // namespace swiftprune
