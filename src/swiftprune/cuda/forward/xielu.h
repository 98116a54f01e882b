// xIELU on the device (model/xielu.h), of plain MLPs: beside activate() and mlp_effects() in cuda/forward/block_kernels.h.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "swiftprune/model/xielu.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune::cuda {

// y = xIELU(x) of n numbers
void xielu(const XieluNumbers& numbers, const void* x, std::int64_t n, void* y, DType dtype,
           cudaStream_t stream);
// mlp_effects() of x [tokens, cols]
void xielu_effects(const XieluNumbers& numbers, const void* x, DType dtype, std::int64_t tokens,
                   std::int64_t cols, double* gate, double* up, cudaStream_t stream);

}  // namespace swiftprune::cuda
