// GPU code lies in a library of its own, libswiftprune_cuda.so, which is opened when a GPU is first asked for:
// one program serves machines with and without a GPU, and a build without CUDA lacks that file alone.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "swiftprune/device/device.h"

namespace swiftprune {

// C functions that the library exports (cuda/library.cpp), as core/own_library.h wants them.
inline constexpr const char* kCudaVersionSymbol = "swiftprune_cuda_version";
inline constexpr const char* kCudaDeviceSymbol = "swiftprune_make_cuda_device";
inline constexpr const char* kCudaRuntimeVersionsSymbol = "swiftprune_cuda_runtime_versions";
// As CUDA numbers them, 12080 is 12.8; 0 where there is no driver.
using CudaRuntimeVersionsFn = void (*)(int& runtime, int& driver);
// GPU `index`, owned by the caller; null when it cannot be used, and then why_not says why.
using MakeCudaDeviceFn = Device* (*)(int index, const DeviceOptions& options, std::string& why_not);

// Where the library is looked for: SWIFTPRUNE_CUDA_LIBRARY names the file, else it lies beside
// libswiftprune.so.
std::filesystem::path cuda_library_file();
// Opens the file, for good. Throws Error{kDevice} naming it when it is no library, or not this build's.
MakeCudaDeviceFn open_cuda_library(const std::filesystem::path& file);

// One of its functions, the program's own where it is linked in (tests, benchmarks). Null when the library is not there,
// and then why_not says so; one that is there and cannot be used is an error, as in open_cuda_library().
void* cuda_symbol(const char* name, std::string& why_not);

// A GPU by the library's code, or by the program's own where it is linked in (tests, benchmarks). Null when
// the library is not there or the GPU cannot be used, and then why_not says why; a library that is there and
// cannot be used is an error, as in open_cuda_library().
std::unique_ptr<Device> make_cuda_device(int index, const DeviceOptions& options, std::string& why_not);

// "12.8, driver 13.0", "12.8, no driver"; "" where there is no GPU code.
std::string cuda_runtime_version();

}  // namespace swiftprune
