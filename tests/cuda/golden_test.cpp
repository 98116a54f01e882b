// The pipeline's bytes on a GPU. They depend on the GPU and on its libraries, so each kind that they were
// written on has a file of its own: tests/data/golden/<name of the GPU>.txt.
#include "pipeline/golden.h"

#include <algorithm>

#include "support/gpu_models.h"
#include "support/require.h"
#include "swiftprune/cuda/stages.h"

namespace swiftprune {
namespace {

using CudaGolden = ::testing::TestWithParam<std::string>;

TEST_P(CudaGolden, EveryRecipeGivesTheBytesItGave) {
  if (!test::have_gpu()) return;
  std::string name = open_device("cuda")->name();
  std::replace(name.begin(), name.end(), ' ', '_');
  // A GPU that is not at hand has no hashes of what came later.
  if (std::getenv("SWIFTPRUNE_WRITE_GOLDEN") == nullptr && test::golden_lines(name, GetParam()).empty())
    GTEST_SKIP() << "no hashes of this family on " << name;
  test::expect_golden(name, {cuda::prune_shop({}), cuda::shrink_shop({}), cuda::probe_shop({})}, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Families, CudaGolden, ::testing::ValuesIn(test::gpu_model_names()),
                         [](const auto& family) { return family.param; });

}  // namespace
}  // namespace swiftprune
