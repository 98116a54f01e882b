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

// What another rank than the first one writes: nothing.
class PeerOutput final : public NarrowedExpertsOutput {
 public:
  void write(std::int64_t, std::int64_t, std::span<const std::int64_t>, ConstMatrixView) override {}
};

// What the record says of this shrinking alone.
Json own_record(const ModelConfig& model, const NarrowExpertsOptions& options,
                const NarrowExpertsResult& result) {
  Json layers = Json::array();
  for (const NarrowedLayer& layer : result.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"tokens", layer.tokens},
                      {"by_weights_alone", layer.by_weights},
                      {"change", layer.change}});
  }
  return {{"score", "contribution"},
          {"channels",
           {{"dense", experts_of(model)->width}, {"left", options.width}, {"layers", std::move(layers)}}}};
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

std::optional<ShrinkReport> shrink_expert_channels(const ShrinkingOf& run, NarrowExpertsOptions options) {
  const auto& [job, model, device, origin, note, ranks] = run;
  const TokenWindows windows = shrink_windows(run, options.compute, options.progress);
  options.ranks = &ranks;
  if (!ranks.is_first()) {
    PeerOutput output;
    device.narrow_experts(model, windows, options, output);
    return std::nullopt;
  }
  ShrinkReport report;
  report.calibration = job.calibration.record(windows);
  NarrowCheckpoint output(model, options.width, job.out);
  const auto& result =
      report.result.emplace<NarrowExpertsResult>(device.narrow_experts(model, windows, options, output));
  report.parameters = output.num_parameters();
  report.record =
      shrink_record({.model = model,
                     .device = device,
                     .report = report,
                     .command = origin.command,
                     .ranks = ranks,
                     .method = "shrink mlp of experts",
                     .compensation = options.refit ? "refit" : "none",
                     .seconds = result.seconds},
                    own_record(model.config(), options, result), model_hashes(model.checkpoint()));
  output.finish(report.record);
  return report;
}

}  // namespace swiftprune
