#include "swiftprune/cuda/ranks/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>

#include "swiftprune/core/error.h"

namespace swiftprune::cuda {

NcclLibrary::NcclLibrary() {
  const char* named = std::getenv("SWIFTPRUNE_NCCL_LIBRARY");
  const std::string file = named != nullptr && *named != '\0' ? named : "libnccl.so.2";
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    fail(ErrorKind::kDevice,
         "several GPUs: NCCL cannot be opened: {}; install it (the package libnccl2, or nvidia-nccl-cu12 or "
         "-cu13 of "
         "PyPI), name its file in SWIFTPRUNE_NCCL_LIBRARY, or use one GPU",
         ::dlerror());
  }
  const auto find = [&](const char* name, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
    if (function == nullptr) {
      fail(ErrorKind::kDevice,
           "several GPUs: {} has no function {}, expected NCCL 2.7 or later; name another in "
           "SWIFTPRUNE_NCCL_LIBRARY, or use one GPU",
           file, name);
    }
  };
  find("ncclGetUniqueId", get_unique_id);
  find("ncclCommInitRank", comm_init_rank);
  find("ncclCommDestroy", comm_destroy);
  find("ncclCommAbort", comm_abort);
  find("ncclCommGetAsyncError", comm_get_async_error);
  find("ncclGetErrorString", get_error_string);
  find("ncclSend", send);
  find("ncclRecv", receive);
  find("ncclBroadcast", broadcast);
  find("ncclAllReduce", all_reduce);
}

const NcclLibrary& NcclLibrary::open() {
  static const NcclLibrary opened;
  return opened;
}

void NcclLibrary::check(int result, const char* what) const {
  if (result == kSuccess || result == kInProgress) return;
  fail(ErrorKind::kDevice, "several GPUs: {} of NCCL failed: {} (NCCL_DEBUG=WARN tells more)", what,
       get_error_string(result));
}

}  // namespace swiftprune::cuda
