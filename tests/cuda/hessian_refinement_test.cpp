// pcg, swaps, sparsegpt and chains on the GPU against the CPU's: the same masks but for near ties, outputs
// that agree, and never a larger error than where they began.
#include <cmath>

#include "cuda/gpu.h"
#include "support/expect_error.h"
#include "support/spec_text.h"
#include "swiftprune/cuda/refinement/refiner.h"
#include "swiftprune/refinement/layer_error.h"
#include "swiftprune/refinement/refiner.h"
#include "swiftprune/selection/selector.h"

namespace swiftprune {
namespace {

using cuda::view_of;
using testing::random_matrix;

constexpr std::int64_t kTokens = 700;

struct Case {
  const char* refine;
  const char* pattern;
  double sparsity;
  double agreement;  // of the masks
  const char* grid = nullptr;
  double most_error = 1.02;  // of the processor's
};

class CudaHessianRefinementTest : public test::GpuTest {
 protected:
  // Correlated inputs of different sizes; one is dead.
  static Matrix inputs(std::int64_t count) {
    const auto reference = make_reference_backend();
    const Matrix base = random_matrix(kTokens, 40, 1);
    const Matrix mix = random_matrix(40, count, 99);
    Matrix x = random_matrix(kTokens, count, 2, 0.5f);
    reference->matmul(base.view(), mix.view(), 0.2f, 1.0f, x.view());
    for (std::int64_t t = 0; t < kTokens; ++t) {
      for (std::int64_t j = 0; j < count; ++j)
        x.at(t, j) *= j == 9 ? 0.0f : 0.1f + static_cast<float>(j % 17);
    }
    return x;
  }

  void run(const Case& c, std::int64_t outputs, std::int64_t count, DType dtype) {
    const std::string what = fmt::format("{} at {} {}, [{}, {}], {} {}", c.refine, c.pattern, c.sparsity,
                                         outputs, count, name_of(dtype), c.grid != nullptr ? c.grid : "");
    const auto cpu = make_cpu_backend();
    const Matrix x = inputs(count);
    const Matrix weight = test::rounded(random_matrix(outputs, count, 3, 0.05f), dtype);
    Plan plan;
    PlanEntry entry;
    entry.tensor = "w";
    entry.rows = outputs;
    entry.cols = count;
    entry.pattern = parse_pattern(c.pattern);
    entry.sparsity = c.sparsity;
    entry.score = parse_score("magnitude");
    entry.refine = parse_refine(c.refine);
    if (c.grid != nullptr) entry.grid = parse_grid(c.grid, "test");
    plan.entries.push_back(entry);
    const PruneTarget target = entry.target(PruneTarget::Rounding::kFloor);

    // The CPU's.
    const auto refiner = make_refiner(c.refine);
    Matrix gram = Matrix::zeros(count, count);
    cpu->add_gram(x.view(), gram.view());
    Backend::symmetrize(gram.view());
    std::vector<double> energy;
    for (std::int64_t j = 0; j < count; ++j) energy.push_back(double{gram.at(j, j)});
    LayerStats stats;
    stats.num_tokens = kTokens;
    stats.gram = &gram;
    stats.energy = energy;
    const Mask mask = make_selector(kDefaultSelector)->select(plain_scores(weight.view()), target).mask;
    RefineTask task;
    task.weight = weight.view();
    task.target = target;
    task.mask = refiner->uses_mask() ? &mask : nullptr;
    task.grid = entry.grid;
    const bool on_grid = entry.grid.has_value();
    const Refinement expected =
        refiner->refine(task, *refiner->prepare(stats, *cpu, "w", {.grid = on_grid}), *cpu);

    // The GPU's.
    cuda::Products products(*memory_, *stream_);
    cuda::MatrixSelect matrix(*memory_, *stream_);
    const cuda::LinearSizes sizes{outputs, count, outputs * count};
    cuda::DeviceRefiner device(*memory_, products, matrix, plan, sizes, DType::kF32, *stream_);
    const auto dx = upload_as(x, DType::kF32);
    const cuda::StatisticsScratch scratch(*memory_, DType::kF32, kTokens, count, 0, 0);
    cuda::Moments moments;
    moments.gram = poisoned(count * count * 4);
    cuda::DeviceStats device_stats(*memory_, count, *stream_);
    device_stats.start(count, {.energy = true, .gram = true}, moments, 0);
    const auto rows = view_of(dx.data(), DType::kF32, kTokens, count);
    device_stats.add_window(products, scratch, rows);
    device_stats.finish("x");
    device.prepare(entry.refine, &device_stats, nullptr, "w");
    const auto w = upload_as(weight, dtype);
    std::vector<std::uint8_t> kept;
    for (std::int64_t r = 0; r < outputs; ++r) {
      for (std::int64_t j = 0; j < count; ++j) kept.push_back(mask.kept(r, j) ? 1 : 0);
    }
    const auto device_mask = upload(std::span<const std::uint8_t>(kept));
    const auto out = poisoned(weight.numel() * size_of(dtype));
    const cuda::DeviceBuffer counters(*memory_, sizeof(cuda::PruneCounters), "test");
    cuda::check(cudaMemsetAsync(counters.data(), 0, counters.bytes(), *stream_));
    const auto dense = view_of(w.data(), dtype, outputs, count);
    const auto refined = view_of(out.data(), dtype, outputs, count);
    QuantizedWeight codes;
    if (on_grid) {
      codes = device.refine_on_grid(dense, device_mask.as<std::uint8_t>(), target, *entry.grid, refined,
                                    counters.as<cuda::PruneCounters>());
    } else {
      device.refine(dense, device_mask.as<std::uint8_t>(), target, refined,
                    counters.as<cuda::PruneCounters>());
    }
    const Matrix found = download_as(out, dtype, outputs, count);
    if (on_grid) expect_same_values(codes, found, dtype, what);
    const auto told = download<cuda::PruneCounters>(counters).front();
    EXPECT_EQ(told.not_finite, 0u) << what;
    EXPECT_EQ(device.keeps_weights(), refiner->keeps_weights()) << what;

    std::int64_t same = 0;
    std::int64_t zeros = 0;
    for (std::int64_t i = 0; i < found.numel(); ++i) {
      same += (found.data()[i] != 0.0f) == (expected.weight.data()[i] != 0.0f) ? 1 : 0;
      zeros += found.data()[i] == 0.0f ? 1 : 0;
      if (refiner->keeps_weights() && found.data()[i] != 0.0f) {
        EXPECT_EQ(found.data()[i], weight.data()[i]);
      }
    }
    unsigned long long counted = 0;
    for (const auto value : told.zeros) counted += value;
    EXPECT_EQ(counted, static_cast<unsigned long long>(zeros)) << what;
    EXPECT_GE(zeros, total_prune_count(target, outputs, count)) << what;
    if (!on_grid) {  // whose values may be zero of themselves
      EXPECT_LE(static_cast<double>(zeros),
                static_cast<double>(total_prune_count(target, outputs, count) + outputs) + 1.0)
          << what;
    }
    EXPECT_GE(static_cast<double>(same), c.agreement * static_cast<double>(found.numel())) << what;
    // The error of the outputs, which is what all of them lower.
    const auto error = [&](const Matrix& b) {
      Matrix change(outputs, count);
      for (std::int64_t i = 0; i < change.numel(); ++i) change.data()[i] = weight.data()[i] - b.data()[i];
      return layer_error(change.view(), gram.view(), *cpu);
    };
    EXPECT_LE(error(found), c.most_error * error(expected.weight)) << what;
    EXPECT_GE(error(found), 0.9 * error(expected.weight)) << what;
  }

  // The codes are what the weights were rounded from.
  static void expect_same_values(const QuantizedWeight& codes, const Matrix& found, DType dtype,
                                 const std::string& what) {
    const Matrix exact = test::rounded(dequantize(codes), dtype);
    ASSERT_EQ(exact.numel(), found.numel());
    for (std::int64_t i = 0; i < found.numel(); ++i)
      ASSERT_EQ(exact.data()[i], found.data()[i]) << what << ", element " << i;
    for (const std::uint8_t code : codes.codes) ASSERT_LT(code, codes.grid.num_codes()) << what;
  }
};

TEST_F(CudaHessianRefinementTest, AgreesWithTheCpu) {
  for (const Case& c : {Case{"pcg(20)", "row", 0.5, 1.0}, Case{"pcg(7,0.1)", "2:4", 0.0, 1.0},
                        Case{"pcg(20)", "layer", 0.7, 1.0}, Case{"swaps(50)", "row", 0.5, 0.99},
                        Case{"swaps(1)", "row", 0.7, 0.999}, Case{"swaps(30)", "2:4", 0.0, 0.99},
                        Case{"swaps(30)", "3:8", 0.0, 0.99}, Case{"sparsegpt", "row", 0.5, 0.97},
                        Case{"sparsegpt(0.1)", "layer", 0.7, 0.97}, Case{"sparsegpt", "2:4", 0.0, 0.97},
                        Case{"sparsegpt", "5:16", 0.0, 0.97}, Case{"admm(20)+pcg(20)", "row", 0.6, 0.98},
                        Case{"sparsegpt+swaps(20)+pcg(5)", "row", 0.5, 0.95}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) run(c, 96, 320, dtype);
  }
}

// Grids of few bits: values of codes, the pattern kept, and an error beside the processor's.
TEST_F(CudaHessianRefinementTest, GridsAgreeWithTheCpu) {
  for (const Case& c : {Case{"rtn", "row", 0.0, 1.0, "int4(64)", 1.0001},
                        Case{"rtn", "row", 0.5, 1.0, "int3(row,asymmetric)", 1.0001},
                        Case{"gptq", "row", 0.0, 0.99, "int4(64)", 1.03},
                        Case{"gptq", "row", 0.5, 0.99, "int4(32,asymmetric)", 1.03},
                        Case{"gptq", "2:4", 0.0, 0.99, "int4(row)", 1.03},
                        Case{"gptq(0.01,1)", "row", 0.0, 0.99, "int3(64)", 1.03},
                        Case{"admm(20,15)", "row", 0.5, 0.9, "int4(64)", 1.04},
                        Case{"admm(20,15)", "row", 0.0, 0.9, "int3(32,asymmetric)", 1.04},
                        Case{"admm(20,15)", "2:4", 0.0, 0.9, "int4(row)", 1.04},
                        Case{"admm(20,15)+rtn", "row", 0.5, 0.97, "int8(64)", 1.02},
                        Case{"admm(20,15)+gptq", "row", 0.5, 0.97, "int4(64)", 1.05}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) run(c, 96, 320, dtype);
  }
}

// Widths that no vector and no block of columns divides; a group across the ends of a warp's columns.
TEST_F(CudaHessianRefinementTest, AnyWidth) {
  for (const char* refine : {"pcg(10)", "swaps(10)", "sparsegpt", "admm(10)+pcg(5)"}) {
    for (const std::int64_t count : {std::int64_t{33}, std::int64_t{129}, std::int64_t{257}})
      run({refine, "row", 0.5, 0.95}, 37, count, DType::kF32);
    run({refine, "1:3", 0.0, 0.95}, 37, 387, DType::kF32);
    run({refine, "6:11", 0.0, 0.95}, 37, 187, DType::kF32);
  }
}

TEST_F(CudaHessianRefinementTest, RowBudgetsAreKept) {
  const std::int64_t outputs = 24;
  const std::int64_t count = 300;
  const Matrix x = inputs(count);
  const Matrix weight = random_matrix(outputs, count, 3, 0.05f);
  Plan plan;
  PlanEntry entry;
  entry.tensor = "w";
  entry.rows = outputs;
  entry.cols = count;
  entry.refine = parse_refine("sparsegpt");
  entry.score = parse_score("magnitude");
  plan.entries.push_back(entry);
  std::vector<std::int64_t> budgets;
  for (std::int64_t r = 0; r < outputs; ++r) budgets.push_back(10 * r);
  PruneTarget target;
  target.row_counts = budgets;
  cuda::Products products(*memory_, *stream_);
  cuda::MatrixSelect matrix(*memory_, *stream_);
  cuda::DeviceRefiner device(*memory_, products, matrix, plan, {outputs, count, outputs * count}, DType::kF32,
                             *stream_);
  const auto dx = upload_as(x, DType::kF32);
  const cuda::StatisticsScratch scratch(*memory_, DType::kF32, kTokens, count, 0, 0);
  cuda::Moments moments;
  moments.gram = poisoned(count * count * 4);
  cuda::DeviceStats stats(*memory_, count, *stream_);
  stats.start(count, {.energy = true, .gram = true}, moments, 0);
  const auto rows = view_of(dx.data(), DType::kF32, kTokens, count);
  stats.add_window(products, scratch, rows);
  stats.finish("x");
  device.prepare(entry.refine, &stats, nullptr, "w");
  const auto w = upload_as(weight, DType::kF32);
  const auto out = poisoned(weight.numel() * 4);
  const cuda::DeviceBuffer counters(*memory_, sizeof(cuda::PruneCounters), "test");
  cuda::check(cudaMemsetAsync(counters.data(), 0, counters.bytes(), *stream_));
  device.refine(view_of(w.data(), DType::kF32, outputs, count), nullptr, target,
                view_of(out.data(), DType::kF32, outputs, count), counters.as<cuda::PruneCounters>());
  const Matrix found = download_as(out, DType::kF32, outputs, count);
  for (std::int64_t r = 0; r < outputs; ++r) {
    std::int64_t zeros = 0;
    for (std::int64_t j = 0; j < count; ++j) zeros += found.at(r, j) == 0.0f ? 1 : 0;
    EXPECT_GE(zeros, budgets[static_cast<std::size_t>(r)]);
    EXPECT_LE(zeros, budgets[static_cast<std::size_t>(r)] + 1);  // the dead input
  }
}

}  // namespace
}  // namespace swiftprune
