// Statistics, products, norms, heads, activations and losses on the GPU against the reference backend.
#include <cmath>

#include "cuda/gpu.h"
#include "swiftprune/cuda/refinement/inverse.h"
#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/cuda/statistics/calibration.h"

namespace swiftprune {
namespace {

using cuda::view_of;
using test::relative_error;
using test::rounded;
using testing::random_matrix;

constexpr double kFloat = 1e-5;  // float sums in another order
constexpr double kHalf = 1e-3;   // results rounded to F16
constexpr double kBf16 = 6e-3;   // results rounded to BF16
constexpr double kInverse = 2e-4;

double rounding(DType dtype) { return dtype == DType::kF32 ? kFloat : dtype == DType::kF16 ? kHalf : kBf16; }
const DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

class CudaArithmeticTest : public test::GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (memory_) products_ = std::make_unique<cuda::Products>(*memory_, *stream_);
  }
  // WᵀW of the inverse factor W.
  Matrix inverse(const Matrix& a, int expected_bad) {
    const std::int64_t n = a.rows();
    const auto da = upload_as(a, DType::kF32);
    const auto scratch = poisoned(4 * cuda::inverse_scratch(n) + 4);
    const std::vector<int> zero(1, 0);
    const auto bad = upload(std::span<const int>(zero));
    const auto w = view_of(da.data(), DType::kF32, n, n);
    cuda::inverse_factor(*products_, w, scratch.as<float>(), bad.as<int>(), false, *stream_);
    EXPECT_EQ(download<int>(bad).front(), expected_bad);
    const auto result = poisoned(4 * n * n);
    products_->run({.a = w, .b = w, .c = view_of(result.data(), DType::kF32, n, n), .a_transposed = true});
    return download_as(result, DType::kF32, n, n);
  }

  std::unique_ptr<cuda::Products> products_;
  std::unique_ptr<Backend> reference_ = make_reference_backend();
};

TEST_F(CudaArithmeticTest, LinearWithBiasAndSum) {
  for (const DType dtype : kDTypes) {
    for (const DType out : {dtype, DType::kF32}) {
      for (const auto& [rows, inputs, outputs] :
           {std::array{1, 8, 8}, {3, 40, 24}, {70, 64, 136}, {130, 264, 520}}) {
        const Matrix x = rounded(random_matrix(rows, inputs, 1), dtype);
        const Matrix w = rounded(random_matrix(outputs, inputs, 2), dtype);
        const Matrix bias = rounded(random_matrix(1, outputs, 3), out);
        Matrix expected(rows, outputs);
        reference_->linear(x.view(), *reference_->pack(w.view(), ComputeType::kF32), bias.values(),
                           expected.view());
        const auto dx = upload_as(x, dtype);
        const auto dw = upload_as(w, dtype);
        const auto db = upload_as(bias, out);
        const auto y = poisoned(rows * outputs * size_of(out));
        products_->linear(view_of(dx.data(), dtype, rows, inputs), view_of(dw.data(), dtype, outputs, inputs),
                          db.data(), view_of(y.data(), out, rows, outputs));
        EXPECT_LE(relative_error(download_as(y, out, rows, outputs).view(), expected.view()), rounding(out));
        products_->linear(view_of(dx.data(), dtype, rows, inputs), view_of(dw.data(), dtype, outputs, inputs),
                          db.data(), view_of(y.data(), out, rows, outputs), true);
        for (float& value : expected.values()) value *= 2.0f;
        EXPECT_LE(relative_error(download_as(y, out, rows, outputs).view(), expected.view()),
                  2 * rounding(out));
      }
    }
  }
}

TEST_F(CudaArithmeticTest, StatisticsInOnePass) {
  for (const DType dtype : kDTypes) {
    for (const auto& [rows, cols] : {std::pair{1, 8}, {33, 5}, {200, 64}, {2048, 72}, {777, 1000}}) {
      const Matrix x = rounded(random_matrix(rows, cols, 5), dtype);
      const auto dx = upload_as(x, dtype);
      const auto n = static_cast<std::size_t>(cols);
      std::vector<double> start(n, 2.0);
      const std::vector<float> no_peak(n, 0.0f);
      const auto energy = upload(std::span<const double>(start));
      const auto ewma = upload(std::span<const double>(start));
      const auto sum = upload(std::span<const double>(start));
      const auto peak = upload(std::span<const float>(no_peak));
      const auto scratch = poisoned(cuda::statistics_scratch(rows, cols));
      cuda::StatisticsArgs args;
      args.x = dx.data();
      args.dtype = dtype;
      args.rows = rows;
      args.cols = cols;
      args.energy = energy.as<double>();
      args.ewma = ewma.as<double>();
      args.ewma_weight = 0.25;
      args.sum = sum.as<double>();
      args.peak = peak.as<float>();
      args.scratch = scratch.data();
      cuda::add_statistics(args, *stream_);
      const auto found_energy = download<double>(energy);
      const auto found_ewma = download<double>(ewma);
      const auto found_sum = download<double>(sum);
      const auto found_peak = download<float>(peak);
      for (std::int64_t j = 0; j < cols; ++j) {
        double e = 0.0;
        double s = 0.0;
        float top = 0.0f;
        for (std::int64_t r = 0; r < rows; ++r) {
          e += double{x.at(r, j)} * double{x.at(r, j)};
          s += double{x.at(r, j)};
          top = std::max(top, std::abs(x.at(r, j)));
        }
        const auto i = static_cast<std::size_t>(j);
        EXPECT_NEAR(found_energy[i], 2.0 + e, 1e-6 * e);
        EXPECT_NEAR(found_ewma[i], 2.0 + 0.25 * (e - 2.0), 1e-6 * e + 1e-12);
        EXPECT_NEAR(found_sum[i], 2.0 + s, 1e-5 * std::sqrt(e * rows) + 1e-6);
        EXPECT_EQ(found_peak[i], top);
      }
    }
  }
}

TEST_F(CudaArithmeticTest, SumsOfAbsoluteWeights) {
  for (const DType dtype : kDTypes) {
    for (const auto& [rows, cols] : {std::pair{1, 8}, {33, 5}, {300, 64}}) {
      const Matrix w = rounded(random_matrix(rows, cols, 6), dtype);
      const auto dw = upload_as(w, dtype);
      const auto row_sums = poisoned(rows * 8);
      const auto column_sums = poisoned(cols * 8);
      const auto scratch = poisoned(cuda::statistics_scratch(rows, cols));
      cuda::abs_sums(dw.data(), dtype, rows, cols, row_sums.as<double>(), column_sums.as<double>(),
                     scratch.data(), *stream_);
      const auto by_row = download<double>(row_sums);
      const auto by_column = download<double>(column_sums);
      for (std::int64_t r = 0; r < rows; ++r) {
        double sum = 0.0;
        for (std::int64_t c = 0; c < cols; ++c) sum += std::abs(double{w.at(r, c)});
        EXPECT_NEAR(by_row[static_cast<std::size_t>(r)], sum, 1e-5 * sum);
      }
      for (std::int64_t c = 0; c < cols; ++c) {
        double sum = 0.0;
        for (std::int64_t r = 0; r < rows; ++r) sum += std::abs(double{w.at(r, c)});
        EXPECT_NEAR(by_column[static_cast<std::size_t>(c)], sum, 1e-5 * sum);
      }
    }
  }
}

TEST_F(CudaArithmeticTest, GramOfWindows) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const std::int64_t inputs : {8, 200, 640}) {
      const Matrix x = rounded(random_matrix(96, inputs, 7), dtype);
      Matrix expected = Matrix::zeros(inputs, inputs);
      reference_->add_gram(x.view(), expected.view());
      Backend::symmetrize(expected.view());
      const auto dx = upload_as(x, dtype);
      const cuda::StatisticsScratch scratch(*memory_, dtype, 96, inputs, 0, 0);
      cuda::Moments moments;
      moments.gram = poisoned(inputs * inputs * 4);
      cuda::DeviceStats stats(*memory_, inputs, *stream_);
      stats.start(inputs, {.energy = true, .gram = true}, moments, 0);
      for (std::int64_t w = 0; w < 2; ++w) {
        const auto window = view_of(dx.data(), dtype, 96, inputs).row_block(48 * w, 48);
        stats.add_window(*products_, scratch, window);
      }
      stats.finish("x");
      EXPECT_LE(
          relative_error(download_as(moments.gram, DType::kF32, inputs, inputs).view(), expected.view()),
          kFloat);
      const LayerStats view = stats.view();
      for (std::int64_t j = 0; j < inputs; ++j) {
        EXPECT_NEAR(view.energy[static_cast<std::size_t>(j)], expected.at(j, j), 1e-5 * expected.at(j, j));
      }
    }
  }
}

TEST_F(CudaArithmeticTest, InverseOfPositiveDefinite) {
  for (const std::int64_t n : {1, 2, 127, 128, 129, 300, 1100}) {
    const Matrix x = random_matrix(2 * n, n, 5);
    Matrix a = Matrix::zeros(n, n);
    auto cpu = make_cpu_backend();
    cpu->add_gram(x.view(), a.view());
    Backend::symmetrize(a.view());
    const Matrix found = inverse(a, 0);
    ASSERT_TRUE(cpu->invert_spd(a.view()));
    EXPECT_LE(relative_error(found.view(), a.view()), kInverse) << n;
  }
}

// Inputs that are nearly alike: one eigenvalue is n·b, all others a. (aI + b·11ᵀ)⁻¹ = I/a - b/(a(a +
// nb))·11ᵀ.
TEST_F(CudaArithmeticTest, InverseOfCoherentInputs) {
  constexpr float kA = 1.1f;
  constexpr float kB = 0.95f;
  for (const std::int64_t n : {200, 1000, 2500}) {
    Matrix m(n, n);
    Matrix expected(n, n);
    const double side = double{kB} / (double{kA} * (double{kA} + static_cast<double>(n) * double{kB}));
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < n; ++j) {
        m.at(i, j) = (i == j ? kA : 0.0f) + kB;
        expected.at(i, j) = static_cast<float>((i == j ? 1.0 / double{kA} : 0.0) - side);
      }
    }
    const Matrix found = inverse(m, 0);
    EXPECT_LE(relative_error(found.view(), expected.view()), kInverse) << n;
    for (std::int64_t i = 0; i < n; i += 97) {  // what the large eigenvalue leaves is small, and must be
      double sum = 0.0;
      for (std::int64_t j = 0; j < n; ++j) sum += double{found.at(i, j)};
      EXPECT_NEAR(sum, 1.0 / (double{kA} + static_cast<double>(n) * double{kB}), 5e-3) << n;
    }
  }
}

TEST_F(CudaArithmeticTest, InverseRefusesIndefinite) {
  for (const std::int64_t n : {70, 300}) {
    Matrix a = Matrix::zeros(n, n);
    for (std::int64_t i = 0; i < n; ++i) a.at(i, i) = i == n - 2 ? -1.0f : 1.0f;
    inverse(a, 1);
  }
}

TEST_F(CudaArithmeticTest, Norms) {
  for (const DType dtype : kDTypes) {
    for (const std::int64_t cols : {1, 7, 64, 576, 4096, 9000}) {
      for (const bool layer : {false, true}) {
        const Matrix x = random_matrix(3, cols, 1);
        const Matrix gain = random_matrix(1, cols, 2);
        const Matrix bias = random_matrix(1, cols, 3);
        Matrix expected(3, cols);
        if (layer) {
          reference_->layer_norm(x.view(), gain.values(), bias.values(), 1e-5f, expected.view());
        } else {
          reference_->rms_norm(x.view(), gain.values(), 1.0f, 1e-5f, expected.view());
        }
        const auto dx = upload_as(x, DType::kF32);
        const auto dg = upload_as(gain, DType::kF32);
        const auto db = upload_as(bias, DType::kF32);
        const auto y = poisoned(3 * cols * size_of(dtype));
        cuda::NormArgs args;
        args.x = dx.as<float>();
        args.gain = dg.as<float>();
        if (layer) args.bias = db.as<float>();
        args.layer = layer;
        args.gain_offset = layer ? 0.0f : 1.0f;
        args.rows = 3;
        args.cols = cols;
        cuda::norm(args, y.data(), dtype, *stream_);
        EXPECT_LE(relative_error(download_as(y, dtype, 3, cols).view(), expected.view()), rounding(dtype))
            << cols;
        const auto sum = upload_as(x, DType::kF32);
        cuda::norm_add(args, 0.5f, sum.as<float>(), *stream_);  // x + norm(x) / 2
        for (float& value : expected.values()) value *= 0.5f;
        reference_->add(x.view(), expected.view());
        EXPECT_LE(relative_error(download_as(sum, DType::kF32, 3, cols).view(), expected.view()), kFloat);
      }
    }
  }
}

TEST_F(CudaArithmeticTest, RotaryEmbeddingOfStridedHeads) {
  constexpr std::int64_t kLength = 6;
  for (const DType dtype : kDTypes) {
    for (const auto& [head_size, pairs] : {std::pair{8, 4}, {8, 2}, {6, 3}, {64, 32}, {80, 16}}) {
      const std::int64_t heads = 3;
      RopeTable table{random_matrix(kLength, pairs, 1), random_matrix(kLength, pairs, 2)};
      const Matrix x = rounded(random_matrix(2 * kLength, heads * head_size, 3), dtype);
      Matrix expected = x.clone();
      for (std::int64_t s = 0; s < 2; ++s) {
        reference_->rope(expected.view().row_block(s * kLength, kLength), table, head_size, 0);
      }
      const auto dx = upload_as(x, dtype);
      const auto cos = upload_as(table.cos, DType::kF32);
      const auto sin = upload_as(table.sin, DType::kF32);
      cuda::HeadsArgs args;
      args.data = dx.data();
      args.dtype = dtype;
      args.rows = x.rows();
      args.row_stride = x.cols();
      args.head_stride = head_size;
      args.num_heads = heads;
      args.head_size = head_size;
      args.cos = cos.as<float>();
      args.sin = sin.as<float>();
      args.pairs = pairs;
      args.sequence_length = kLength;
      cuda::prepare_heads(args, *stream_);
      EXPECT_LE(relative_error(download_as(dx, dtype, x.rows(), x.cols()).view(), expected.view()),
                rounding(dtype));
    }
  }
}

TEST_F(CudaArithmeticTest, Activations) {
  using enum cuda::ActivationKind;
  for (const DType dtype : kDTypes) {
    for (const auto& [kind, activation] : {std::pair{kSilu, Activation::kSilu},
                                           {kGelu, Activation::kGelu},
                                           {kGeluTanh, Activation::kGeluTanh},
                                           {kRelu, Activation::kRelu},
                                           {kReluSquared, Activation::kReluSquared},
                                           {kQuickGelu, Activation::kQuickGelu},
                                           {kClippedGelu, Activation::kClippedGelu},
                                           {kMish, Activation::kMish}}) {
      for (const std::int64_t cols : {1, 7, 64}) {
        const Matrix x = rounded(random_matrix(5, 2 * cols, 3), dtype);
        Matrix gated = copy_of(x.view().col_block(0, cols));
        reference_->gated_activate(activation, gated.view(), x.view().col_block(cols, cols));
        const auto dx = upload_as(x, dtype);
        const auto y = poisoned(5 * cols * size_of(dtype));
        cuda::activate(kind, true, dx.data(), 5, cols, y.data(), dtype, *stream_);
        EXPECT_LE(relative_error(download_as(y, dtype, 5, cols).view(), gated.view()), rounding(dtype));
        Matrix alone = x.clone();
        reference_->activate(activation, alone.view());
        const auto z = poisoned(5 * 2 * cols * size_of(dtype));
        cuda::activate(kind, false, dx.data(), 5, 2 * cols, z.data(), dtype, *stream_);
        EXPECT_LE(relative_error(download_as(z, dtype, 5, 2 * cols).view(), alone.view()), rounding(dtype));
      }
    }
  }
}

TEST_F(CudaArithmeticTest, LogProbabilities) {
  for (const std::int64_t cols : {2, 100, 5000}) {
    for (const float cap : {0.0f, 5.0f}) {
      Matrix logits = random_matrix(4, cols, 8, 6.0f);
      const auto dl = upload_as(logits, DType::kF32);
      const std::vector<std::int32_t> targets = {0, 1, static_cast<std::int32_t>(cols - 1), 1};
      const auto dt = upload(std::span<const std::int32_t>(targets));
      const auto out = poisoned(4 * 8);
      cuda::target_log_probs(dl.as<float>(), 4, cols, cap, dt.as<std::int32_t>(), out.as<double>(), *stream_);
      if (cap > 0.0f) reference_->softcap(cap, logits.view());
      std::vector<double> expected(4);
      reference_->target_log_probs(logits.view(), targets, expected);
      const auto found = download<double>(out);
      for (std::size_t i = 0; i < 4; ++i)
        EXPECT_NEAR(found[i], expected[i], 2e-5 * (1.0 + std::abs(expected[i])));
    }
  }
}

}  // namespace
}  // namespace swiftprune
