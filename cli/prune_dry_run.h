// `prune --dry-run`: what would be done to which tensors, and what it would take: measured on the first blocks.
#pragma once

#include <string>

#include "command.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune::cli {

struct PruneDryRun {
  const CommonOptions& common;
  std::string out;
  std::string calibration;    // where the text comes from
  bool writes_text = false;   // the model writes it itself first, which takes time of its own
  bool allocates = false;     // sensitivities are measured first
  bool chooses_bits = false;  // they have been, and the plan has its bits
  bool packs = false;
};

// Random ids in the place of text that is still to be written: as many, so they take as long.
TokenWindows stand_in_windows(const Model& model, std::int64_t count, std::int64_t seqlen);

// Prints the plan and what it would take; with --json
// {"dry_run": true, "plan", "calibration", "estimate": {"seconds", "trial_blocks", "trial_seconds",
// "memory_bytes", "disk_bytes", "free_disk_bytes", and where bits were chosen "bits"}}. Writes no file.
void print_dry_run(const PruneDryRun& run, const Model& model, Device& device, const Plan& plan,
                   const TokenWindows& windows, const PruneOptions& options);

}  // namespace swiftprune::cli
