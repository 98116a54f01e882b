// Which device the program takes, with and without a GPU.
#include "swiftprune/cuda/device.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/require.h"

namespace swiftprune {
namespace {

using test::expect_error;

TEST(DeviceTest, TheCpuIsAlwaysThere) {
  EXPECT_FALSE(cuda::choose_device("cpu").use_cuda);
  EXPECT_EQ(cuda::device_name(cuda::choose_device("cpu")), "cpu");
}

TEST(DeviceTest, UnknownNamesAreUsageErrors) {
  if (!test::have_gpu()) return;  // names of GPUs are read where there is one
  for (const char* name : {"gpu", "cuda:", "cuda:x", "cuda:0x", "cuda:-1", "cudax"}) {
    expect_error(
        ErrorKind::kUsage, [&] { cuda::choose_device(name); }, "--device");
  }
}

TEST(DeviceTest, AMissingGpuIsADeviceErrorWithAHint) {
  // More GPUs than any machine has.
  expect_error(
      ErrorKind::kDevice, [] { cuda::choose_device("cuda:4711"); }, "--device cpu");
}

TEST(DeviceTest, AnythingElseIsAUsageError) {
  expect_error(
      ErrorKind::kUsage, [] { cuda::choose_device("gpu"); }, "expected cpu, cuda, cuda:N or auto");
}

}  // namespace
}  // namespace swiftprune
