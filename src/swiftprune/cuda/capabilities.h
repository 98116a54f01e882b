// What the GPU path has (pipeline/capabilities.h). Compiled into every program, so that a plan can be
// checked, and the table tested, where there is no GPU and no CUDA.
#pragma once

#include "swiftprune/cuda/device.h"
#include "swiftprune/pipeline/capabilities.h"

namespace swiftprune::cuda {

const Capabilities& capabilities();
// Of the device that was chosen: the processor has everything.
const Capabilities& capabilities_of(const DeviceChoice& choice);

}  // namespace swiftprune::cuda
