// The border between the program and its CUDA code: one function, which library.cpp exports.
#pragma once

#include <memory>
#include <string>

#include "swiftprune/device/device.h"

namespace swiftprune::cuda {

// GPU `index`; null when it cannot be used, and then why_not says why ("no GPU was found").
std::unique_ptr<Device> make_device(int index, const DeviceOptions& options, std::string& why_not);

}  // namespace swiftprune::cuda
