// The fused attention of GPUs with warpgroup products (sm_90a).
#pragma once

#include "swiftprune/cuda/forward/attention_kernels.h"

namespace swiftprune::cuda {

// As attention(); false, with nothing launched, where the device, the program's machine code, the dtype or
// the alignment does not allow it.
bool attention_hopper(const AttentionArgs& args, cudaStream_t stream);

}  // namespace swiftprune::cuda
