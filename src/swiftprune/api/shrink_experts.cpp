// Whole experts.
#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "swiftprune/api/resume.h"
#include "swiftprune/api/shrink_parts.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/model/router.h"
#include "swiftprune/pipeline/choices/expert_counts.h"
#include "swiftprune/pipeline/expert_checkpoint.h"
#include "swiftprune/pipeline/shared_writing.h"

namespace swiftprune {
namespace {

using Json = nlohmann::ordered_json;

const char* asking_flag(const ShrinkJob& job) { return job.experts ? "--experts" : "--ratio"; }

// The same of every layer; where layers may differ the number nearest to the mean that is asked for.
std::int64_t wanted_experts(const ShrinkJob& job, const ModelConfig& model) {
  if (job.ratio.has_value() == job.experts.has_value()) {
    bad_usage("--ratio, --experts: found {} of them, expected one", job.ratio ? 2 : 0);
  }
  const std::int64_t keep = job.experts ? *job.experts : experts_for_ratio(model, *job.ratio);
  if (!job.non_uniform || (job.experts && keep >= experts_of(model)->count)) {
    check_experts_left(model, keep, asking_flag(job));
    return keep;
  }
  const ExpertsConfig& experts = *experts_of(model);
  const std::int64_t groups = experts.router.num_groups, most = experts.count - groups;
  const std::int64_t nearest = std::min(std::max(keep / groups * groups, fewest_experts(experts)), most);
  check_experts_left(model, nearest, asking_flag(job));
  return nearest;
}

// What a run that was killed had chosen, if there is one: whether it was the same run is found out by what stands beside
// it in the journal.
std::optional<ExpertCounts> chosen_before(const ShrinkJob& job, const ModelConfig& model) {
  const auto identity = job.resume ? ExpertCheckpoint::unfinished_identity(job.out) : std::nullopt;
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

// The first rank's, to all.
std::optional<ExpertCounts> chosen_before(const ShrinkJob& job, const ModelConfig& model,
                                          Communicator& ranks) {
  Json counts;
  if (ranks.is_first()) {
    if (const auto before = chosen_before(job, model)) counts = before->of_layers();
  }
  std::string text = counts.dump();
  broadcast_text(ranks, 0, text);
  counts = Json::parse(text);
  if (counts.is_null()) return std::nullopt;
  return ExpertCounts(counts.get<std::vector<std::int64_t>>());
}

// One threshold over all layers, by what the dense model shows.
ExpertCounts choose_counts(const ShrinkingOf& run, const TokenWindows& windows,
                           const RemoveExpertsOptions& options) {
  const auto& [job, model, device, origin, note, ranks] = run;
  if (auto before = chosen_before(job, model.config(), ranks)) return *std::move(before);
  const double dense = static_cast<double>(experts_of(model.config())->count);
  const std::vector<ExpertEvidence> evidence = device.observe_experts(model, windows, options);
  return ExpertCounts(spread_experts(
      model.config(), evidence,
      {.mean_left = job.experts ? static_cast<double>(*job.experts) : (1.0 - *job.ratio) * dense,
       .flag = asking_flag(job),
       .scorer = options.scorer,
       .seed = options.seed,
       .keep_super = options.keep_super}));
}

// A number, or one for each layer with experts.
Json counts_json(const ExpertCounts& keep) {
  return keep.differ() ? Json(keep.of_layers()) : Json(keep.of(0));
}

// Which of refit and bias. By default whatever the experts can hold.
void choose_compensation(const ShrinkJob& job, const Model& model, RemoveExpertsOptions& options) {
  const bool refits = can_refit_experts(model), biases = experts_of(model.config())->bias;
  options.refit = job.compensate == "refit" || (job.compensate == "auto" && refits);
  options.bias = biases && job.compensate != "none";
  if (job.compensate == "auto" || job.compensate == "none") return;
  if (job.compensate != "refit" && job.compensate != "bias") {
    bad_usage("--compensate: found '{}', expected of experts auto, none, bias or refit", job.compensate);
  }
  if (job.compensate == "bias" && !biases) {
    bad_usage("--compensate: found bias, expected none or refit: experts of the family {} have no biases",
              model.config().family);
  }
  if (options.refit && !refits) {
    bad_usage(
        "--compensate: found refit, expected {}: experts in MXFP4 are kept as they are, and cannot hold "
        "other "
        "weights",
        biases ? "none or bias" : "none");
  }
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

// What the record says of this shrinking alone.
Json own_record(const ModelConfig& model, const RemoveExpertsOptions& options,
                const RemoveExpertsResult& result, const ExpertCheckpoint& output) {
  const ExpertsConfig& experts = *experts_of(model);
  return {{"score", options.scorer->name},
          {"experts",
           {{"dense", experts.count},
            {"left", counts_json(options.keep)},
            {"a_token", experts.router.top_k},
            {"keep_super", options.keep_super},
            {"biases_fitted", options.bias},
            {"layers", layers_json(result)}}},
          {"left_out_prediction_layers", output.leaves_prediction_layers_out()}};
}

// Of a rank that writes nothing.
class NoExpertsOutput final : public ReducedExpertsOutput {
 public:
  void write_down(std::int64_t, std::int64_t, ConstMatrixView) override {}
  void write_bias(std::int64_t, std::int64_t, std::span<const float>) override {}
  void keep(const ReducedLayer&) override {}
  void finish_layer(const ReducedLayer&) override {}
  Matrix read_down(std::int64_t, std::int64_t) override { return {}; }
  std::vector<float> read_bias(std::int64_t, std::int64_t) override { return {}; }
};

// Of the first rank, to all.
void share_finished(Communicator& ranks, std::vector<ReducedLayer>& finished) {
  if (ranks.size() == 1) return;
  std::string text = ranks.is_first() ? layers_text(finished) : std::string();
  broadcast_text(ranks, 0, text);
  if (!ranks.is_first()) finished = layers_of_text(text);
}

void start_or_go_on(const ShrinkingOf& run, const Json& identity, const SharedWriting& writing,
                    ExpertCheckpoint& output, RemoveExpertsOptions& options) {
  const ShrinkJob& job = run.job;
  if (auto unfinished = job.resume ? output.unfinished() : std::nullopt) {
    if (unfinished->identity != identity) refuse_other_run(job.out, unfinished->identity, identity);
    run.note(going_on(unfinished->layers.size()));
    options.finished = std::move(unfinished->layers);
  } else if (job.resume) {
    run.note(no_unfinished_run(job.out));
  }
  output.start_journal(identity, options.finished, writing.on_disk(output.writer().temporary_folder()));
}

// A later run with `resume` goes on with what an error or an interrupt leaves.
RemoveExpertsResult keeping_layers(const ShrinkJob& job, ExpertCheckpoint& output,
                                   const std::function<RemoveExpertsResult()>& work) {
  try {
    return work();
  } catch (const Error& error) {
    const std::int64_t layers = job.resume ? output.keep_finished() : 0;
    if (layers == 0 || error.kind() == ErrorKind::kInterrupted) throw;
    throw Error(error.kind(),
                fmt::format("{}; {}", error.what(), blocks_kept(static_cast<std::size_t>(layers))));
  }
}

}  // namespace

RemoveExpertsOptions prepare_experts(const ShrinkJob& job, const Model& model, ComputeType compute) {
  RemoveExpertsOptions options;
  check_reducible(model);
  options.keep = wanted_experts(job, model.config());
  check_new_folder(job.out);
  options.scorer = &expert_scorer(job.score == "auto" ? "ours" : job.score);
  options.seed = job.calibration.seed;
  options.rounds = job.rounds;
  options.keep_super = job.keep_super;
  choose_compensation(job, model, options);
  options.damping = job.damping;
  options.compute = compute;
  options.progress = current_run().progress;
  return options;
}

std::optional<ShrinkReport> shrink_experts(const ShrinkingOf& run, RemoveExpertsOptions options) {
  const auto& [job, model, device, origin, note, ranks] = run;
  const TokenWindows windows = shrink_windows(run, options.compute, options.progress);
  options.ranks = &ranks;
  std::future<Json> hashes;
  if (ranks.is_first()) hashes = hashes_aside(model, device);
  if (job.non_uniform) options.keep = choose_counts(run, windows, options);
  auto [output, writing] = shared_output(ranks, job.out, [&](const std::string& joined) {
    return std::make_unique<ExpertCheckpoint>(model, options.keep, job.out,
                                              job.resume ? Leftover::kContinue : Leftover::kDiscard, joined);
  });
  if (const auto told = writing.note(job.out)) run.note(*told);
  ShrinkReport report;
  report.calibration = job.calibration.record(windows);
  if (ranks.is_first()) {
    start_or_go_on(run,
                   run_identity(origin.options, model, device, options.compute, counts_json(options.keep),
                                report.calibration.ids),
                   writing, *output, options);
  }
  share_finished(ranks, options.finished);
  if (!ranks.is_first() && output) output->start_peer_journal(ranks.rank(), options.finished);
  NoExpertsOutput nowhere;
  ReducedExpertsOutput& to = output ? static_cast<ReducedExpertsOutput&>(*output) : nowhere;
  const auto work = [&] { return device.remove_experts(model, windows, options, to); };
  const auto& result = report.result.emplace<RemoveExpertsResult>(
      ranks.is_first() ? keeping_layers(job, *output, work) : work());
  if (output) {
    output->copy_rest();
    writing.meet(output->writer());
  }
  if (!ranks.is_first()) return std::nullopt;
  report.parameters = output->num_parameters();
  report.record = shrink_record({.model = model,
                                 .device = device,
                                 .report = report,
                                 .command = origin.command,
                                 .ranks = ranks,
                                 .method = "shrink experts",
                                 .compensation = options.refit  ? "refit"
                                                 : options.bias ? "bias"
                                                                : "none",
                                 .seconds = result.seconds},
                                own_record(model.config(), options, result, *output), hashes.get());
  output->finish(report.record);
  return report;
}

}  // namespace swiftprune
