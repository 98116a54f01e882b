// What libswiftprune_cuda.so exports for device/cuda_library.cpp.
#include "swiftprune/cuda/device.h"

#include <type_traits>

#include "swiftprune/core/own_library.h"
#include "swiftprune/device/cuda_library.h"

extern "C" const char* swiftprune_cuda_version() { return SWIFTPRUNE_VERSION; }

extern "C" swiftprune::Device* swiftprune_make_cuda_device(int index,
                                                           const swiftprune::DeviceOptions& options,
                                                           std::string& why_not) {
  return swiftprune::cuda::make_device(index, options, why_not).release();
}

// Both are what device/cuda_library.h says.
static_assert(std::is_same_v<decltype(&swiftprune_cuda_version), swiftprune::OwnVersionFn>);
static_assert(std::is_same_v<decltype(&swiftprune_make_cuda_device), swiftprune::MakeCudaDeviceFn>);
