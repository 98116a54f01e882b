// The list of launchers: those of each stage, for device code and for tests.
#pragma once

#include "swiftprune/cuda/forward/attention_kernels.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/forward/expert_kernels.h"
#include "swiftprune/cuda/forward/mixer_kernels.h"
#include "swiftprune/cuda/refinement/refinement_kernels.h"
#include "swiftprune/cuda/runtime/launch.h"
#include "swiftprune/cuda/selection/selection_kernels.h"
#include "swiftprune/cuda/statistics/statistics_kernels.h"
#include "swiftprune/cuda/structure/structure_kernels.h"
