// What libswiftprune_cuda.so exports for device/cuda_library.cpp.
#include "swiftprune/cuda/device.h"

#include <cuda_runtime_api.h>

#include <type_traits>

#include "swiftprune/core/own_library.h"
#include "swiftprune/cuda/ranks/nccl_ranks.h"
#include "swiftprune/cuda/sparse/packed_product.h"
#include "swiftprune/device/cuda_library.h"

extern "C" const char* swiftprune_cuda_version() { return SWIFTPRUNE_VERSION; }

extern "C" void swiftprune_cuda_runtime_versions(int& runtime, int& driver) {
  runtime = driver = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
}

extern "C" swiftprune::Device* swiftprune_make_cuda_device(int index,
                                                           const swiftprune::DeviceOptions& options,
                                                           std::string& why_not) {
  return swiftprune::cuda::make_device(index, options, why_not).release();
}

extern "C" void swiftprune_make_nccl_id(std::string& id) { id = swiftprune::cuda::make_nccl_id(); }

extern "C" swiftprune::Communicator* swiftprune_join_nccl(const swiftprune::NcclRank& rank) {
  return swiftprune::cuda::join_nccl(rank).release();
}

extern "C" swiftprune::PackedProduct* swiftprune_make_packed_product(const swiftprune::PackedTensor& weight,
                                                                     int index,
                                                                     swiftprune::DType grid_dtype) {
  return swiftprune::cuda::make_packed_product(weight, index, grid_dtype).release();
}

// All are what device/cuda_library.h, device/nccl_ranks.h and device/packed_product.h say.
static_assert(std::is_same_v<decltype(&swiftprune_cuda_version), swiftprune::OwnVersionFn>);
static_assert(std::is_same_v<decltype(&swiftprune_cuda_runtime_versions), swiftprune::CudaRuntimeVersionsFn>);
static_assert(std::is_same_v<decltype(&swiftprune_make_cuda_device), swiftprune::MakeCudaDeviceFn>);
static_assert(std::is_same_v<decltype(&swiftprune_make_nccl_id), swiftprune::MakeNcclIdFn>);
static_assert(std::is_same_v<decltype(&swiftprune_join_nccl), swiftprune::JoinNcclFn>);
static_assert(std::is_same_v<decltype(&swiftprune_make_packed_product), swiftprune::MakePackedProductFn>);
