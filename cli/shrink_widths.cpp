// swiftprune shrink --units mlp of a model with experts: each expert gets fewer inner channels.
#include <chrono>
#include <future>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "shrink_flags.h"
#include "shrink_record.h"
#include "swiftprune/core/error.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/narrow_checkpoint.h"
#include "swiftprune/pipeline/record.h"

namespace swiftprune::cli {
namespace {

using Json = nlohmann::ordered_json;

bool wants_refit(const ShrinkFlags& flags) {
  if (flags.compensate == "auto" || flags.compensate == "refit") return true;
  if (flags.compensate == "none") return false;
  bad_usage("--compensate: found '{}', expected of experts' channels auto, none or refit", flags.compensate);
}

// What the record says of this shrink alone.
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

void print_summary(const ShrinkFlags& flags, const NarrowExpertsResult& result, const Json& record,
                   double seconds) {
  const Json& channels = record.at("channels");
  fmt::print("shrunk      {}\n", flags.out);
  fmt::print("channels    {} of {} in each expert of {} layers\n", channels.at("left").get<std::int64_t>(),
             channels.at("dense").get<std::int64_t>(), result.layers.size());
  print_parameters(record);
  fmt::print("{:>5}  {:>7}  {}\n", "layer", "change", "experts with too few tokens, ranked by their weights");
  for (const NarrowedLayer& layer : result.layers)
    fmt::print("{:>5}  {:>7.4f}  {}\n", layer.layer, layer.change, fmt::join(layer.by_weights, " "));
  print_shrink_time(record, seconds);
  print_next(flags.common, {{"swiftprune", "compare", flags.model, flags.out, "--text", "FILE"}});
}

}  // namespace

void shrink_expert_widths(ShrinkFlags& flags, const RunScope& job, Device& device, const Model& model) {
  flags.refuse({"--target-params", "--target-ms", "--non-uniform", "--widths-by", "--layers-by", "--alpha",
                "--beta", "--dry-run"},
               "--units mlp of a model with experts");
  if (flags.score != "auto" && flags.score != "contribution")
    bad_usage("--score: found '{}', expected of experts' channels contribution", flags.score);
  if (!flags.ratio) bad_usage("--ratio: found none, expected one with --units mlp of a model with experts");
  const auto start = std::chrono::steady_clock::now();
  check_narrowable(model);
  NarrowExpertsOptions options;
  options.width = width_for_ratio(model, *flags.ratio, flags.align);
  options.refit = wants_refit(flags);
  options.damping = flags.damping;
  options.compute = compute_by_name(flags.compute, device);
  options.progress = job.context().progress;
  flags.calibration.fit_to(model);
  check_outside("--out", flags.out, flags.model);
  check_new_folder(flags.out);
  const TokenWindows windows = calibration_windows(notes_to(flags.common), model, device, flags.calibration,
                                                   flags.windows, false, options.compute, options.progress);
  NarrowCheckpoint output(model, options.width, flags.out);
  const NarrowExpertsResult result = device.narrow_experts(model, windows, options, output);
  const Json record =
      shrink_record({.flags = flags,
                     .model = model,
                     .device = device,
                     .windows = windows,
                     .method = "shrink mlp of experts",
                     .compensation = options.refit ? "refit" : "none",
                     .parameters = output.num_parameters(),
                     .seconds = result.seconds},
                    own_record(model.config(), options, result), model_hashes(model.checkpoint()));
  output.finish(record);
  if (flags.common.json) {
    print_json(record);
  } else {
    print_summary(flags, result, record,
                  std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
}

}  // namespace swiftprune::cli
