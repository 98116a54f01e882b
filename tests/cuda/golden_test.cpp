// The pipeline's bytes on a GPU. They depend on the GPU and on its libraries, so each kind that they were
// written on has a file of its own: tests/data/golden/<name of the GPU>.txt.
#include "pipeline/golden.h"

#include <algorithm>
#include <fstream>
#include <set>

#include "support/gpu_models.h"
#include "support/require.h"
#include "swiftprune/cuda/stages.h"

namespace swiftprune {
namespace {

// Those that the GPU had when its file was written, "family recipe hash" a line; all of them where one is to be written.
std::vector<std::string> families_in(const std::filesystem::path& file) {
  std::vector<std::string> families = test::gpu_model_names();
  if (std::getenv("SWIFTPRUNE_WRITE_GOLDEN") != nullptr) return families;
  std::set<std::string> known;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) known.insert(line.substr(0, line.find(' ')));
  std::erase_if(families, [&](const std::string& family) { return !known.contains(family); });
  return families;
}

TEST(CudaGolden, EveryRecipeGivesTheBytesItGave) {
  if (!test::have_gpu()) return;
  std::string name = open_device("cuda")->name();
  std::replace(name.begin(), name.end(), ' ', '_');
  const auto file = std::filesystem::path(SWIFTPRUNE_TEST_DATA "/golden") / (name + ".txt");
  if (std::getenv("SWIFTPRUNE_WRITE_GOLDEN") == nullptr && !std::filesystem::exists(file))
    GTEST_SKIP() << "no hashes of this GPU: " << file;
  test::expect_golden(name, {cuda::prune_shop({}), cuda::shrink_shop({}), cuda::probe_shop({})},
                      families_in(file));
}

}  // namespace
}  // namespace swiftprune
