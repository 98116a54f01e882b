// `shrink --dry-run`: which sizes the tensors would get, and what it would take: measured on the first blocks.
#pragma once

#include "shrink_flags.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/model.h"
#include "swiftprune/structure/shrink_shape.h"

namespace swiftprune::cli {

// Prints sizes and estimates; with --json {"dry_run": true, "shapes", "tensors", "parameters", "calibration",
// "estimate": {"seconds", "trial_blocks", "trial_seconds", "memory_bytes", "disk_bytes", "free_disk_bytes"}, "not_estimated"},
// of --units experts "experts" in the place of shapes and tensors. Writes no file. Of several shapes, which are chosen among
// by measured loss, the estimate is of the first.
void dry_run(const ShrinkFlags& flags, const PreparedShrink& prepared, const Model& model, Device& device);

}  // namespace swiftprune::cli
