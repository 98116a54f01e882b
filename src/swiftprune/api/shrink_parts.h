// The three kinds of shrinking behind prepare() and shrink() of shrink_job.h: a file each.
#pragma once

#include <future>
#include <string_view>

#include "swiftprune/api/shrink_job.h"

namespace swiftprune {

UnitsToRemove prepare_units(const ShrinkJob& job, const Model& model, Device& device, ComputeType compute);
ShrinkReport shrink_units(const ShrinkJob& job, UnitsToRemove prepared, const Model& model, Device& device,
                          const JobOrigin& origin, const NoteFn& note);

RemoveExpertsOptions prepare_experts(const ShrinkJob& job, const Model& model, ComputeType compute);
ShrinkReport shrink_experts(const ShrinkJob& job, RemoveExpertsOptions options, const Model& model,
                            Device& device, const JobOrigin& origin, const NoteFn& note);

NarrowExpertsOptions prepare_expert_channels(const ShrinkJob& job, const Model& model, ComputeType compute);
ShrinkReport shrink_expert_channels(const ShrinkJob& job, const NarrowExpertsOptions& options,
                                    const Model& model, Device& device, const JobOrigin& origin,
                                    const NoteFn& note);

// swiftprune.json of a shrunk folder; `own`: the members that this kind of shrinking alone has, hashes: of the model's
// files.
struct ShrinkRecordOf {
  const Model& model;
  const Device& device;
  const ShrinkReport& report;
  const nlohmann::ordered_json& command;
  std::string_view method, compensation;  // compensation "none": the weights that stay are as they were
  const ShrinkSeconds& seconds;
};
nlohmann::ordered_json shrink_record(const ShrinkRecordOf& run, const nlohmann::ordered_json& own,
                                     nlohmann::ordered_json hashes);

// model_hashes(), aside where the processor has time for it while a GPU works; else when they are asked for.
std::future<nlohmann::ordered_json> hashes_aside(const Model& model, const Device& device);

}  // namespace swiftprune
