// Flags for the text that statistics are collected on (api/calibration_text.h).
#pragma once

#include "command.h"
#include "swiftprune/api/calibration_text.h"

namespace swiftprune::cli {

// Declares --calibration (--ids), --field, --seqlen and --seed.
void add_calibration_flags(CLI::App& command, CalibrationText& text);

}  // namespace swiftprune::cli
