// admm and aligned-admm on the GPU against the CPU's: nearly the same mask, and no larger error of the
// outputs.
#include <cmath>

#include "cuda/gpu.h"
#include "support/spec_text.h"
#include "swiftprune/core/error.h"
#include "swiftprune/cuda/refinement/admm.h"
#include "swiftprune/refinement/refiner.h"

namespace swiftprune {
namespace {

using cuda::view_of;
using testing::random_matrix;

constexpr std::int64_t kOutputs = 96;
constexpr std::int64_t kInputs = 160;
constexpr std::int64_t kTokens = 400;

// Correlated inputs of different sizes, as layers have.
Matrix inputs(unsigned seed) {
  const auto reference = make_reference_backend();
  const Matrix base = random_matrix(kTokens, 40, seed);
  const Matrix mix = random_matrix(40, kInputs, 99);
  Matrix x = random_matrix(kTokens, kInputs, seed + 1, 0.5f);
  reference->matmul(base.view(), mix.view(), 0.2f, 1.0f, x.view());
  for (std::int64_t t = 0; t < kTokens; ++t) {
    for (std::int64_t j = 0; j < kInputs; ++j) x.at(t, j) *= 0.1f + static_cast<float>(j % 17);
  }
  return x;
}

struct Case {
  const char* refine;
  Pattern pattern;
  double sparsity;
  std::int64_t rows_at_once = kOutputs;
};

class CudaRefinementTest : public test::GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (memory_) products_ = std::make_unique<cuda::Products>(*memory_, *stream_);
  }

  Matrix refine(const Case& c, const Matrix& weight, DType dtype, const Matrix& x, const Matrix& dense_x,
                const Matrix& residual, const Matrix& dense_residual, const PruneTarget& target,
                std::int64_t rows_at_once, cuda::PruneCounters& counters) {
    const RefinePart part = parse_refine(c.refine).parts().front();
    const auto* plain = std::get_if<AdmmOptions>(&part);
    const cuda::DeviceAdmmOptions options = plain != nullptr
                                                ? cuda::DeviceAdmmOptions(*plain)
                                                : cuda::DeviceAdmmOptions(std::get<AlignedAdmmOptions>(part));
    const auto dx = upload_as(x, DType::kF32);
    const auto ddx = upload_as(dense_x, DType::kF32);
    const auto dr = upload_as(residual, DType::kF32);
    const auto ddr = upload_as(dense_residual, DType::kF32);
    const cuda::StatisticsScratch scratch(*memory_, DType::kF32, kTokens, kInputs, kInputs, kOutputs);
    cuda::Moments moments;
    moments.gram = poisoned(kInputs * kInputs * 4);
    moments.cross = poisoned(kInputs * kInputs * 4);
    moments.residual = poisoned(kOutputs * kInputs * 4);
    cuda::DeviceStats stats(*memory_, kInputs, *stream_);
    stats.start(kInputs, {.energy = true, .gram = true, .alignment = options.aligned}, moments, kOutputs);
    cuda::AlignedRows rows;
    rows.x = view_of(dx.data(), DType::kF32, kTokens, kInputs);
    rows.dense_x = view_of(ddx.data(), DType::kF32, kTokens, kInputs);
    rows.residual = view_of(dr.data(), DType::kF32, kTokens, kOutputs);
    rows.dense_residual = view_of(ddr.data(), DType::kF32, kTokens, kOutputs);
    stats.add_aligned(*products_, scratch, rows, kTokens);
    stats.finish("x");
    cuda::MatrixSelect matrix(*memory_, *stream_);
    cuda::DeviceAdmm admm(*memory_, *products_, matrix, kOutputs, kInputs, kOutputs * kInputs, *stream_);
    admm.prepare(stats, options, moments.cross.as<float>(), "w");
    const auto w = upload_as(weight, dtype);
    const auto out = poisoned(weight.numel() * size_of(dtype));
    const cuda::DeviceBuffer count(*memory_, sizeof(cuda::PruneCounters), "test");
    cuda::check(cudaMemsetAsync(count.data(), 0, count.bytes(), *stream_));
    const auto dense = view_of(w.data(), dtype, kOutputs, kInputs);
    const auto refined = view_of(out.data(), dtype, kOutputs, kInputs);
    for (std::int64_t first = 0; first < kOutputs; first += rows_at_once) {
      const std::int64_t in_hand = std::min(rows_at_once, kOutputs - first);
      admm.refine(dense.row_block(first, in_hand), target, refined.row_block(first, in_hand),
                  count.as<cuda::PruneCounters>(), first);
    }
    counters = download<cuda::PruneCounters>(count).front();
    return download_as(out, dtype, kOutputs, kInputs);
  }
  std::unique_ptr<cuda::Products> products_;
};

TEST_F(CudaRefinementTest, AgreesWithTheCpu) {
  const Pattern row;
  const Pattern two_of_four{Pattern::Kind::kNofM, 2, 4};
  const Pattern layer{Pattern::Kind::kLayer};
  const Pattern block = parse_pattern("block:8x4");
  const auto cpu = make_cpu_backend();
  const Matrix x = inputs(1);
  Matrix dense_x = inputs(1);
  const Matrix noise = random_matrix(kTokens, kInputs, 7, 0.3f);
  for (std::int64_t i = 0; i < dense_x.numel(); ++i) dense_x.data()[i] += noise.data()[i];
  const Matrix residual = random_matrix(kTokens, kOutputs, 8);
  const Matrix dense_residual = random_matrix(kTokens, kOutputs, 9);
  for (const Case& c :
       {Case{"admm(20,15)", row, 0.5}, Case{"admm(10,8)", row, 0.7}, Case{"admm(20,15)", two_of_four, 0.0},
        Case{"admm(10,8)", layer, 0.6}, Case{"admm(10,8)", block, 0.5}, Case{"aligned-admm(20,15)", row, 0.5},
        Case{"aligned-admm(20,15)", two_of_four, 0.0}, Case{"admm(20,15)", row, 0.5, 40},
        Case{"aligned-admm(20,15)", row, 0.5, 40}, Case{"aligned-admm(20,15)", two_of_four, 0.0, 40}}) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      const Matrix weight = test::rounded(random_matrix(kOutputs, kInputs, 3, 0.05f), dtype);
      PruneTarget target;
      target.pattern = c.pattern;
      target.sparsity = c.sparsity;
      target.tensor = "w";
      target.rounding = PruneTarget::Rounding::kFloor;
      const auto refiner = make_refiner(c.refine);
      Matrix gram = Matrix::zeros(kInputs, kInputs);
      cpu->add_gram(x.view(), gram.view());
      Backend::symmetrize(gram.view());
      Matrix cross(kInputs, kInputs);
      Matrix moved(kOutputs, kInputs);
      for (std::int64_t i = 0; i < kInputs; ++i) {
        for (std::int64_t j = 0; j < kInputs; ++j) {
          double sum = 0.0;
          for (std::int64_t t = 0; t < kTokens; ++t) sum += double{dense_x.at(t, i)} * double{x.at(t, j)};
          cross.at(i, j) = static_cast<float>(sum);
        }
      }
      for (std::int64_t i = 0; i < kOutputs; ++i) {
        for (std::int64_t j = 0; j < kInputs; ++j) {
          double sum = 0.0;
          for (std::int64_t t = 0; t < kTokens; ++t) {
            sum += double{dense_residual.at(t, i) - residual.at(t, i)} * double{x.at(t, j)};
          }
          moved.at(i, j) = static_cast<float>(sum);
        }
      }
      LayerStats stats;
      stats.num_tokens = kTokens;
      stats.gram = &gram;
      std::vector<double> energy(static_cast<std::size_t>(kInputs));
      for (std::size_t j = 0; j < energy.size(); ++j) {
        energy[j] = gram.at(static_cast<std::int64_t>(j), static_cast<std::int64_t>(j));
      }
      stats.energy = energy;
      if (refiner->uses_alignment()) {
        stats.cross = &cross;
        stats.residual = &moved;
      }
      RefineTask task;
      task.weight = weight.view();
      task.target = target;
      const Refinement expected = refiner->refine(task, *refiner->prepare(stats, *cpu, "w"), *cpu);
      cuda::PruneCounters counters{};
      const Matrix found =
          refine(c, weight, dtype, x, dense_x, residual, dense_residual, target, c.rows_at_once, counters);

      std::int64_t same = 0;
      std::int64_t zeros = 0;
      for (std::int64_t i = 0; i < found.numel(); ++i) {
        same += (found.data()[i] != 0.0f) == (expected.weight.data()[i] != 0.0f) ? 1 : 0;
        zeros += found.data()[i] == 0.0f ? 1 : 0;
      }
      const std::string what = fmt::format("{} at {}, {}, {} rows at once", c.refine, format(c.pattern),
                                           name_of(dtype), c.rows_at_once);
      const Pattern& p = target.pattern;
      const std::int64_t unit = p.kind == Pattern::Kind::kBlock ? p.block_rows * p.block_cols : 1;
      EXPECT_EQ(zeros, unit * total_prune_count(target, kOutputs, kInputs)) << what;
      unsigned long long counted = 0;
      for (const auto value : counters.zeros) counted += value;
      EXPECT_EQ(counted, static_cast<unsigned long long>(zeros)) << what;
      EXPECT_EQ(counters.not_finite, 0u);
      const double agreement = static_cast<double>(same) / static_cast<double>(found.numel());
      EXPECT_GE(agreement, dtype == DType::kF16 ? 0.985 : 0.99)
          << what;  // weights near the threshold, after twenty steps of other roundings
      // What the mask's few differences cost, measured where it counts: in the outputs.
      Matrix y(kTokens, kOutputs);
      Matrix z(kTokens, kOutputs);
      cpu->matmul_transposed(x.view(), found.view(), 1.0f, 0.0f, y.view());
      cpu->matmul_transposed(x.view(), expected.weight.view(), 1.0f, 0.0f, z.view());
      EXPECT_LE(test::relative_error(y.view(), z.view()), 0.03) << what;
    }
  }
}

}  // namespace
}  // namespace swiftprune
