#include "swiftprune/api/shrink_job.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "swiftprune/api/job_options.h"
#include "swiftprune/api/option_values.h"
#include "swiftprune/api/resume.h"
#include "swiftprune/api/shrink_parts.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/overloaded.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/journal.h"
#include "swiftprune/ranks/same_on_ranks.h"

namespace swiftprune {
namespace {

using nlohmann::ordered_json;

// By the names of the command's options.
ordered_json options_of(const ShrinkJob& job) {
  return {{"ratio", or_null(job.ratio)},
          {"target-params", or_null(job.target_params)},
          {"target-ms", or_null(job.target_ms)},
          {"plan", job.plan},
          {"units", job.units},
          {"experts", or_null(job.experts)},
          {"no-keep-super", !job.keep_super},
          {"rounds", job.rounds},
          {"align", job.align},
          {"non-uniform", job.non_uniform},
          {"widths-by", job.widths_by},
          {"score", job.score},
          {"layers-by", job.layers_by},
          {"compensate", job.compensate},
          {"damping", job.damping},
          {"alpha", job.alpha},
          {"beta", job.beta},
          {"calibration", job.calibration.sources},
          {"field", job.calibration.field},
          {"seqlen", job.calibration.seqlen},
          {"seed", job.calibration.seed},
          {"windows", job.windows},
          {"compute", job.where.compute},
          {"device", job.where.device}};
}

// Throws Error{kUsage} for the first of these that was asked for.
void refuse(const GivenFn& given, std::initializer_list<std::string_view> options, std::string_view with) {
  for (const std::string_view option : options) {
    if (given(option)) bad_usage("--{}: found it with {}, which it means nothing to", option, with);
  }
}

void check_values(const ShrinkJob& job) {
  using namespace option_values;
  check_value("--seqlen", job.calibration.seqlen, kSeqlen);
  check_value("--widths-by", job.widths_by, kWidthsBy);
  check_value("--layers-by", job.layers_by, kLayersBy);
  check_value("--experts", job.experts.value_or(1), kExperts);
  check_value("--rounds", job.rounds, kRounds);
  check_value("--align", job.align, kAlign);
  check_value("--windows", job.windows, kShrinkWindows);
  check_value("--damping", job.damping, kDamping);
  check_value("--alpha", job.alpha, kMadeUpFor);
  check_value("--beta", job.beta, kMadeUpFor);
}

}  // namespace

PreparedShrink prepare(const ShrinkJob& job, const Model& model, Device& device, ComputeType compute,
                       const GivenFn& given, Communicator& ranks) {
  device.check_ranks(ranks);
  if (!job.plan.empty()) {
    refuse(given,
           {"ratio", "target-params", "target-ms", "units", "experts", "no-keep-super", "rounds", "align",
            "non-uniform", "widths-by", "layers-by", "resume"},
           "--plan");
    return prepare_units(job, model, device, compute, ranks);
  }
  if (job.units == "experts") {
    refuse(given, {"target-params", "target-ms", "align", "widths-by", "layers-by", "alpha", "beta"},
           "--units experts");
    return prepare_experts(job, model, compute);
  }
  refuse(given, {"experts", "no-keep-super", "rounds", "resume"}, "--units " + job.units);
  if (job.units == "mlp" && experts_of(model.config()) != nullptr) {
    refuse(
        given,
        {"target-params", "target-ms", "non-uniform", "widths-by", "layers-by", "alpha", "beta", "dry-run"},
        "--units mlp of a model with experts");
    return prepare_expert_channels(job, model, compute);
  }
  return prepare_units(job, model, device, compute, ranks);
}

std::optional<ShrinkReport> shrink(const ShrinkJob& job, PreparedShrink prepared, const Model& model,
                                   Device& device, const JobOrigin& origin, const NoteFn& note,
                                   Communicator& ranks) {
  const ShrinkingOf run{job, model, device, origin, note, ranks};
  return std::visit(
      Overloaded{
          [&](UnitsToRemove& units) { return shrink_units(run, std::move(units)); },
          [&](RemoveExpertsOptions& options) { return shrink_experts(run, std::move(options)); },
          [&](NarrowExpertsOptions& options) { return shrink_expert_channels(run, std::move(options)); }},
      prepared);
}

TokenWindows shrink_windows(const ShrinkingOf& run, ComputeType compute, const ProgressFn& progress) {
  TokenWindows windows = calibration_windows(run.note, run.model, run.device, run.job.calibration,
                                             run.job.windows, false, compute, progress);
  check_same_on_ranks(run.ranks, {{"calibration text", windows.hash()}});
  return windows;
}

std::string kept_layers(const ShrinkJob& job) {
  if (!job.resume) return "";
  std::ifstream file(partial_folder(job.out) / JournalLines::kFileName);
  std::size_t layers = 0;
  read_journal_lines(file, [&](const ordered_json&) { return ++layers > 0; });
  return layers > 0 ? blocks_kept(layers) : std::string();
}

std::int64_t num_parameters(const Checkpoint& checkpoint) {
  std::int64_t sum = 0;
  for (const TensorInfo& tensor : checkpoint.tensors()) sum += tensor.numel();
  return sum;
}

ordered_json shrink_record(const ShrinkRecordOf& run, const ordered_json& own, ordered_json hashes) {
  ordered_json record = {{"swiftprune", SWIFTPRUNE_VERSION},
                         {"command", run.command},
                         {"method", run.method},
                         {"family", run.model.config().family},
                         {"weights_changed", run.compensation != "none"},
                         {"compensation", run.compensation}};
  record.update(own);
  record.update(
      {{"parameters", {{"dense", num_parameters(run.model.checkpoint())}, {"shrunk", run.report.parameters}}},
       {"calibration", calibration_record(run.report.calibration)},
       {"input", std::move(hashes)},
       {"machine", machine_record()},
       {"seconds", seconds_record(run.seconds)},
       {"tensors", ordered_json::array()}});  // nothing is zero
  record["machine"].update(run.device.describe().machine);
  if (run.ranks.size() > 1) record["machine"]["ranks"] = run.ranks.size();
  if (ordered_json previous = previous_record(run.model.checkpoint()); !previous.is_null())
    record["previous"] = std::move(previous);
  return record;
}

std::future<ordered_json> hashes_aside(const Model& model, const Device& device) {
  return std::async(device.leaves_processor_free() ? std::launch::async : std::launch::deferred,
                    [&model, context = current_run()] {
                      const RunScope scope(context);
                      return model_hashes(model.checkpoint());
                    });
}

Outcome<ShrinkReport> ShrinkJob::run(const JobContext& context) const {
  return outcome_of([&] {
    const RunScope scope(context.run);
    check_values(*this);
    ShrinkJob job = *this;
    const LocatedModel located = locate_model(model);
    check_outside("--out", out, located.folder);
    const auto device = open_device(where.device, where.options);
    const auto opened = Model::open(located.folder);
    for (const std::string& note : opened->notes()) context.note(note);
    job.calibration.fit_to(*opened);
    device->check_model(*opened);
    const ordered_json asked = options_of(*this), defaults = options_of(ShrinkJob());
    const GivenFn given = [&](std::string_view option) {
      if (option == "resume") return resume;
      const std::string name(option);
      return asked.contains(name) && asked[name] != defaults[name];
    };
    PreparedShrink prepared = prepare(job, *opened, *device, compute_by_name(where.compute, *device), given);
    const JobOrigin origin = origin_of({"shrink", model, out}, asked, defaults, options_of(job));
    return *shrink(job, std::move(prepared), *opened, *device, origin, context.note);
  });
}

}  // namespace swiftprune
