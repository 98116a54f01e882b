// The GPU's selection against the CPU's `sort` selector: the same bytes, for every pattern, dtype, kind of
// score and row length, with many ties.
#include <cmath>
#include <numeric>

#include "cuda/gpu.h"
#include "support/spec_text.h"
#include "swiftprune/selection/selector.h"

namespace swiftprune {
namespace {

using test::rounded;

enum class ScoreKind { kPlain, kColumn, kColumnAndRow };

std::vector<float> random_factors(std::int64_t n, unsigned seed) {
  Matrix m = testing::random_matrix(1, n, seed);
  for (float& value : m.values()) value = std::abs(value) + 0.01f;
  return {m.values().begin(), m.values().end()};
}

Scores make_scores(ScoreKind kind, std::int64_t rows, std::int64_t cols) {
  Scores scores;
  if (kind != ScoreKind::kPlain) scores.column = random_factors(cols, 11);
  if (kind != ScoreKind::kColumnAndRow) return scores;
  scores.slope = random_factors(cols, 12);
  scores.row = random_factors(rows, 13);
  return scores;
}

class CudaSelectionTest : public test::GpuTest {
 protected:
  // In place on the device; the counters' zeros.
  Matrix prune(const Matrix& weight, DType dtype, const Scores& scores, const PruneTarget& target,
               cuda::PruneCounters& counters) {
    const cuda::DeviceBuffer w = upload_as(weight, dtype);
    const cuda::DeviceBuffer column = upload(std::span(scores.column));
    const cuda::DeviceBuffer row = upload(std::span(scores.row));
    const cuda::DeviceBuffer slope = upload(std::span(scores.slope));
    const cuda::DeviceBuffer count(*memory_, sizeof(cuda::PruneCounters), "test");
    cuda::check(cudaMemsetAsync(count.data(), 0, count.bytes(), *stream_));
    cuda::PruneRowsArgs args;
    args.in = args.out = w.data();
    args.dtype = dtype;
    args.rows = weight.rows();
    args.cols = weight.cols();
    if (!scores.column.empty()) args.column = column.as<float>();
    if (!scores.row.empty()) args.row = row.as<float>();
    if (!scores.slope.empty()) args.slope = slope.as<float>();
    args.counters = count.as<cuda::PruneCounters>();
    if (target.pattern.kind == Pattern::Kind::kNofM) {
      cuda::prune_groups(args, static_cast<int>(target.pattern.n), static_cast<int>(target.pattern.m),
                         *stream_);
    } else {
      const auto counts = row_prune_counts(target, weight.rows(), weight.cols());
      const std::vector<std::int32_t> narrow(counts.begin(), counts.end());
      const cuda::DeviceBuffer device_counts = upload(std::span(narrow));
      const bool uniform =
          std::all_of(counts.begin(), counts.end(), [&](auto c) { return c == counts.front(); });
      cuda::prune_rows(args, counts.front(), uniform ? nullptr : device_counts.as<std::int32_t>(), *stream_);
      stream_->synchronize();
    }
    counters = download<cuda::PruneCounters>(count).front();
    return download_as(w, dtype, weight.rows(), weight.cols());
  }

  void expect_same(Matrix weight, DType dtype, ScoreKind kind, const PruneTarget& target,
                   const std::string& what) {
    weight = rounded(std::move(weight), dtype);
    const Scores scores = make_scores(kind, weight.rows(), weight.cols());
    Matrix expected = weight.clone();
    make_selector("sort")->prune(mutable_weight_view(expected.view()), scores, target);
    cuda::PruneCounters counters{};
    const Matrix found = prune(weight, dtype, scores, target, counters);
    std::int64_t differing = 0;
    std::int64_t zeros = 0;
    for (std::int64_t i = 0; i < found.numel(); ++i) {
      differing += found.data()[i] != expected.data()[i] ? 1 : 0;
      zeros += expected.data()[i] == 0.0f ? 1 : 0;
    }
    EXPECT_EQ(differing, 0) << what;
    EXPECT_EQ(std::accumulate(std::begin(counters.zeros), std::end(counters.zeros), 0ULL),
              static_cast<unsigned long long>(zeros))
        << what;
    EXPECT_EQ(counters.not_finite, 0u) << what;
  }
};

PruneTarget row_target(double sparsity, PruneTarget::Rounding rounding = PruneTarget::Rounding::kFloor) {
  PruneTarget target;
  target.sparsity = sparsity;
  target.rounding = rounding;
  target.tensor = "w";
  return target;
}

PruneTarget group_target(std::int64_t n, std::int64_t m) {
  PruneTarget target;
  target.pattern = {Pattern::Kind::kNofM, n, m};
  target.tensor = "w";
  return target;
}

const DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
const ScoreKind kKinds[] = {ScoreKind::kPlain, ScoreKind::kColumn, ScoreKind::kColumnAndRow};

TEST_F(CudaSelectionTest, RowsOfManyLengths) {
  for (const DType dtype : kDTypes) {
    for (const ScoreKind kind : kKinds) {
      for (const std::int64_t cols : {1, 7, 8, 31, 64, 257, 1000, 1024, 1032, 4096, 11008, 16384}) {
        for (const double sparsity : {0.0, 0.1, 0.5, 0.9, 0.999}) {
          expect_same(testing::random_matrix(5, cols, 3), dtype, kind, row_target(sparsity),
                      fmt::format("{} {} columns at {}, score {}", name_of(dtype), cols, sparsity,
                                  static_cast<int>(kind)));
        }
      }
    }
  }
}

TEST_F(CudaSelectionTest, LongRows) {
  for (const DType dtype : kDTypes) {
    for (const std::int64_t cols : {28672, 32768, 32776, 65536, 65543}) {
      expect_same(testing::random_matrix(3, cols, 5), dtype, ScoreKind::kColumn, row_target(0.5),
                  fmt::format("{} {} columns", name_of(dtype), cols));
    }
  }
}

TEST_F(CudaSelectionTest, ManyRowsWithDifferentCounts) {
  for (const DType dtype : kDTypes) {
    expect_same(testing::random_matrix(3000, 72, 7), dtype, ScoreKind::kColumn,
                row_target(0.37, PruneTarget::Rounding::kExactTotal), std::string(name_of(dtype)));
    std::vector<std::int64_t> counts(700);
    for (std::size_t r = 0; r < counts.size(); ++r) counts[r] = static_cast<std::int64_t>(r) % 73;  // 0 .. 72
    PruneTarget target = row_target(0.5);
    target.row_counts = counts;
    expect_same(testing::random_matrix(700, 72, 8), dtype, ScoreKind::kColumn, target,
                std::string(name_of(dtype)));
  }
}

TEST_F(CudaSelectionTest, TiesGoFromTheLowerIndexOn) {
  for (const DType dtype : kDTypes) {
    for (const std::int64_t cols : {40, 4096, 11008, 40000}) {
      for (const double sparsity : {0.25, 0.5, 0.75}) {
        Matrix few = testing::random_matrix(40, cols, 9);
        for (float& value : few.values())
          value = std::round(value * 2.0f);  // a handful of values, many zeros
        expect_same(std::move(few), dtype, ScoreKind::kPlain, row_target(sparsity),
                    fmt::format("{} {} columns at {}", name_of(dtype), cols, sparsity));
      }
    }
    Matrix same(3, 512);
    for (float& value : same.values()) value = 0.5f;
    expect_same(same.clone(), dtype, ScoreKind::kPlain, row_target(0.3), "equal keys");
    expect_same(Matrix::zeros(3, 512), dtype, ScoreKind::kPlain, row_target(0.3), "zeros");
    for (float& value : same.values()) value = -0.0f;
    expect_same(std::move(same), dtype, ScoreKind::kPlain, row_target(0.3), "negative zeros");
  }
}

TEST_F(CudaSelectionTest, HeavyTails) {
  Matrix heavy = testing::random_matrix(64, 4096, 10);
  for (float& value : heavy.values()) value = std::pow(value, 9.0f);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const double sparsity : {0.05, 0.5, 0.95}) {
      expect_same(heavy.clone(), dtype, ScoreKind::kColumn, row_target(sparsity),
                  std::string(name_of(dtype)));
    }
  }
}

TEST_F(CudaSelectionTest, GroupsOfEverySize) {
  for (const DType dtype : kDTypes) {
    for (const ScoreKind kind : kKinds) {
      for (const auto& [n, m] :
           {std::pair{1, 2}, {2, 4}, {1, 4}, {3, 4}, {4, 8}, {5, 8}, {2, 3}, {8, 16}, {7, 32}}) {
        for (const std::int64_t groups : {1, 6, 32}) {
          Matrix w = testing::random_matrix(9, groups * m, 4);
          for (float& value : w.values()) value = std::round(value * 4.0f) / 4.0f;  // ties
          expect_same(std::move(w), dtype, kind, group_target(n, m),
                      fmt::format("{} {}:{}, {} groups", name_of(dtype), n, m, groups));
        }
      }
    }
  }
}

TEST_F(CudaSelectionTest, WeightsThatAreNotFiniteAreReported) {
  for (const DType dtype : kDTypes) {
    for (const std::int64_t cols : {64, 63}) {
      for (const float bad : {INFINITY, NAN}) {
        Matrix w = testing::random_matrix(4, cols, 4);
        w.at(2, 50) = bad;
        cuda::PruneCounters counters{};
        prune(w, dtype, {}, row_target(0.5), counters);
        EXPECT_NE(counters.not_finite, 0u);
        Matrix grouped = testing::random_matrix(4, cols / 3 * 3, 4);
        grouped.at(2, 50) = bad;
        counters = {};
        prune(grouped, dtype, {}, group_target(1, 3), counters);
        EXPECT_NE(counters.not_finite, 0u);
      }
    }
    Matrix w = testing::random_matrix(4, 64, 4);
    w.at(1, 9) = INFINITY;
    cuda::PruneCounters counters{};
    prune(w, dtype, {}, group_target(2, 4), counters);
    EXPECT_NE(counters.not_finite, 0u);
  }
}

}  // namespace
}  // namespace swiftprune
