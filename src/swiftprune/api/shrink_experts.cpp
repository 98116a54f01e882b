// Whole experts.
#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "swiftprune/api/resume.h"
#include "swiftprune/api/shrink_parts.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/expert_checkpoint.h"

namespace swiftprune {
namespace {

using Json = nlohmann::ordered_json;

std::int64_t wanted_experts(const ShrinkJob& job, const ModelConfig& model) {
  if (job.ratio.has_value() == job.experts.has_value()) {
    bad_usage("--ratio, --experts: found {} of them, expected one", job.ratio ? 2 : 0);
  }
  const std::int64_t keep = job.experts ? *job.experts : experts_for_ratio(model, *job.ratio);
  check_experts_left(model, keep, job.experts ? "--experts" : "--ratio");
  return keep;
}

bool wants_refit(const ShrinkJob& job, const Model& model) {
  const bool possible = can_refit_experts(model);
  if (job.compensate == "auto") return possible;
  if (job.compensate == "none") return false;
  if (job.compensate != "refit") {
    bad_usage("--compensate: found '{}', expected of experts auto, none or refit", job.compensate);
  }
  if (!possible) {
    bad_usage(
        "--compensate: found refit, expected none: experts in MXFP4 are kept as they are, and cannot hold "
        "other "
        "weights");
  }
  return true;
}

Json layers_json(const RemoveExpertsResult& result) {
  Json layers = Json::array();
  for (const ReducedLayer& layer : result.layers) {
    layers.push_back({{"layer", layer.evidence.layer},
                      {"kept", layer.kept},
                      {"removed", layer.removed()},
                      {"super", layer.super},
                      {"never_routed_to", layer.never},
                      {"tokens", layer.evidence.tokens},
                      {"routing_entropy", layer.evidence.routing_entropy()},
                      {"change", layer.change},
                      {"change_refitted", layer.change_refitted},
                      {"not_refitted", layer.not_refitted}});
  }
  return layers;
}

Json make_experts_record(const Model& model, const RemoveExpertsOptions& options, const ShrinkReport& report,
                         const ExpertCheckpoint& output, const Json& command, Json hashes) {
  const ExpertsConfig& experts = *experts_of(model.config());
  const auto& result = std::get<RemoveExpertsResult>(report.result);
  Json record = {
      {"swiftprune", SWIFTPRUNE_VERSION},
      {"command", command},
      {"method", "shrink experts"},
      {"family", model.config().family},
      {"score", options.scorer->name},
      {"weights_changed", options.refit},
      {"compensation", options.refit ? "refit" : "none"},
      {"experts",
       {{"dense", experts.count},
        {"left", options.keep},
        {"a_token", experts.router.top_k},
        {"keep_super", options.keep_super},
        {"layers", layers_json(result)}}},
      {"left_out_prediction_layers", output.leaves_prediction_layers_out()},
      {"parameters", {{"dense", num_parameters(model.checkpoint())}, {"shrunk", report.parameters}}},
      {"calibration", calibration_record(report.calibration)},
      {"input", std::move(hashes)},
      {"machine", machine_record()},
      {"seconds", seconds_record(result.seconds)},
      {"tensors", Json::array()}};  // nothing is zero
  if (Json previous = previous_record(model.checkpoint()); !previous.is_null())
    record["previous"] = std::move(previous);
  return record;
}

// Whatever changes a byte of the output: only a run of the same may go on with its layers.
Json identity_of(const Json& byte_options, const Model& model, const Device& device,
                 const RemoveExpertsOptions& options, const CalibrationRecord& calibration) {
  return {{"version", SWIFTPRUNE_VERSION},
          {"options", byte_options},
          {"plan", options.keep},
          {"model", file_stamps(model.checkpoint())},
          {"calibration", calibration.ids},
          {"device", device.name()},
          {"compute", options.compute == ComputeType::kBF16 ? "bf16" : "f32"},
          {"instruction_set", isa_name()}};
}

void start_or_go_on(const ShrinkJob& job, const Json& identity, const NoteFn& note, ExpertCheckpoint& output,
                    RemoveExpertsOptions& options) {
  if (auto unfinished = job.resume ? output.unfinished() : std::nullopt) {
    if (unfinished->identity != identity) refuse_other_run(job.out, unfinished->identity, identity);
    note(going_on(unfinished->layers.size()));
    options.finished = std::move(unfinished->layers);
  } else if (job.resume) {
    note(no_unfinished_run(job.out));
  }
  output.start_journal(identity, options.finished);
}

// A later run with `resume` goes on with what an error or an interrupt leaves.
RemoveExpertsResult keeping_layers(const ShrinkJob& job, ExpertCheckpoint& output,
                                   const std::function<RemoveExpertsResult()>& work) {
  try {
    return work();
  } catch (const Error& error) {
    const std::int64_t layers = job.resume ? output.keep_finished() : 0;
    if (layers == 0 || dynamic_cast<const Interrupted*>(&error) != nullptr) throw;
    throw Error(error.kind(),
                fmt::format("{}; {}", error.what(), blocks_kept(static_cast<std::size_t>(layers))));
  }
}

}  // namespace

RemoveExpertsOptions prepare_experts(const ShrinkJob& job, const Model& model, ComputeType compute) {
  RemoveExpertsOptions options;
  options.keep = wanted_experts(job, model.config());
  check_reducible(model);
  check_new_folder(job.out);
  options.scorer = &expert_scorer(job.score == "auto" ? "ours" : job.score);
  options.seed = job.calibration.seed;
  options.rounds = job.rounds;
  options.keep_super = job.keep_super;
  options.refit = wants_refit(job, model);
  options.damping = job.damping;
  options.compute = compute;
  options.progress = current_run().progress;
  return options;
}

ShrinkReport shrink_experts(const ShrinkJob& job, RemoveExpertsOptions options, const Model& model,
                            Device& device, const JobOrigin& origin, const NoteFn& note) {
  const TokenWindows windows = calibration_windows(note, model, device, job.calibration, job.windows, false,
                                                   options.compute, options.progress);
  ShrinkReport report;
  report.calibration = job.calibration.record(windows);
  std::future<Json> hashes = hashes_aside(model, device);
  ExpertCheckpoint output(model, options.keep, job.out,
                          job.resume ? Leftover::kContinue : Leftover::kDiscard);
  start_or_go_on(job, identity_of(origin.options, model, device, options, report.calibration), note, output,
                 options);
  report.result =
      keeping_layers(job, output, [&] { return device.remove_experts(model, windows, options, output); });
  report.parameters = output.num_parameters();
  report.record = make_experts_record(model, options, report, output, origin.command, hashes.get());
  output.finish(report.record);
  return report;
}

}  // namespace swiftprune
