// Second forms of packed weights give the same products, and the tuner takes what its clock says.
#include "swiftprune/cuda/sparse/tuning.h"

#include "cuda/gpu.h"
#include "sparse/weights.h"
#include "support/temp_dir.h"
#include "swiftprune/sparse/linear.h"

namespace swiftprune {
namespace {

using cuda::DevicePacked;
using cuda::DeviceTuner;
using cuda::FormTimes;
using cuda::view_of;
using test::relative_error;
using test::rounded;
using testing::random_matrix;
using testing_sparse::random_nm_weight;

constexpr std::int64_t kRows = 272;
constexpr std::int64_t kCols = 192;
constexpr double kRounding = 6e-3;

class CudaTuningTest : public test::GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (memory_) products_ = std::make_unique<cuda::Products>(*memory_, *stream_);
  }
  DevicePacked weight() {
    return DevicePacked(*memory_, std::span(&packed_, 1), packed_.shape().dtype, *stream_);
  }
  DeviceTuner tuner(Timings& timings) { return DeviceTuner(timings, 0, *memory_, *products_, *stream_); }

  void expect_products(const DevicePacked& weight) {
    for (const std::int64_t tokens : {1, 16, 17, 100, 256, 261}) {
      const Matrix x = rounded(random_matrix(tokens, kCols, 1), DType::kBF16);
      Matrix expected(tokens, kRows);
      reference_linear(packed_, x.view(), {}, expected.view());
      const auto dx = upload_as(x, DType::kBF16);
      const auto scratch = poisoned(2 * kRows * kCols);
      for (const DType dtype : {DType::kBF16, DType::kF32}) {
        for (const bool accumulate : {false, true}) {
          if (accumulate && dtype != DType::kF32) continue;
          const auto y = poisoned(tokens * kRows * size_of(dtype));
          if (accumulate) cuda::check(cudaMemsetAsync(y.data(), 0, y.bytes(), *stream_));
          weight.linear(*products_, view_of(dx.data(), DType::kBF16, tokens, kCols), nullptr,
                        view_of(y.data(), dtype, tokens, kRows), accumulate,
                        {scratch.data(), scratch.bytes()}, *stream_);
          EXPECT_LE(relative_error(download_as(y, dtype, tokens, kRows).view(), expected.view()), kRounding)
              << tokens << " tokens to " << name_of(dtype);
        }
      }
    }
  }

  const PackedTensor packed_ = pack(random_nm_weight(kRows, kCols, DType::kBF16, 2, 4).view(),
                                    {.kind = PackedKind::kNm16, .group_n = 2, .group_m = 4});
  std::unique_ptr<cuda::Products> products_;
};

TEST_F(CudaTuningTest, EveryFormGivesTheProduct) {
  DevicePacked kept = weight();
  expect_products(kept);
  kept.keep_dense(*memory_, *stream_);
  EXPECT_FALSE(kept.is_dense());
  expect_products(kept);
  const std::uint64_t packed_bytes = kept.bytes();
  kept.become_dense(*memory_, *stream_);
  EXPECT_TRUE(kept.is_dense());
  EXPECT_GT(kept.bytes(), packed_bytes);
  expect_products(kept);
}

TEST_F(CudaTuningTest, TheLibrarysFormGivesTheProduct) {
  if (!test::have(cuda::StructuredProducts::why_not(), "SWIFTPRUNE_REQUIRE_CUSPARSELT")) return;
  Timings timings({});
  DeviceTuner tuner = this->tuner(timings);
  DevicePacked kept = weight();
  tuner.set_stopwatch([&](const DevicePacked&, std::int64_t, bool search) {
    return search ? FormTimes{9.0, 8.0, 2.0, {}} : FormTimes{9.0, 8.0, 0.0, {}};
  });
  tuner.choose_many(kept, 512, 1e9);
  EXPECT_TRUE(kept.is_structured());
  expect_products(kept);
}

TEST_F(CudaTuningTest, TakesTheFasterFormAndMeasuresOnce) {
  const test::TempDir dir;
  int measured = 0;
  for (int run = 0; run < 2; ++run) {
    Timings timings(dir.path() / "autotune.json");
    DeviceTuner tuner = this->tuner(timings);
    tuner.set_stopwatch([&](const DevicePacked&, std::int64_t tokens, bool) {
      ++measured;
      return tokens == 1 ? FormTimes{10.0, 15.0, 0.0, {}} : FormTimes{20.0, 15.0, 0.0, {}};
    });
    DevicePacked one = weight();
    tuner.choose_few(one, 1);
    EXPECT_FALSE(one.is_dense());
    const std::uint64_t used = memory_->used();
    tuner.choose_many(one, 300, 1.0);
    EXPECT_EQ(memory_->used(), used + 2 * kRows * kCols);  // a dense copy beside the packed bytes
    DevicePacked eight = weight();
    tuner.choose_few(eight, 7);
    EXPECT_TRUE(eight.is_dense());
    tuner.choose_few(one, 8);  // one class with 7
    EXPECT_EQ(measured, 3);
    timings.save();
  }
}

TEST_F(CudaTuningTest, BitmapsBecomeEntriesWhereThatIsFaster) {
  const test::TempDir dir;
  const PackedTensor bitmap = pack(testing_sparse::random_weight(kRows, kCols, DType::kBF16, 0.5).view(),
                                   {.kind = PackedKind::kBitmap16});
  int measured = 0;
  for (int run = 0; run < 2; ++run) {
    Timings timings(dir.path() / "autotune.json");
    DeviceTuner tuner = this->tuner(timings);
    tuner.set_stopwatch([&](const DevicePacked& weight, std::int64_t tokens, bool) {
      ++measured;
      FormTimes times{10.0, 12.0, 0.0, {}};
      if (weight.can_be_entries() && tokens <= cuda::kMostEntryTokens)
        times.entries_us = tokens == 1 ? 7.0 : 11.0;
      return times;
    });
    DevicePacked one(*memory_, std::span(&bitmap, 1), DType::kBF16, *stream_);
    DevicePacked two(*memory_, std::span(&bitmap, 1), DType::kBF16, *stream_);
    const std::uint64_t bytes = one.bytes();
    tuner.choose_few(one, 1);
    EXPECT_NE(one.bytes(), bytes);
    EXPECT_FALSE(one.is_dense());
    tuner.choose_few(one, 1);  // stays
    EXPECT_FALSE(one.can_be_entries());
    tuner.choose_few(two, 2);
    EXPECT_EQ(two.bytes(), bytes);
    EXPECT_EQ(measured, 2);
    timings.save();
  }
}

TEST_F(CudaTuningTest, KeepsToTheMemoryThatThereIs) {
  cuda::DeviceMemory small(3 * kRows * kCols);  // no room to measure
  Timings timings({});
  DevicePacked kept(small, std::span(&packed_, 1), packed_.shape().dtype, *stream_);
  DeviceTuner tuner(timings, 0, small, *products_, *stream_);
  tuner.set_stopwatch([](const DevicePacked&, std::int64_t, bool) { return FormTimes{20.0, 15.0, 0.0, {}}; });
  const std::uint64_t used = small.used();
  tuner.choose_few(kept, 1);
  tuner.choose_many(kept, 4096, 1e9);
  EXPECT_FALSE(kept.is_dense());
  EXPECT_EQ(small.used(), used);
}

TEST_F(CudaTuningTest, MeasuresRealTimes) {
  Timings timings({});
  DeviceTuner tuner = this->tuner(timings);
  const DevicePacked kept = weight();
  const std::uint64_t used = memory_->used();
  for (const std::int64_t tokens : {1, 512}) {
    const FormTimes times = tuner.measure(kept, tokens, true);
    for (const double us : {times.packed_us, times.dense_us}) {
      EXPECT_GT(us, 0.0);
      EXPECT_LT(us, 1e5);
    }
  }
  EXPECT_LE(memory_->used(), used + (std::uint64_t{64} << 20));  // at most a workspace stays
}

}  // namespace
}  // namespace swiftprune
