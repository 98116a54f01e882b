// Channels, heads and layers: the shape that reaches the ratio, chosen by measuring, then the blocks.
#include "swiftprune/api/shrink_parts.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/pipeline/choices/width_choice.h"
#include "swiftprune/pipeline/shared_writing.h"
#include "swiftprune/pipeline/shrink_plan.h"
#include "swiftprune/pipeline/shrunk_checkpoint.h"
#include "swiftprune/structure/unit_scores.h"

namespace swiftprune {
namespace {

using Json = nlohmann::ordered_json;

// A time is the first rank's, for all.
double wanted_ratio(const ShrinkJob& job, const Model& model, Device& device, ComputeType compute,
                    Communicator& ranks, Json& measured) {
  const int given =
      int{job.ratio.has_value()} + int{job.target_params.has_value()} + int{job.target_ms.has_value()};
  if (given != 1) {
    bad_usage("--ratio, --target-params, --target-ms: found {} of them, expected one", given);
  }
  if (job.ratio) return *job.ratio;
  if (job.target_params) {
    return ratio_for_parameters(model.config(), num_parameters(model.checkpoint()), *job.target_params);
  }
  double ratio = 0.0;
  if (ranks.is_first()) {
    const DecodeTime dense = device.decode_time(model, compute);
    measured["decode_ms"] = {{"dense", dense.total_ms}, {"head", dense.head_ms}, {"target", *job.target_ms}};
    ratio = ratio_for(dense, *job.target_ms);
  }
  ranks.broadcast(0, std::as_writable_bytes(std::span(&ratio, 1)));
  return ratio;
}

void check_shapes(const ShrinkJob& job, const ModelConfig& model, const ShapeRequest& request,
                  Compensation compensation) {
  if (job.non_uniform) {
    check_width_request(model, request);
    ShrinkShape shape = shape_of(model);
    for (const UnitKind kind : request.units) {
      (kind == UnitKind::kMlp ? shape.layer_channels : shape.layer_groups).resize(model.blocks.size(), 1);
    }
    added_biases(model, shape, compensation);
    return;
  }
  for (const ShrinkShape& shape : shapes_for(model, request)) added_biases(model, shape, compensation);
}

ShapeChoice choose_widths(const ShrinkJob& job, const ModelConfig& model, const UnitsToRemove& units,
                          TrialStreams& trials) {
  const WidthChoiceOptions options{units.options.score, units.options.progress};
  ShapeChoice choice;
  choice.measured = Json::object();
  if (job.widths_by == "score") {
    choice.shape = standardized_widths(model, units.request, trials, options);
    return choice;
  }
  const WidthChanges changes = measure_width_changes(model, units.request, trials, options);
  choice.shape = spread_widths(model, units.request, changes);
  const auto record = [&](const char* name, const UnitChanges& of) {
    if (!of.changes.empty()) choice.measured[name] = {{"share", of.share}, {"changes", of.changes}};
  };
  record("channels", changes.channels);
  record("groups", changes.groups);
  return choice;
}

LayersBy layers_by(std::string_view name) {
  return name == "greedy"      ? LayersBy::kGreedy
         : name == "influence" ? LayersBy::kInfluence
                               : LayersBy::kSearch;
}

// On streams whose memory is free again afterwards.
ShapeChoice choose(const ShrinkJob& job, const UnitsToRemove& units, const Model& model, Device& device,
                   const TokenWindows& windows) {
  if (!job.plan.empty()) return read_shrink_plan(job.plan, model.config());
  // Scores are compared on all of the text, losses and changes on a little of it.
  const bool whole_text = job.non_uniform && job.widths_by == "score";
  const auto trials =
      device.trial_streams(model, whole_text ? windows : trial_text(windows), units.options.compute);
  ShapeChoice choice =
      job.non_uniform ? choose_widths(job, model.config(), units, *trials)
                      : choose_shape(model.config(), units.request, *trials,
                                     {units.options.score, layers_by(job.layers_by), units.options.progress});
  choice.measured.update(units.measured);
  return choice;
}

Json shape_json(const ModelConfig& model, const ShrinkShape& shape) {
  Json json = {{"intermediate_size", shape.channels},
               {"num_attention_heads", model.num_heads / model.num_kv_heads * shape.groups},
               {"num_key_value_heads", shape.groups},
               {"num_hidden_layers", shape.layers}};
  if (!shape.layer_channels.empty()) json["layer_intermediate_size"] = shape.layer_channels;
  if (!shape.layer_groups.empty()) json["layer_num_key_value_heads"] = shape.layer_groups;
  return json;
}

Json biases_json(const ModelConfig& model, const ShrinkShape& shape, Compensation compensation) {
  Json names = Json::array();
  for (const LinearInput output : added_biases(model, shape, compensation)) names.push_back(name_of(output));
  return names;
}

// Of a rank that writes nothing.
class NoUnitsOutput final : public ShrinkOutput {
 public:
  bool takes(const std::string&) const override { return false; }
  void write_part(const std::string&, std::int64_t, std::span<const std::byte>) override {}
  void write_bias(const std::string&, std::span<const float>) override {}
};

// What the record says of this shrinking alone.
Json own_record(const ModelConfig& m, const ShrunkUnits& shrunk, Compensation compensation) {
  const auto& [choice, result] = shrunk;
  Json blocks = Json::array();
  for (const ShrunkBlock& block : result.blocks) {
    Json item = {{"layer", block.layer}};
    if (std::ssize(block.kept.channels) < m.intermediate_size) item["channels"] = block.kept.channels;
    if (std::ssize(block.kept.groups) < m.num_kv_heads) item["groups"] = block.kept.groups;
    blocks.push_back(std::move(item));
  }
  return {{"added_biases", biases_json(m, choice.shape, compensation)},
          {"dense", shape_json(m, shape_of(m))},
          {"shape", shape_json(m, choice.shape)},
          {"removed_layers", choice.removed_layers},
          {"ratio", ratio_of(m, choice.shape)},
          {"measured", choice.measured},
          {"kept", std::move(blocks)}};
}

}  // namespace

UnitsToRemove prepare_units(const ShrinkJob& job, const Model& model, Device& device, ComputeType compute,
                            Communicator& ranks) {
  check_shrinkable(model);
  check_new_folder(job.out);
  UnitsToRemove units;
  ShrinkOptions& options = units.options;
  if (job.score != "auto") options.score = unit_scorer(job.score).name;
  units.aligns_for_layers = job.compensate == "auto";
  options.compensation = units.aligns_for_layers ? Compensation::kRefit : parse_compensation(job.compensate);
  options.refit = {job.damping, job.alpha, job.beta};
  options.compute = compute;
  options.progress = current_run().progress;
  if (!job.plan.empty()) {
    added_biases(model.config(), read_shrink_plan(job.plan, model.config()).shape, options.compensation);
    return units;
  }
  units.request.units = parse_units(job.units);
  units.request.align = job.align;
  units.request.ratio = wanted_ratio(job, model, device, compute, ranks, units.measured);
  // A wrong request costs nothing.
  check_shapes(job, model.config(), units.request, options.compensation);
  return units;
}

std::optional<ShrinkReport> shrink_units(const ShrinkingOf& run, UnitsToRemove prepared) {
  const auto& [job, model, device, origin, note, ranks] = run;
  ShrinkOptions& options = prepared.options;
  options.ranks = &ranks;
  std::future<Json> hashes;
  if (ranks.is_first()) hashes = hashes_aside(model, device);
  const TokenWindows windows = shrink_windows(run, options.compute, options.progress);
  ShrinkReport report;
  report.calibration = job.calibration.record(windows);
  ShrunkUnits& shrunk = report.result.emplace<ShrunkUnits>();
  ShapeChoice& choice = shrunk.choice;
  choice = choose(job, prepared, model, device, windows);
  // Only what runs beside the dense model can make up for layers that are gone.
  if (prepared.aligns_for_layers && !choice.removed_layers.empty())
    options.compensation = Compensation::kAligned;

  const std::vector<LinearInput> biases = added_biases(model.config(), choice.shape, options.compensation);
  auto [output, writing] = shared_output(ranks, job.out, [&](const std::string& joined) {
    return std::make_unique<ShrunkCheckpoint>(model, choice.shape, choice.removed_layers, job.out, biases,
                                              joined);
  });
  if (const auto told = writing.note(job.out)) run.note(*told);
  NoUnitsOutput nowhere;
  ShrinkOutput& to = output ? static_cast<ShrinkOutput&>(*output) : nowhere;
  shrunk.result = device.shrink(model, choice.shape, choice.removed_layers, windows, options, to);
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
                                 .method = "shrink",
                                 .compensation = name_of(options.compensation),
                                 .seconds = shrunk.result.seconds},
                                own_record(model.config(), shrunk, options.compensation), hashes.get());
  output->finish(report.record);
  if (job.target_ms) {
    const DecodeTime now = device.decode_time(*Model::open(job.out), options.compute);
    note(fmt::format("decode {:.2f} ms a token, asked {:.2f}, dense {:.2f}", now.total_ms, *job.target_ms,
                     prepared.measured.at("decode_ms").at("dense").get<double>()));
  }
  return report;
}

}  // namespace swiftprune
