// The devices of this machine, for tests whose body is the same on each: TEST_P over kDeviceNames. Cases of a
// device that is not here skip visibly.
#pragma once

#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "support/require.h"
#include "swiftprune/device/device.h"

namespace swiftprune::test {

inline constexpr const char* kDeviceNames[] = {"cpu", "cuda"};

class EveryDevice : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) == "cuda" && !have_gpu()) return;
    device_ = open_device(GetParam());
  }
  // How far a result may be from the processor's in float: sums have another order on a GPU.
  double tolerance() const { return device_->kind() == DeviceKind::kCpu ? 0.0 : 1e-4; }

  std::unique_ptr<Device> device_;
};

inline std::string device_label(const ::testing::TestParamInfo<const char*>& info) { return info.param; }

}  // namespace swiftprune::test
