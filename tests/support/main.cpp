// main() of every test program; they run in the project's root, where tests/data is. SWIFTPRUNE_ISA names an
// instruction set to run on (core/cpu_features.h): exit code 77 says that this processor lacks it, which
// ctest shows as skipped.
#include <cstdio>
#include <filesystem>

#include <gmock/gmock.h>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"

int main(int argc, char** argv) {
  if (!std::filesystem::exists(SWIFTPRUNE_TEST_DATA)) std::filesystem::current_path(SWIFTPRUNE_ROOT);
  ::testing::InitGoogleMock(&argc, argv);
  try {
    swiftprune::cpu_features();
  } catch (const swiftprune::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.kind() == swiftprune::ErrorKind::kDevice ? 77 : 1;
  }
  return RUN_ALL_TESTS();
}
