// The library with the GPU code: what is not there, no library or of another build is refused by name.
#include "swiftprune/device/cuda_library.h"

#include <cstdlib>

#include <gmock/gmock.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace swiftprune {
namespace {

using test::expect_error;

// Names the library for one test.
class NamedLibrary {
 public:
  explicit NamedLibrary(const std::string& file) { ::setenv("SWIFTPRUNE_CUDA_LIBRARY", file.c_str(), 1); }
  ~NamedLibrary() { ::unsetenv("SWIFTPRUNE_CUDA_LIBRARY"); }
};

TEST(CudaLibrary, IsLookedForBesideTheCodeUnlessItIsNamed) {
  ASSERT_EQ(std::getenv("SWIFTPRUNE_CUDA_LIBRARY"), nullptr) << "these tests name the library themselves";
  EXPECT_EQ(cuda_library_file().filename(), "libswiftprune_cuda.so");
  EXPECT_TRUE(std::filesystem::exists(cuda_library_file().parent_path() / "libswiftprune.so"));
  const NamedLibrary named("/some/where.so");
  EXPECT_EQ(cuda_library_file(), "/some/where.so");
}

TEST(CudaLibrary, AMissingOneIsNamedWithAHint) {
  const NamedLibrary named("/no/libswiftprune_cuda.so");
  std::string why_not;
  EXPECT_EQ(make_cuda_device(0, {}, why_not), nullptr);
  EXPECT_THAT(why_not, ::testing::HasSubstr("/no/libswiftprune_cuda.so"));
  EXPECT_EQ(open_device("auto")->name(), "cpu");
  expect_error(
      ErrorKind::kDevice, [] { open_device("cuda"); },
      {"--device: found cuda, but ", "/no/libswiftprune_cuda.so", "make build PRESET=cuda", "--device cpu"});
}

// What lies where the library should be, and is not it, is an error even when any device would do.
TEST(CudaLibrary, AnotherVersionIsRefused) {
  const NamedLibrary named(OTHER_LIBRARY);
  for (const char* device : {"auto", "cuda"}) {
    expect_error(ErrorKind::kDevice, [&] { open_device(device); },
                 {OTHER_LIBRARY, "found version 0.0.7", "expected " SWIFTPRUNE_VERSION, "--device cpu"});
  }
}

TEST(CudaLibrary, ALibraryOfTheVersionWithoutTheCodeIsRefused) {
  expect_error(
      ErrorKind::kDevice, [] { open_cuda_library(EMPTY_LIBRARY); }, EMPTY_LIBRARY,
      "has no swiftprune_make_cuda_device");
}

TEST(CudaLibrary, WhatIsNoLibraryIsRefused) {
  const test::TempDir folder;
  const std::string file = (folder.path() / "text.so").string();
  test::write_text(file, "this is no ELF file");
  expect_error(ErrorKind::kDevice, [&] { open_cuda_library(file); },
               {file, "cannot be opened", "--device cpu"});
}

}  // namespace
}  // namespace swiftprune
