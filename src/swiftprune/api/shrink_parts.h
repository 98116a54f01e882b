// The three kinds of shrinking behind prepare() and shrink() of shrink_job.h: a file each.
#pragma once

#include <future>
#include <optional>
#include <string_view>

#include "swiftprune/api/shrink_job.h"

namespace swiftprune {

// What shrink() was given.
struct ShrinkingOf {
  const ShrinkJob& job;
  const Model& model;
  Device& device;
  const JobOrigin& origin;
  const NoteFn& note;
  Communicator& ranks;
};

UnitsToRemove prepare_units(const ShrinkJob& job, const Model& model, Device& device, ComputeType compute,
                            Communicator& ranks);
std::optional<ShrinkReport> shrink_units(const ShrinkingOf& run, UnitsToRemove prepared);

RemoveExpertsOptions prepare_experts(const ShrinkJob& job, const Model& model, ComputeType compute);
std::optional<ShrinkReport> shrink_experts(const ShrinkingOf& run, RemoveExpertsOptions options);

NarrowExpertsOptions prepare_expert_channels(const ShrinkJob& job, const Model& model, ComputeType compute);
std::optional<ShrinkReport> shrink_expert_channels(const ShrinkingOf& run, NarrowExpertsOptions options);

// The calibration windows, which all ranks have.
TokenWindows shrink_windows(const ShrinkingOf& run, ComputeType compute, const ProgressFn& progress);

// swiftprune.json of a shrunk folder; `own`: the members that this kind of shrinking alone has, hashes: of the model's
// files.
struct ShrinkRecordOf {
  const Model& model;
  const Device& device;
  const ShrinkReport& report;
  const nlohmann::ordered_json& command;
  const Communicator& ranks;
  std::string_view method, compensation;  // compensation "none": the weights that stay are as they were
  const ShrinkSeconds& seconds;
};
nlohmann::ordered_json shrink_record(const ShrinkRecordOf& run, const nlohmann::ordered_json& own,
                                     nlohmann::ordered_json hashes);

// model_hashes(), aside where the processor has time for it while a GPU works; else when they are asked for.
std::future<nlohmann::ordered_json> hashes_aside(const Model& model, const Device& device);

}  // namespace swiftprune
