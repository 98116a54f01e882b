// Selection over whole matrices on the GPU, random scores and masks, against the CPU's selectors bit for bit.
#include <cmath>

#include "cuda/gpu.h"
#include "support/spec_text.h"
#include "swiftprune/cuda/selection/matrix_select.h"
#include "swiftprune/scoring/random.h"
#include "swiftprune/scoring/scorer.h"
#include "swiftprune/selection/selector.h"

namespace swiftprune {
namespace {

using testing::random_matrix;

struct Shape {
  std::int64_t rows;
  std::int64_t cols;
};

class CudaLayerSelectionTest : public test::GpuTest {
 protected:
  cuda::DeviceBuffer counters() {
    cuda::DeviceBuffer buffer(*memory_, sizeof(cuda::PruneCounters), "test");
    cuda::check(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), *stream_));
    return buffer;
  }
  static std::vector<std::uint8_t> bytes_of(const Mask& mask) {
    std::vector<std::uint8_t> bytes;
    for (std::int64_t r = 0; r < mask.rows(); ++r) {
      for (std::int64_t c = 0; c < mask.cols(); ++c) bytes.push_back(mask.kept(r, c) ? 1 : 0);
    }
    return bytes;
  }
};

// Every shape with and without factors, with ties, from nothing to everything.
TEST_F(CudaLayerSelectionTest, LayerMasksAreTheCpus) {
  for (const auto& [rows, cols] : {Shape{1, 1}, Shape{1, 31}, Shape{7, 33}, Shape{64, 128}, Shape{2000, 24},
                                   Shape{5, 4099}, Shape{1500, 1000}}) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const bool factors : {false, true}) {
        Matrix weight = test::rounded(random_matrix(rows, cols, 3, 0.05f), dtype);
        for (std::int64_t i = 0; i < weight.numel(); i += 3) weight.data()[i] = 0.03125f;  // ties
        const Matrix column = random_matrix(1, cols, 5);
        const Matrix row = random_matrix(1, rows, 6);
        std::vector<float> parts[3];
        for (const float value : column.values()) {
          parts[0].push_back(std::abs(value));
          parts[1].push_back(0.5f + std::abs(value));
        }
        for (const float value : row.values()) parts[2].push_back(std::abs(value));
        ScoreView scores = plain_scores(weight.view());
        const auto w = upload_as(weight, dtype);
        const auto out = poisoned(weight.numel() * size_of(dtype));
        const auto mask = poisoned(weight.numel());
        const auto count = counters();
        cuda::PruneRowsArgs args;
        args.in = w.data();
        args.out = out.data();
        args.dtype = dtype;
        args.rows = rows;
        args.cols = cols;
        args.mask = mask.as<std::uint8_t>();
        args.counters = count.as<cuda::PruneCounters>();
        cuda::DeviceBuffer device[3];
        for (int i = 0; i < 3; ++i) device[i] = upload(std::span<const float>(parts[i]));
        if (factors) {
          scores.column = parts[0];
          scores.slope = parts[1];
          scores.row = parts[2];
          args.column = device[0].as<float>();
          args.slope = device[1].as<float>();
          args.row = device[2].as<float>();
        }
        cuda::MatrixSelect select(*memory_, *stream_);
        for (const double sparsity : {0.0, 0.3, 0.5, 0.97}) {
          PruneTarget target;
          target.pattern.kind = Pattern::Kind::kLayer;
          target.sparsity = sparsity;
          target.rounding = PruneTarget::Rounding::kExactTotal;
          const std::int64_t total = total_prune_count(target, rows, cols);
          cuda::prune_rows(args, 0, select.row_counts(args, total), *stream_);
          const Mask expected = make_selector(kDefaultSelector)->select(scores, target).mask;
          EXPECT_EQ(download<std::uint8_t>(mask), bytes_of(expected))
              << rows << "x" << cols << " " << name_of(dtype) << " " << factors << " " << sparsity;
        }
        EXPECT_EQ(download<cuda::PruneCounters>(count).front().not_finite, 0u);
        for (const std::int64_t in_row : select.host_row_counts(args, rows * cols)) EXPECT_EQ(in_row, cols);
      }
    }
  }
}

TEST_F(CudaLayerSelectionTest, TileMasksAreTheCpus) {
  for (const char* pattern : {"block:1x1", "block:4x8", "block:16x16", "block:48x3"}) {
    for (const int power : {1, 2}) {
      const Matrix weight = test::rounded(random_matrix(48, 96, 3, 0.05f), DType::kBF16);
      PruneTarget target;
      target.pattern = parse_pattern(pattern);
      target.sparsity = 0.4;
      const ScoreView scores = plain_scores(weight.view(), power);
      const auto w = upload_as(weight, DType::kBF16);
      const auto mask = poisoned(weight.numel());
      const auto out = poisoned(weight.numel() * 2);
      const auto count = counters();
      cuda::PruneRowsArgs args;
      args.in = w.data();
      args.dtype = DType::kBF16;
      args.rows = weight.rows();
      args.cols = weight.cols();
      args.counters = count.as<cuda::PruneCounters>();
      cuda::MatrixSelect(*memory_, *stream_).tiles(args, target, power, mask.as<std::uint8_t>());
      const Mask expected = make_selector(kDefaultSelector)->select(scores, target).mask;
      const std::vector<std::uint8_t> kept = bytes_of(expected);
      EXPECT_EQ(download<std::uint8_t>(mask), kept) << pattern << " " << power;
      cuda::apply_mask(w.data(), mask.as<std::uint8_t>(), weight.numel(), out.data(), DType::kBF16,
                       count.as<cuda::PruneCounters>(), *stream_);
      const Matrix found = download_as(out, DType::kBF16, weight.rows(), weight.cols());
      unsigned long long zeros = 0;
      for (std::int64_t i = 0; i < found.numel(); ++i) {
        EXPECT_EQ(found.data()[i], kept[static_cast<std::size_t>(i)] != 0 ? weight.data()[i] : 0.0f);
        zeros += found.data()[i] == 0.0f ? 1 : 0;
      }
      unsigned long long counted = 0;
      const auto told = download<cuda::PruneCounters>(count).front();
      for (const auto value : told.zeros) counted += value;
      EXPECT_EQ(counted, zeros);
    }
  }
}

TEST_F(CudaLayerSelectionTest, AKeyThatIsNotFiniteIsTold) {
  Matrix weight = random_matrix(8, 40, 1);
  weight.at(5, 7) = NAN;
  const auto w = upload_as(weight, DType::kF32);
  const auto count = counters();
  cuda::PruneRowsArgs args;
  args.in = w.data();
  args.rows = 8;
  args.cols = 40;
  args.counters = count.as<cuda::PruneCounters>();
  cuda::MatrixSelect(*memory_, *stream_).row_counts(args, 160);
  EXPECT_NE(download<cuda::PruneCounters>(count).front().not_finite, 0u);
}

TEST_F(CudaLayerSelectionTest, RandomScoresAreTheCpus) {
  const auto backend = make_reference_backend();
  const Matrix weight(13, 57);
  const Scores expected = make_scorer("random(12)")->score(weight_view(weight.view()), {}, *backend, "a.b");
  const auto scores = poisoned(weight.numel() * 4);
  cuda::random_scores(random_stream(12, "a.b"), weight.numel(), scores.as<float>(), *stream_);
  const std::vector<float> found = download<float>(scores);
  EXPECT_TRUE(std::equal(found.begin(), found.end(), expected.plain.values().begin()));
}

}  // namespace
}  // namespace swiftprune
