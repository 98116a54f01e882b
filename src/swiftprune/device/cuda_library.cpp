#include "swiftprune/device/cuda_library.h"

#include <dlfcn.h>

#include "swiftprune/core/own_library.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

constexpr OwnLibrary kLibrary{.file_name = "libswiftprune_cuda.so",
                              .variable = "SWIFTPRUNE_CUDA_LIBRARY",
                              .version_symbol = kCudaVersionSymbol,
                              .flag = "--device",
                              .code = "GPU code",
                              .instead = "use --device cpu"};

}  // namespace

fs::path cuda_library_file() { return file_of(kLibrary); }

MakeCudaDeviceFn open_cuda_library(const fs::path& file) {
  void* opened = open_own_library(kLibrary, file);
  return reinterpret_cast<MakeCudaDeviceFn>(symbol_of(opened, kLibrary, file, kCudaDeviceSymbol));
}

void* cuda_symbol(const char* name, std::string& why_not) {
  if (void* own = ::dlsym(RTLD_DEFAULT, name); own != nullptr) return own;
  const fs::path file = cuda_library_file();
  std::error_code ignored;
  if (!fs::exists(file, ignored)) {
    why_not = fmt::format("its GPU code, {}, is not there (`make build PRESET=cuda` builds it, {} names it)",
                          file.string(), kLibrary.variable);
    return nullptr;
  }
  static void* const opened = open_own_library(kLibrary, file);
  return symbol_of(opened, kLibrary, file, name);
}

std::string cuda_runtime_version() {
  std::string why_not;
  const auto versions =
      reinterpret_cast<CudaRuntimeVersionsFn>(cuda_symbol(kCudaRuntimeVersionsSymbol, why_not));
  if (versions == nullptr) return "";
  int runtime = 0, driver = 0;
  versions(runtime, driver);
  const auto text = [](int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); };
  return fmt::format("{}, {}", text(runtime), driver == 0 ? "no driver" : "driver " + text(driver));
}

std::unique_ptr<Device> make_cuda_device(int index, const DeviceOptions& options, std::string& why_not) {
  const auto make_device = reinterpret_cast<MakeCudaDeviceFn>(cuda_symbol(kCudaDeviceSymbol, why_not));
  return make_device == nullptr ? nullptr : std::unique_ptr<Device>(make_device(index, options, why_not));
}

}  // namespace swiftprune
