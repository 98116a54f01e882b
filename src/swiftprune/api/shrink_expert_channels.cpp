// Inner channels of every expert.
#include <utility>

#include "swiftprune/api/shrink_parts.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/narrow_checkpoint.h"

namespace swiftprune {
namespace {

using Json = nlohmann::ordered_json;

bool wants_refit(const ShrinkJob& job) {
  if (job.compensate == "auto" || job.compensate == "refit") return true;
  if (job.compensate == "none") return false;
  bad_usage("--compensate: found '{}', expected of experts' channels auto, none or refit", job.compensate);
}

Json make_channels_record(const Model& model, const Device& device, const NarrowExpertsOptions& options,
                          const ShrinkReport& report, const Json& command) {
  const ExpertsConfig& experts = *experts_of(model.config());
  const auto& result = std::get<NarrowExpertsResult>(report.result);
  Json layers = Json::array();
  for (const NarrowedLayer& layer : result.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"tokens", layer.tokens},
                      {"by_weights_alone", layer.by_weights},
                      {"change", layer.change}});
  }
  Json record = {
      {"swiftprune", SWIFTPRUNE_VERSION},
      {"command", command},
      {"method", "shrink mlp of experts"},
      {"family", model.config().family},
      {"score", "contribution"},
      {"weights_changed", options.refit},
      {"compensation", options.refit ? "refit" : "none"},
      {"channels", {{"dense", experts.width}, {"left", options.width}, {"layers", std::move(layers)}}},
      {"parameters", {{"dense", num_parameters(model.checkpoint())}, {"shrunk", report.parameters}}},
      {"calibration", calibration_record(report.calibration)},
      {"input", model_hashes(model.checkpoint())},
      {"machine", machine_record()},
      {"seconds", seconds_record(result.seconds)},
      {"tensors", Json::array()}};  // nothing is zero
  record["machine"].update(device.describe().machine);
  if (Json previous = previous_record(model.checkpoint()); !previous.is_null())
    record["previous"] = std::move(previous);
  return record;
}

}  // namespace

NarrowExpertsOptions prepare_expert_channels(const ShrinkJob& job, const Model& model, ComputeType compute) {
  if (job.score != "auto" && job.score != "contribution")
    bad_usage("--score: found '{}', expected of experts' channels contribution", job.score);
  if (!job.ratio) bad_usage("--ratio: found none, expected one with --units mlp of a model with experts");
  check_narrowable(model);
  check_new_folder(job.out);
  NarrowExpertsOptions options;
  options.width = width_for_ratio(model, *job.ratio, job.align);
  options.refit = wants_refit(job);
  options.damping = job.damping;
  options.compute = compute;
  options.progress = current_run().progress;
  return options;
}

ShrinkReport shrink_expert_channels(const ShrinkJob& job, const NarrowExpertsOptions& options,
                                    const Model& model, Device& device, const JobOrigin& origin,
                                    const NoteFn& note) {
  const TokenWindows windows = calibration_windows(note, model, device, job.calibration, job.windows, false,
                                                   options.compute, options.progress);
  ShrinkReport report;
  report.calibration = job.calibration.record(windows);
  NarrowCheckpoint output(model, options.width, job.out);
  report.result = device.narrow_experts(model, windows, options, output);
  report.parameters = output.num_parameters();
  report.record = make_channels_record(model, device, options, report, origin.command);
  output.finish(report.record);
  return report;
}

}  // namespace swiftprune
