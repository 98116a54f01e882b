// swiftprune shrink --units experts: a model with experts in, one with fewer of them out.
#include <algorithm>
#include <chrono>
#include <functional>
#include <future>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "option_echo.h"
#include "shrink_dry_run.h"
#include "shrink_flags.h"
#include "shrink_record.h"
#include "swiftprune/api/resume.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/model/router.h"
#include "swiftprune/pipeline/choices/expert_counts.h"
#include "swiftprune/pipeline/expert_checkpoint.h"
#include "swiftprune/pipeline/record.h"

namespace swiftprune::cli {
namespace {

using Json = nlohmann::ordered_json;

const char* asking_flag(const ShrinkFlags& flags) { return flags.experts ? "--experts" : "--ratio"; }

// The same of every layer; with --non-uniform the number nearest to the mean that is asked for.
std::int64_t wanted_experts(const ShrinkFlags& flags, const ModelConfig& model) {
  if (flags.ratio.has_value() == flags.experts.has_value()) {
    bad_usage("--ratio, --experts: found {} of them, expected one", flags.ratio ? 2 : 0);
  }
  const std::int64_t keep = flags.experts ? *flags.experts : experts_for_ratio(model, *flags.ratio);
  if (!flags.non_uniform || (flags.experts && keep >= experts_of(model)->count)) {
    check_experts_left(model, keep, asking_flag(flags));
    return keep;
  }
  const ExpertsConfig& experts = *experts_of(model);
  const std::int64_t groups = experts.router.num_groups, most = experts.count - groups;
  const std::int64_t nearest = std::min(std::max(keep / groups * groups, fewest_experts(experts)), most);
  check_experts_left(model, nearest, asking_flag(flags));
  return nearest;
}

// What a run that was killed had chosen, if there is one: whether it was the same run is found out by what stands beside
// it in the journal.
std::optional<ExpertCounts> chosen_before(const ShrinkFlags& flags, const ModelConfig& model) {
  const auto identity = flags.resume ? ExpertCheckpoint::unfinished_identity(flags.out) : std::nullopt;
  if (!identity || !identity->is_object() || !identity->contains("plan")) return std::nullopt;
  const Json& plan = identity->at("plan");
  std::vector<std::int64_t> counts;
  for (const BlockConfig& block : model.blocks) {
    if (!block.experts) continue;
    const std::size_t place = counts.size();
    if (!plan.is_array() || place >= plan.size() || !plan[place].is_number_integer()) return std::nullopt;
    counts.push_back(plan[place].get<std::int64_t>());
    if (counts.back() < fewest_experts(*block.experts) || counts.back() > block.experts->count ||
        router_problem(block.experts->router, counts.back()))
      return std::nullopt;
  }
  if (counts.size() != plan.size()) return std::nullopt;
  return ExpertCounts(std::move(counts));
}

// One threshold over all layers, by what the dense model shows.
ExpertCounts choose_counts(const ShrinkFlags& flags, const Model& model, Device& device,
                           const TokenWindows& windows, const RemoveExpertsOptions& options) {
  if (auto before = chosen_before(flags, model.config())) return *std::move(before);
  const double dense = static_cast<double>(experts_of(model.config())->count);
  const std::vector<ExpertEvidence> evidence = device.observe_experts(model, windows, options);
  return ExpertCounts(spread_experts(
      model.config(), evidence,
      {.mean_left = flags.experts ? static_cast<double>(*flags.experts) : (1.0 - *flags.ratio) * dense,
       .flag = asking_flag(flags),
       .scorer = options.scorer,
       .seed = options.seed,
       .keep_super = options.keep_super}));
}

// A number, or one for each layer with experts.
Json counts_json(const ExpertCounts& keep) {
  return keep.differ() ? Json(keep.of_layers()) : Json(keep.of(0));
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

// What the record says of this shrink alone.
Json own_record(const ModelConfig& model, const RemoveExpertsOptions& options,
                const RemoveExpertsResult& result, const ExpertCheckpoint& output) {
  const ExpertsConfig& experts = *experts_of(model);
  return {{"score", options.scorer->name},
          {"experts",
           {{"dense", experts.count},
            {"left", counts_json(options.keep)},
            {"a_token", experts.router.top_k},
            {"keep_super", options.keep_super},
            {"layers", layers_json(result)}}},
          {"left_out_prediction_layers", output.leaves_prediction_layers_out()}};
}

void print_layers(const RemoveExpertsResult& result) {
  fmt::print("{:>5}  {:>4}  {:>7}  {:>7}  {:>9}  {}\n", "layer", "left", "entropy", "change", "refitted",
             "experts that went");
  for (const ReducedLayer& layer : result.layers) {
    fmt::print("{:>5}  {:>4}  {:>7.3f}  {:>7.4f}  {:>9.4f}  {}\n", layer.evidence.layer, layer.kept.size(),
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
  fmt::print("shrunk      {}\n", flags.out);
  std::int64_t left = 0;
  for (const ReducedLayer& layer : result.layers) left += std::ssize(layer.kept);
  const bool differ = experts.at("left").is_array();
  fmt::print("experts     {:.4g} of {} in {} of {} layers, {} a token, by {}\n",
             static_cast<double>(left) / static_cast<double>(result.layers.size()),
             experts.at("dense").get<std::int64_t>(), differ ? "the mean" : "each", result.layers.size(),
             experts.at("a_token").get<std::int64_t>(), record.at("score").get<std::string>());
  print_parameters(record);
  print_layers(result);
  print_shrink_time(record, seconds);
  if (record.at("left_out_prediction_layers").get<bool>()) {
    print_note(flags.common, "layers that predict further tokens were left out: they would need all experts");
  }
  print_next(flags.common, {{"swiftprune", "compare", flags.model, flags.out, "--text", "FILE"}});
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
  flags.refuse(
      {"--target-params", "--target-ms", "--align", "--widths-by", "--layers-by", "--alpha", "--beta"},
      "--units experts");
  const RunScope job = apply(flags.common);
  const auto start = std::chrono::steady_clock::now();
  const auto device = open_device(flags.device);
  const auto model = open_model(flags.common, flags.model);
  check_reducible(*model);
  RemoveExpertsOptions options;
  options.keep = wanted_experts(flags, model->config());
  device->check_model(*model);
  flags.calibration.fit_to(*model);
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
  if (flags.non_uniform) options.keep = choose_counts(flags, *model, *device, windows, options);
  ExpertCheckpoint output(*model, options.keep, flags.out,
                          flags.resume ? Leftover::kContinue : Leftover::kDiscard);
  start_or_go_on(flags,
                 run_identity(byte_options(*flags.common.command), *model, *device, options.compute,
                              counts_json(options.keep), flags.calibration.record(windows).ids),
                 output, options);
  const RemoveExpertsResult result =
      keeping_layers(flags, output, [&] { return device->remove_experts(*model, windows, options, output); });
  const Json record = shrink_record({.flags = flags,
                                     .model = *model,
                                     .device = *device,
                                     .windows = windows,
                                     .method = "shrink experts",
                                     .compensation = options.refit ? "refit" : "none",
                                     .parameters = output.num_parameters(),
                                     .seconds = result.seconds},
                                    own_record(model->config(), options, result, output), hashes.get());
  output.finish(record);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (flags.common.json) {
    print_json(record);
  } else {
    print_summary(flags, result, record, seconds);
  }
}

}  // namespace swiftprune::cli
