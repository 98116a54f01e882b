// What the records and summaries of all kinds of shrink have in common.
#pragma once

#include <cstdint>
#include <string_view>

#include <nlohmann/json.hpp>

#include "shrink_flags.h"
#include "swiftprune/device/device.h"
#include "swiftprune/pipeline/drivers/shrink.h"

namespace swiftprune::cli {

// swiftprune.json of a shrunk folder; `own`: the members that this kind of shrink alone has. parameters: of the new
// folder; hashes: of the model's files.
struct ShrinkRun {
  const ShrinkFlags& flags;
  const Model& model;
  const Device& device;
  const TokenWindows& windows;
  std::string_view method, compensation;  // compensation "none": the weights that stay are as they were
  std::int64_t parameters = 0;
  const ShrinkSeconds& seconds;
};
nlohmann::ordered_json shrink_record(const ShrinkRun& run, const nlohmann::ordered_json& own,
                                     nlohmann::ordered_json hashes);

// "parameters" and "time" of a summary.
void print_parameters(const nlohmann::ordered_json& record);
void print_shrink_time(const nlohmann::ordered_json& record, double seconds);

}  // namespace swiftprune::cli
