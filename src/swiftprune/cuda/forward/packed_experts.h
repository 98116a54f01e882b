// The products of a few rows with the packed experts that they chose: what experts_up() and experts_down() of kernels.h
// are for dense ones, with sums in a fixed order.
#pragma once

#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/forward/expert_kernels.h"
#include "swiftprune/cuda/sparse/packed_kernels.h"

namespace swiftprune::cuda {

// args.dtype: BF16 or F16. gate_up: of every expert gate [width, hidden], where there is one, then up; down: [hidden,
// width] of every expert. Both may start before earlier work on the stream is done and then wait for it.
void packed_experts_up(const FewExpertsArgs& args, ActivationKind kind, const void* x,
                       const StackedWeight& gate_up, void* inner, cudaStream_t stream);
void packed_experts_down(const FewExpertsArgs& args, const void* inner, const StackedWeight& down, float* y,
                         cudaStream_t stream);

}  // namespace swiftprune::cuda
