// swiftprune shrink --units experts: a model with experts in, one with fewer of them out.
#include <chrono>
#include <functional>
#include <future>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "option_echo.h"
#include "shrink_dry_run.h"
#include "shrink_flags.h"
#include "swiftprune/api/resume.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/expert_checkpoint.h"
#include "swiftprune/pipeline/record.h"

namespace swiftprune::cli {
namespace {

using Json = nlohmann::ordered_json;

std::int64_t wanted_experts(const ShrinkFlags& flags, const ModelConfig& model) {
  if (flags.ratio.has_value() == flags.experts.has_value()) {
    bad_usage("--ratio, --experts: found {} of them, expected one", flags.ratio ? 2 : 0);
  }
  const std::int64_t keep = flags.experts ? *flags.experts : experts_for_ratio(model, *flags.ratio);
  check_experts_left(model, keep, flags.experts ? "--experts" : "--ratio");
  return keep;
}

bool wants_refit(const ShrinkFlags& flags, const Model& model) {
  const bool possible = can_refit_experts(model);
  if (flags.compensate == "auto") return possible;
  if (flags.compensate == "none") return false;
  if (flags.compensate != "refit") {
    bad_usage("--compensate: found '{}', expected of experts auto, none or refit", flags.compensate);
  }
  if (!possible) {
    bad_usage(
        "--compensate: found refit, expected none: experts in MXFP4 are kept as they are, and cannot hold "
        "other "
        "weights");
  }
  return true;
}

std::vector<std::int64_t> removed_of(const ReducedLayer& layer) {
  std::vector<std::int64_t> removed;
  for (std::int64_t e = 0; e < layer.evidence.num_experts(); ++e) {
    if (!std::binary_search(layer.kept.begin(), layer.kept.end(), e)) removed.push_back(e);
  }
  return removed;
}

Json layers_json(const RemoveExpertsResult& result) {
  Json layers = Json::array();
  for (const ReducedLayer& layer : result.layers) {
    layers.push_back({{"layer", layer.evidence.layer},
                      {"kept", layer.kept},
                      {"removed", removed_of(layer)},
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

Json make_record(const ShrinkFlags& flags, const Model& model, const RemoveExpertsOptions& options,
                 const RemoveExpertsResult& result, const TokenWindows& windows,
                 const ExpertCheckpoint& output, Json hashes) {
  const ExpertsConfig& experts = *experts_of(model.config());
  Json record = {
      {"swiftprune", SWIFTPRUNE_VERSION},
      {"command", command_record(*flags.common.command)},
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
      {"parameters", {{"dense", num_parameters(model.checkpoint())}, {"shrunk", output.num_parameters()}}},
      {"calibration", calibration_record(flags.calibration.record(windows))},
      {"input", std::move(hashes)},
      {"machine", machine_record()},
      {"seconds", seconds_record(result.seconds)},
      {"tensors", Json::array()}};  // nothing is zero
  if (Json previous = previous_record(model.checkpoint()); !previous.is_null())
    record["previous"] = std::move(previous);
  return record;
}

void print_layers(const RemoveExpertsResult& result) {
  fmt::print("{:>5}  {:>7}  {:>7}  {:>9}  {}\n", "layer", "entropy", "change", "refitted",
             "experts that went");
  for (const ReducedLayer& layer : result.layers) {
    fmt::print("{:>5}  {:>7.3f}  {:>7.4f}  {:>9.4f}  {}\n", layer.evidence.layer,
               layer.evidence.routing_entropy(), layer.change, layer.change_refitted,
               fmt::join(removed_of(layer), " "));
  }
  for (const ReducedLayer& layer : result.layers) {
    if (!layer.never.empty())
      fmt::print("never used  layer {}: {}\n", layer.evidence.layer, fmt::join(layer.never, " "));
    if (!layer.super.empty())
      fmt::print("super       layer {}: {}\n", layer.evidence.layer, fmt::join(layer.super, " "));
  }
}

void print_summary(const ShrinkFlags& flags, const RemoveExpertsResult& result, const Json& record,
                   double seconds) {
  const Json& experts = record.at("experts");
  const Json& s = record.at("seconds");
  fmt::print("shrunk      {}\n", flags.out);
  fmt::print("experts     {} of {} in each of {} layers, {} a token, by {}\n",
             experts.at("left").get<std::int64_t>(), experts.at("dense").get<std::int64_t>(),
             result.layers.size(), experts.at("a_token").get<std::int64_t>(),
             record.at("score").get<std::string>());
  fmt::print("parameters  {} of {}\n", record.at("parameters").at("shrunk").get<std::int64_t>(),
             record.at("parameters").at("dense").get<std::int64_t>());
  print_layers(result);
  fmt::print("time        {:.1f} s: forward {:.1f}, solve {:.1f}, read and write {:.1f}\n", seconds,
             s.at("forward").get<double>(), s.at("solve").get<double>(),
             s.at("load").get<double>() + s.at("write").get<double>());
  if (record.at("left_out_prediction_layers").get<bool>()) {
    print_note(flags.common, "layers that predict further tokens were left out: they would need all experts");
  }
  print_next(flags.common, {{"swiftprune", "compare", flags.model, flags.out, "--text", "FILE"}});
}

// Whatever changes a byte of the output: only a run of the same may go on with its layers.
Json identity_of(const ShrinkFlags& flags, const Model& model, const Device& device,
                 const RemoveExpertsOptions& options, const TokenWindows& windows) {
  return {{"version", SWIFTPRUNE_VERSION},
          {"options", byte_options(*flags.common.command)},
          {"plan", options.keep},
          {"model", file_stamps(model.checkpoint())},
          {"calibration", flags.calibration.record(windows).ids},
          {"device", device.name()},
          {"compute", options.compute == ComputeType::kBF16 ? "bf16" : "f32"},
          {"instruction_set", isa_name()}};
}

void start_or_go_on(const ShrinkFlags& flags, const Json& identity, ExpertCheckpoint& output,
                    RemoveExpertsOptions& options) {
  if (auto unfinished = flags.resume ? output.unfinished() : std::nullopt) {
    if (unfinished->identity != identity) refuse_other_run(flags.out, unfinished->identity, identity);
    print_note(flags.common, going_on(unfinished->layers.size()));
    options.finished = std::move(unfinished->layers);
  } else if (flags.resume) {
    print_note(flags.common, no_unfinished_run(flags.out));
  }
  output.start_journal(identity, options.finished);
}

// A later --resume goes on with what an error or an interrupt leaves.
RemoveExpertsResult keeping_layers(ShrinkFlags& flags, ExpertCheckpoint& output,
                                   const std::function<RemoveExpertsResult()>& work) {
  try {
    return work();
  } catch (const Error& error) {
    const std::int64_t layers = flags.resume ? output.keep_finished() : 0;
    if (layers == 0) throw;
    flags.kept = blocks_kept(static_cast<std::size_t>(layers));
    if (dynamic_cast<const Interrupted*>(&error) != nullptr) throw;
    throw Error(error.kind(), fmt::format("{}; {}", error.what(), flags.kept));
  }
}

}  // namespace

void shrink_experts(ShrinkFlags& flags) {
  flags.refuse({"--target-params", "--target-ms", "--align", "--non-uniform", "--widths-by", "--layers-by",
                "--alpha", "--beta"},
               "--units experts");
  const RunScope job = apply(flags.common);
  const auto start = std::chrono::steady_clock::now();
  const auto device = open_device(flags.device);
  const auto model = open_model(flags.common, flags.model);
  RemoveExpertsOptions options;
  options.keep = wanted_experts(flags, model->config());
  device->check_model(*model);
  flags.calibration.fit_to(*model);
  check_reducible(*model);
  check_outside("--out", flags.out, flags.model);
  check_new_folder(flags.out);
  options.scorer = &expert_scorer(flags.score == "auto" ? "ours" : flags.score);
  options.seed = flags.calibration.seed;
  options.rounds = flags.rounds;
  options.keep_super = !flags.no_keep_super;
  options.refit = wants_refit(flags, *model);
  options.damping = flags.damping;
  options.compute = compute_by_name(flags.compute, *device);
  options.progress = job.context().progress;
  if (flags.dry_run) return dry_run_experts(flags, *model, *device, options);
  const TokenWindows windows = calibration_windows(notes_to(flags.common), *model, *device, flags.calibration,
                                                   flags.windows, false, options.compute, options.progress);
  // The processor has time for it while a GPU works.
  auto hashes = std::async(device->leaves_processor_free() ? std::launch::async : std::launch::deferred,
                           [&model, context = current_run()] {
                             const RunScope scope(context);
                             return model_hashes(model->checkpoint());
                           });
  ExpertCheckpoint output(*model, options.keep, flags.out,
                          flags.resume ? Leftover::kContinue : Leftover::kDiscard);
  start_or_go_on(flags, identity_of(flags, *model, *device, options, windows), output, options);
  const RemoveExpertsResult result =
      keeping_layers(flags, output, [&] { return device->remove_experts(*model, windows, options, output); });
  const Json record = make_record(flags, *model, options, result, windows, output, hashes.get());
  output.finish(record);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (flags.common.json) {
    print_json(record);
  } else {
    print_summary(flags, result, record, seconds);
  }
}

}  // namespace swiftprune::cli
