#include "swiftprune/api/compare_job.h"

#include "swiftprune/api/option_values.h"
#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/run_context.h"

namespace swiftprune {
namespace {

void check_values(const GateLimits& gates) {
  using namespace option_values;
  check_value("--max-perplexity-ratio", gates.max_perplexity_ratio.value_or(1.0), kMaxPerplexityRatio);
  check_value("--min-top1", gates.min_top1.value_or(0.0), kMinTop1);
  check_value("--max-kl", gates.max_kl.value_or(0.0), kMaxKl);
  check_value("--max-loops", gates.max_loops.value_or(0.0), kMaxLoops);
  check_value("--max-length-change", gates.max_length_change.value_or(0.0), kMaxLengthChange);
  check_value("--min-exact", gates.min_exact.value_or(0.0), kMinExact);
}

std::vector<Prompt> refusal_prompts(const CompareJob& job) {
  if (job.refusals.empty()) return {};
  std::vector<Prompt> prompts = read_prompts(job.refusals);
  for (Prompt& prompt : prompts)
    prompt.accept.insert(prompt.accept.end(), job.accept.begin(), job.accept.end());
  return prompts;
}

}  // namespace

std::vector<std::string> default_masks(const Model& model) {
  const BlockConfig& block = model.config().blocks[static_cast<std::size_t>(model.config().num_layers() / 2)];
  const std::vector<LinearTensors> linears = linears_of(block);
  std::vector<std::string> masks = {linears.front().name + ".weight"};
  // Not where all of the MLP are experts.
  if (linears.back().input == LinearInput::kMlpOutput) masks.push_back(linears.back().name + ".weight");
  return masks;
}

std::string adapter_of(const CompareJob& job, std::size_t model) {
  if (model == 0 || job.adapters.empty()) return {};
  const std::string& adapter = job.adapters.at(model - 1);
  return adapter == "none" ? std::string() : adapter;
}

void check(const CompareJob& job) {
  check_values(job.texts);
  check_value("--max-tokens", job.max_tokens, option_values::kAnswerTokens);
  check_value("--error-tokens", job.error_tokens, option_values::kErrorTokens);
  check_values(job.gates);
  if (!job.adapters.empty() && job.adapters.size() != job.pruned.size()) {
    bad_usage("--adapter: found {} for {} pruned models, expected one for each, or none", job.adapters.size(),
              job.pruned.size());
  }
  if (job.texts.files.empty() && job.prompts.empty() && job.refusals.empty()) {
    bad_usage("compare: found no --text, --prompts or --refusals, expected at least one");
  }
  if (job.gates.on_text() && job.texts.files.empty()) {
    bad_usage("gates (--max-perplexity-ratio, --min-top1, --max-kl): found no measurement, expected --text");
  }
  if (job.gates.on_answers() && job.prompts.empty()) {
    bad_usage(
        "gates (--max-loops, --max-length-change, --min-exact): found no measurement, expected --prompts");
  }
  if (!job.accept.empty() && job.refusals.empty())
    bad_usage("--accept: found no prompts, expected --refusals");
  if (job.pruned.empty())
    bad_usage("PRUNED: found no model, expected at least one to compare with the dense one");
}

ComparisonInput comparison_input(const CompareJob& job, std::span<const std::unique_ptr<Model>> models,
                                 ComputeType compute, const NoteFn& note) {
  ComparisonInput input;
  for (const auto& model : models) input.models.push_back(model.get());
  input.forward.compute = compute;
  input.forward.progress = current_run().progress;
  if (!job.texts.files.empty()) read_texts(*models[0], job.texts, note, input);
  if (!job.prompts.empty()) input.prompts = read_prompts(job.prompts);
  input.refusals = refusal_prompts(job);
  input.max_tokens = job.max_tokens;
  input.error_tokens = job.error_tokens;
  input.masks = job.masks;
  input.gates = job.gates;
  return input;
}

Outcome<ComparisonReport> CompareJob::run(const JobContext& context) const {
  return outcome_of([&] {
    const RunScope scope(context.run);
    check(*this);
    const auto device = open_device(where.device, where.options);
    std::vector<std::string> names = {dense};
    names.insert(names.end(), pruned.begin(), pruned.end());
    std::vector<LocatedModel> located;
    std::vector<std::unique_ptr<Model>> models;
    for (const std::string& name : names) {
      located.push_back(locate_model(name));
      models.push_back(Model::open(located.back().folder, adapter_of(*this, models.size())));
      for (const std::string& note : models.back()->notes()) context.note(note);
      device->check_model(*models.back());
    }
    ComparisonInput input =
        comparison_input(*this, models, compute_by_name(where.compute, *device), context.note);
    for (const LocatedModel& model : located) input.folders.push_back(model.folder.string());
    if (input.masks.empty()) input.masks = default_masks(*models[0]);
    ComparisonReport report = compare(input, *device);
    for (std::size_t i = 0; i < names.size(); ++i) report.models[i].summary.folder = names[i];
    return report;
  });
}

}  // namespace swiftprune
