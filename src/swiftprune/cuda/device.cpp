#include "swiftprune/cuda/device.h"

#include <charconv>

#include "swiftprune/core/error.h"
#include "swiftprune/cuda/runtime/runtime.h"

namespace swiftprune::cuda {
namespace {

constexpr int kOldestMajor = 8;  // bf16 products

// Empty when GPU `index` can be used, else why not.
std::string why_not(int index) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) {
    return fmt::format("the driver is missing or older than this program needs ({})",
                       cudaGetErrorString(status));
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) return "no GPU was found";
  if (status != cudaSuccess) return cudaGetErrorString(status);
  if (index >= count) return fmt::format("there are {} GPUs, numbered from 0", count);
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  if (major < kOldestMajor) {
    return fmt::format("its compute capability is {}.x, expected {}.0 or more", major, kOldestMajor);
  }
  return {};
}

}  // namespace

DeviceChoice choose_device(std::string_view text) {
  if (text == "cpu") return {};
  if (text == "auto") return {.use_cuda = why_not(0).empty()};
  DeviceChoice choice{.use_cuda = true};
  if (text != "cuda") {
    constexpr std::string_view kPrefix = "cuda:";
    const char* end = text.data() + text.size();
    const bool named = text.starts_with(kPrefix);
    const auto [stop, error] =
        std::from_chars(text.data() + (named ? kPrefix.size() : text.size()), end, choice.index);
    if (!named || error != std::errc() || stop != end || choice.index < 0) {
      bad_usage("--device: found '{}', expected cpu, cuda, cuda:N or auto", text);
    }
  }
  const std::string why = why_not(choice.index);
  if (!why.empty()) {
    fail(ErrorKind::kDevice, "--device: found {}, but {}; use --device cpu", text, why);
  }
  return choice;
}

std::string device_name(const DeviceChoice& choice) {
  if (!choice.use_cuda) return "cpu";
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, choice.index));
  return properties.name;
}

}  // namespace swiftprune::cuda
