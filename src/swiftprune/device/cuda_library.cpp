#include "swiftprune/device/cuda_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string_view>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

constexpr const char* kFileName = "libswiftprune_cuda.so";
constexpr const char* kVariable = "SWIFTPRUNE_CUDA_LIBRARY";

template <class Function>
Function symbol_of(void* library, const fs::path& file, const char* name) {
  void* symbol = ::dlsym(library, name);
  if (symbol == nullptr) {
    fail(ErrorKind::kDevice, "--device: {} has no {}, so it is not swiftprune's GPU code; use --device cpu",
         file.string(), name);
  }
  return reinterpret_cast<Function>(symbol);
}

}  // namespace

fs::path cuda_library_file() {
  const char* named = std::getenv(kVariable);
  if (named != nullptr && *named != '\0') return named;
  Dl_info here{};
  const bool known = ::dladdr(reinterpret_cast<void*>(&cuda_library_file), &here) != 0;
  expect(known && here.dli_fname != nullptr, "code that knows its own file");
  return fs::path(here.dli_fname).parent_path() / kFileName;
}

MakeCudaDeviceFn open_cuda_library(const fs::path& file) {
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    fail(ErrorKind::kDevice, "--device: GPU code cannot be opened: {}; use --device cpu", ::dlerror());
  }
  const std::string_view version = symbol_of<CudaVersionFn>(library, file, kCudaVersionSymbol)();
  if (version != SWIFTPRUNE_VERSION) {
    fail(ErrorKind::kDevice,
         "--device: {}: found version {}, expected {}; take it from the program's build, or use --device cpu",
         file.string(), version, SWIFTPRUNE_VERSION);
  }
  return symbol_of<MakeCudaDeviceFn>(library, file, kCudaDeviceSymbol);
}

std::unique_ptr<Device> make_cuda_device(int index, const DeviceOptions& options, std::string& why_not) {
  static const auto own = reinterpret_cast<MakeCudaDeviceFn>(::dlsym(RTLD_DEFAULT, kCudaDeviceSymbol));
  if (own != nullptr) return std::unique_ptr<Device>(own(index, options, why_not));
  const fs::path file = cuda_library_file();
  std::error_code ignored;
  if (!fs::exists(file, ignored)) {
    why_not = fmt::format("its GPU code, {}, is not there (`make build PRESET=cuda` builds it, {} names it)",
                          file.string(), kVariable);
    return nullptr;
  }
  static const MakeCudaDeviceFn make_device = open_cuda_library(file);
  return std::unique_ptr<Device>(make_device(index, options, why_not));
}

}  // namespace swiftprune
