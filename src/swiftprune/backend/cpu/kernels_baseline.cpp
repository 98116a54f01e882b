#include "swiftprune/backend/cpu/kernels.h"
#include "swiftprune/backend/cpu/kernels.inc"

namespace swiftprune::cpu {

const Kernels kBaselineKernels = SWIFTPRUNE_KERNEL_TABLE("baseline");

}  // namespace swiftprune::cpu
