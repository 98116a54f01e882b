// The options of `swiftprune shrink`.
#pragma once

#include <string>

#include "command.h"
#include "model_text.h"
#include "ranks.h"
#include "swiftprune/api/shrink_job.h"

namespace swiftprune::cli {

struct ShrinkFlags {
  CommonOptions common;
  ShrinkJob job;
  std::string compute = "auto";
  DeviceFlags device;
  RankFlags ranks;
  bool dry_run = false;
};

// The report for a person, and the commands that come next.
void print_summary(const ShrinkFlags& flags, const ShrinkReport& report, double seconds);

}  // namespace swiftprune::cli
