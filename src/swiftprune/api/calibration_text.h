// The text that statistics are collected on, as a person asks for it: own text, several of them with their shares, token
// ids, or text that the model writes itself.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "swiftprune/api/job.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/record.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

struct CalibrationText {
  std::vector<std::string> sources = {
      "self"};  // files, each with its weight (FILE=WEIGHT) or none, or "self"
  std::string field = "text";
  std::int64_t seqlen = 2048;
  bool seqlen_given = false;
  std::uint64_t seed = 0;

  bool is_self() const { return sources == std::vector<std::string>{"self"}; }
  std::string source() const;  // for records and messages
  CalibrationRecord record(const TokenWindows& windows) const;
  // Cuts the default of seqlen to the model's positions; one that was asked for is refused above them.
  void fit_to(const Model& model);
};

// at_most: fewer windows where there is less text. For a model with experts a note says so where all of the text is of
// one kind (text/text_kind.h).
TokenWindows calibration_windows(const NoteFn& note, const Model& model, Device& device,
                                 const CalibrationText& text, std::int64_t windows, bool at_most,
                                 ComputeType compute, const ProgressFn& progress);

}  // namespace swiftprune
