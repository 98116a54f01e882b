// What a case needs and a machine may lack. Without it the case is skipped, which ctest shows; where the
// environment says that it must be there, the case fails instead, so that a machine that is meant to test
// everything cannot pass by testing nothing.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "swiftprune/core/error.h"
#include "swiftprune/device/device.h"

namespace swiftprune::test {

// In SetUp() or a test's body: `if (!have(...)) return;`. why_not: empty when it is there.
inline bool have(const std::string& why_not, const char* required_by) {
  if (why_not.empty()) return true;
  const char* required = std::getenv(required_by);
  if (required != nullptr && std::string(required) != "0") {
    [&] { FAIL() << required_by << "=" << required << ", but: " << why_not; }();
  } else {
    [&] { GTEST_SKIP() << why_not; }();
  }
  return false;
}

inline bool have_gpu() {
  std::string why_not;
  try {
    open_device("cuda");
  } catch (const Error& error) {
    why_not = error.what();
  }
  return have(why_not, "SWIFTPRUNE_REQUIRE_CUDA");
}

// The folder of real models and tokenizers that SWIFTPRUNE_SHARED names.
inline std::optional<std::filesystem::path> shared_folder() {
  const char* folder = std::getenv("SWIFTPRUNE_SHARED");
  if (!have(folder == nullptr ? "SWIFTPRUNE_SHARED is not set" : "", "SWIFTPRUNE_REQUIRE_SHARED")) return {};
  return folder;
}

}  // namespace swiftprune::test
