// Programmatic dependent launch: a kernel starts while the one before it on the stream still runs, and waits for it
// where it needs what that one wrote. What the start of a kernel costs, and first reads that depend on nothing (of
// weights), then pass beside the end of the kernel before.
#pragma once

#include <cuda_runtime_api.h>

namespace swiftprune::cuda {

// All that earlier kernels wrote is there. Every kernel that launch_early() starts calls it before it reads or writes
// what another kernel touches: then a kernel is done only when all before it are.
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
// For kernels that have nothing to do before their inputs are there.
__device__ __forceinline__ void start_early() {
  let_next_start();
  wait_for_inputs();
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0;
  int value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);  // an error shows at the launch
  return value;
}

// More must be asked for: 48 KiB, less what kernels declare themselves.
inline constexpr int kUsualSharedBytes = 40 << 10;

// shared: bytes of dynamic shared memory; cluster: blocks of threads of one, 1 where the device has none.
// check_launch() behind it tells of an error.
template <class... Parameters, class... Arguments>
void launch_early_clusters(void (*kernel)(Parameters...), dim3 blocks, int cluster, int threads, int shared,
                           cudaStream_t stream, Arguments... arguments) {
  if (shared > kUsualSharedBytes)
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared);
  config.stream = stream;
  config.attrs = attributes;
  static const bool knows_early = device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9;
  config.numAttrs = !knows_early ? 0 : cluster == 1 ? 1 : 2;
  cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}
template <class... Parameters, class... Arguments>
void launch_early(void (*kernel)(Parameters...), dim3 blocks, int threads, int shared, cudaStream_t stream,
                  Arguments... arguments) {
  launch_early_clusters(kernel, blocks, 1, threads, shared, stream, arguments...);
}

}  // namespace swiftprune::cuda
