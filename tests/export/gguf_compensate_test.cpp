#include "swiftprune/export/gguf_compensate.h"

#include <vector>

#include <gtest/gtest.h>

#include "support/problem.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/export/gguf_quantize.h"

namespace swiftprune {
namespace {

using testing::make_problem;
using testing::Problem;
using testing::stats_of;

// |X (W - V)ᵀ|² in double.
double output_error(const Matrix& gram, const Matrix& weight, const Matrix& values) {
  double total = 0.0;
  for (std::int64_t r = 0; r < weight.rows(); ++r) {
    for (std::int64_t i = 0; i < weight.cols(); ++i) {
      const double e = double{weight.at(r, i)} - double{values.at(r, i)};
      for (std::int64_t j = 0; j < weight.cols(); ++j) {
        total += e * double{gram.at(i, j)} * (double{weight.at(r, j)} - double{values.at(r, j)});
      }
    }
  }
  return total;
}

struct Rounded {
  Matrix values;
  std::vector<std::byte> blocks;
};

class GgufCompensate : public ::testing::TestWithParam<GgmlType> {
 protected:
  const GgmlTypeTraits& type() const { return *writable_ggml_type(GetParam()); }
  Problem problem(std::int64_t dead = -1) const {
    return make_problem({.outputs = 4, .inputs = 512, .tokens = 600, .dead_input = dead});
  }
  std::size_t num_bytes(const Matrix& weight) const {
    return static_cast<std::size_t>(weight.numel() / type().block_size * type().block_bytes);
  }
  Rounded compensated(const Matrix& weight, const LayerStats& stats, bool keep_zeros = false) const {
    Rounded result{weight.clone(), std::vector<std::byte>(num_bytes(weight))};
    const auto backend = make_cpu_backend();
    CompensationBasis(stats, *backend, "w").quantize(type(), keep_zeros, result.values.view(), result.blocks);
    return result;
  }
  // By each column's energy alone.
  Matrix by_energy(const Problem& of) const {
    std::vector<float> columns;
    for (std::int64_t j = 0; j < of.gram.rows(); ++j) columns.push_back(of.gram.at(j, j));
    std::vector<std::byte> blocks(num_bytes(of.weight));
    quantize(type(), of.weight.values(), blocks, {.columns = columns});
    Matrix values(of.weight.rows(), of.weight.cols());
    dequantize(type(), blocks, values.values());
    return values;
  }
};

INSTANTIATE_TEST_SUITE_P(Types, GgufCompensate,
                         ::testing::Values(GgmlType::kQ2_K, GgmlType::kQ3_K, GgmlType::kQ4_K, GgmlType::kQ6_K,
                                           GgmlType::kQ4_0, GgmlType::kQ5_1),
                         [](const auto& test_info) {
                           return std::string(writable_ggml_type(test_info.param)->name);
                         });

TEST_P(GgufCompensate, OutputsAreNearerThanByEnergiesAlone) {
  const Problem of = problem();
  const Rounded found = compensated(of.weight, stats_of(of));
  EXPECT_LT(output_error(of.gram, of.weight, found.values),
            0.6 * output_error(of.gram, of.weight, by_energy(of)));
  Matrix back(of.weight.rows(), of.weight.cols());
  dequantize(type(), found.blocks, back.values());
  for (std::int64_t k = 0; k < back.numel(); ++k) ASSERT_EQ(back.data()[k], found.values.data()[k]) << k;
}

TEST_P(GgufCompensate, ZerosStay) {
  Problem of = problem();
  for (std::int64_t k = 0; k < of.weight.numel(); ++k) {
    if (k % 2 == 0) of.weight.data()[k] = 0.0f;
  }
  const Rounded found = compensated(of.weight, stats_of(of), true);
  for (std::int64_t k = 0; k < of.weight.numel(); k += 2) ASSERT_EQ(found.values.data()[k], 0.0f) << k;
  const Matrix nothing = Matrix::zeros(of.weight.rows(), of.weight.cols());
  EXPECT_LT(output_error(of.gram, of.weight, found.values), 0.2 * output_error(of.gram, of.weight, nothing));
}

TEST_P(GgufCompensate, DeadInputsAndAnyNumberOfThreads) {
  const Problem of = problem(17);
  Rounded results[2];
  for (const int threads : {1, 2}) {
    RunContext context;
    context.threads = threads;
    const RunScope scope(context);
    results[threads - 1] = compensated(of.weight, stats_of(of));
  }
  EXPECT_EQ(results[0].blocks, results[1].blocks);
  EXPECT_LT(output_error(of.gram, of.weight, results[0].values),
            0.7 * output_error(of.gram, of.weight, by_energy(of)));
}

// The rounded stream's inputs are twice the dense one's: half the weights give the same outputs.
TEST_P(GgufCompensate, MakesUpForInputsThatMoved) {
  const Problem of = problem();
  Matrix gram = of.gram.clone(), cross = of.gram.clone();
  for (float& value : gram.values()) value *= 4.0f;
  for (float& value : cross.values()) value *= 2.0f;
  LayerStats stats = of.stats;
  stats.gram = &gram;
  const auto distance = [&](const Rounded& found) {  // |2X Vᵀ - X Wᵀ|²
    Matrix doubled = found.values.clone();
    for (float& value : doubled.values()) value *= 2.0f;
    return output_error(of.gram, of.weight, doubled);
  };
  const double blind = distance(compensated(of.weight, stats));
  stats.cross = &cross;
  EXPECT_LT(distance(compensated(of.weight, stats)), 0.8 * blind);
}

}  // namespace
}  // namespace swiftprune
