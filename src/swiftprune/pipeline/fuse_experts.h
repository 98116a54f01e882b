// Dense folders of families whose code reads all experts of a block from one tensor (gpt-oss): from experts with
// tensors of their own, as unpacking leaves them, and from MXFP4, which becomes the BF16 numbers that it stands for.
#pragma once

#include <filesystem>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/core/progress.h"

namespace swiftprune {

// Does its family want that, and does it hold its experts in another form?
bool can_fuse_experts(const Checkpoint& source);
// The same model with {prefix}gate_up_proj [E, hidden, 2I] (gate and up in turn) and {prefix}down_proj [E, I, hidden];
// config.json without the quantization_config of MXFP4. Everything else as it was.
void fuse_experts(const Checkpoint& source, const std::filesystem::path& target, const ProgressFn& progress);

}  // namespace swiftprune
