// Which device the program takes, with and without a GPU.
#include <gtest/gtest.h>

#include "support/devices.h"
#include "support/expect_error.h"

namespace swiftprune {
namespace {

using test::expect_error;

TEST(OpenDeviceTest, TheCpuIsAlwaysThere) {
  const auto device = open_device("cpu");
  EXPECT_EQ(device->kind(), DeviceKind::kCpu);
  EXPECT_EQ(device->name(), "cpu");
  EXPECT_EQ(device->index(), 0);
  EXPECT_EQ(device->host().name(), "cpu");
  EXPECT_EQ(device->memory_limit(), 0u);
}

TEST(OpenDeviceTest, UnknownNamesAreUsageErrors) {
  for (const char* name : {"gpu", "", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:0x", "cuda:-1", "cudax",
                           "cuda:99999999999999999999"}) {
    expect_error(
        ErrorKind::kUsage, [&] { open_device(name); }, "--device", "expected cpu, cuda, cuda:N or auto");
  }
}

TEST(OpenDeviceTest, AMissingGpuIsADeviceErrorWithAHint) {
  // More GPUs than any machine has.
  expect_error(
      ErrorKind::kDevice, [] { open_device("cuda:4711"); }, "--device: found cuda:4711, but ",
      "use --device cpu");
}

TEST(OpenDeviceTest, AutoIsTheGpuThatNamesItself) {
  const auto device = open_device("auto", {.memory_bytes = 1'000'000'000});
  if (device->kind() == DeviceKind::kCpu) {
    expect_error(
        ErrorKind::kDevice, [] { open_device("cuda"); }, "--device: found cuda, but ");
  }
  if (!test::have_gpu()) return;
  EXPECT_EQ(device->name(), open_device("cuda:0")->name());
  EXPECT_EQ(device->memory_limit(), 1'000'000'000u);
  EXPECT_EQ(device->default_compute(), ComputeType::kBF16);
}

}  // namespace
}  // namespace swiftprune
