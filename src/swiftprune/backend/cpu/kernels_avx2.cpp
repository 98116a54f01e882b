#include "swiftprune/backend/cpu/kernels.h"
#include "swiftprune/backend/cpu/kernels.inc"

namespace swiftprune::cpu {

const Kernels kAvx2Kernels = SWIFTPRUNE_KERNEL_TABLE("avx2");

}  // namespace swiftprune::cpu
