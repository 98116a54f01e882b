#include "swiftprune/backend/cpu/kernels.h"
#include "swiftprune/backend/cpu/kernels.inc"

namespace swiftprune::cpu {

const Kernels kAvx512Kernels = SWIFTPRUNE_KERNEL_TABLE("avx512");

}  // namespace swiftprune::cpu
