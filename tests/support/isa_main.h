// main() of tests that run once for each instruction set (SWIFTPRUNE_ISA): exit code 77 says that this
// processor lacks the one that was asked for.
#pragma once

#include <cstdio>
#include <exception>

#include <gtest/gtest.h>

#include "swiftprune/core/cpu_features.h"

namespace swiftprune::testing {

inline int run_tests_on_isa(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  try {
    std::printf("instruction set: %s\n", isa_name().c_str());
  } catch (const std::exception& error) {
    std::printf("skipped: %s\n", error.what());
    return 77;
  }
  return RUN_ALL_TESTS();
}

}  // namespace swiftprune::testing
