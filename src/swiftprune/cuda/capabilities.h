// What the GPU path has (pipeline/capabilities.h). Compiled into every program, so that a plan can be
// checked, and the table tested, where there is no GPU and no CUDA.
#pragma once

#include "swiftprune/pipeline/capabilities.h"

namespace swiftprune::cuda {

const Capabilities& capabilities();
inline constexpr std::int64_t kMaxHeadSize = 512;  // of attention's kernels (kernels.h)

}  // namespace swiftprune::cuda
