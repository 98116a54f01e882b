// The pipeline's bytes over plain loops and portable kernels, which are the same on every x86-64 processor.
// ctest runs it with SWIFTPRUNE_ISA=baseline.
#include "pipeline/golden.h"

#include "swiftprune/core/cpu_features.h"

namespace swiftprune {
namespace {

using Golden = ::testing::TestWithParam<std::string>;

TEST_P(Golden, EveryRecipeGivesTheBytesItGave) {
#if !defined(__x86_64__)
  GTEST_SKIP() << "the hashes are those of x86-64";
#endif
  if (isa_name() != "baseline") GTEST_SKIP() << "runs with SWIFTPRUNE_ISA=baseline";
  const auto reference = make_reference_backend();
  test::expect_golden("reference",
                      {cpu_prune_shop(*reference), cpu_shrink_shop(*reference), cpu_probe_shop(*reference)},
                      GetParam());
}

INSTANTIATE_TEST_SUITE_P(Families, Golden, ::testing::ValuesIn(test::model_names()),
                         [](const auto& family) { return family.param; });

}  // namespace
}  // namespace swiftprune
