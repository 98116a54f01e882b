#include "swiftprune/pilot/pilot.h"

#include <algorithm>
#include <chrono>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/device/device.h"
#include "swiftprune/pilot/block_trial.h"
#include "swiftprune/pilot/trial.h"
#include "swiftprune/pipeline/checkpoint_output.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/choices/sensitivities.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/drivers/remove_experts.h"
#include "swiftprune/pipeline/expert_checkpoint.h"

namespace swiftprune {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Candidate {
  const Method* method = nullptr;  // null: experts are taken out
  Pattern pattern = {};
  double sparsity = 0.5;  // of unstructured patterns
  double expert_ratio = 0.0;
  double estimated_seconds = 0.0;

  bool removes_experts() const { return method == nullptr; }
  bool unstructured() const { return pattern.kind == Pattern::Kind::kRow; }
  std::string target() const {
    return unstructured() ? fmt::format("{:.0f} %", 100.0 * sparsity) : format(pattern);
  }
  std::string name() const {
    if (removes_experts()) return fmt::format("{:.0f} % of experts out", 100.0 * expert_ratio);
    return fmt::format("{} {}", method->name, target());
  }
};

class Pilot {
 public:
  Pilot(const Model& model, Device& device, const PilotText& text, const PilotOptions& options)
      : model_(model), device_(device), text_(text), options_(options) {
    for (const std::string& name : options.methods) {
      const Method& method = method_by_name(name);
      for (const double sparsity : options.sparsities) candidates_.push_back({&method, {}, sparsity});
      for (const std::string& pattern : options.patterns) {
        candidates_.push_back({&method, parse_pattern(pattern), 0.0});
        if (candidates_.back().pattern.kind != Pattern::Kind::kNofM) {
          bad_usage("--pattern: found {}, expected N:M such as 2:4", pattern);
        }
      }
    }
    if (model.config().has_experts()) add_expert_ratios();
    if (candidates_.empty()) bad_usage("pilot: found no --sparsity and no --pattern, expected at least one");
  }

  ComparisonReport run() {
    estimate();
    for (const Candidate& candidate : candidates_) {
      if (!trials_.empty() && seconds_since(start_) + seconds_of(candidate) > options_.budget_seconds) {
        left_out_.push_back(candidate.name());
        continue;
      }
      try_whole(candidate);
    }
    return finish();
  }

 private:
  void add_expert_ratios() {
    for (const double ratio : options_.expert_ratios) {
      try {
        check_experts_left(model_.config(), experts_for_ratio(model_.config(), ratio), "--expert-ratio");
        candidates_.push_back({.expert_ratio = ratio});
      } catch (const Error& error) {
        notes_.push_back(
            fmt::format("Passed over {:.0f} % of the experts: {}.", 100.0 * ratio, error.what()));
      }
    }
  }

  // The first windows, as many as the method wants and the text has.
  TokenWindows calibration(const Method& method) const {
    const std::int64_t count = std::min(device_.default_windows(method, model_, text_.calibration.seqlen),
                                        text_.calibration.num_windows());
    TokenWindows windows{text_.calibration.seqlen, {}};
    windows.ids.assign(text_.calibration.ids.begin(),
                       text_.calibration.ids.begin() + count * text_.calibration.seqlen);
    return windows;
  }

  Plan plan_of(const Candidate& candidate) const {
    PlanDefaults defaults;
    defaults.pattern = candidate.pattern;
    defaults.sparsity = candidate.sparsity;
    defaults.score = candidate.unstructured() ? candidate.method->score : candidate.method->n_m_score;
    defaults.refine = candidate.method->refine;
    return uniform_plan(model_, defaults, {});
  }

  PruneOptions options_of(const Candidate& candidate) const {
    PruneOptions options;
    options.select = candidate.method->select;
    options.propagation = candidate.method->propagation;
    options.compute = options_.forward.compute;
    options.progress = options_.forward.progress;
    return options;
  }

  TokenWindows windows_of(const Candidate& candidate, const Plan& plan) const {
    return needs_calibration(plan) ? calibration(*candidate.method) : TokenWindows();
  }

  // Each method on the first blocks: what a whole run will take, and the error of a layer's output.
  void estimate() {
    for (Candidate& candidate : candidates_) {
      if (candidate.removes_experts()) continue;  // what the first of them takes tells of the others
      const Plan plan = plan_of(candidate);
      const PruneOptions options = options_of(candidate);
      device_.check_plan(model_, plan, options);
      const BlockTrial trial = try_first_blocks(model_, device_, plan, windows_of(candidate, plan), options);
      candidate.estimated_seconds = trial.whole_seconds + measure_seconds_;
      double error = 0.0;
      int count = 0;
      for (const TensorResult& tensor : trial.result.tensors) {
        if (tensor.error && tensor.sparsity > 0.0) error += *tensor.error, ++count;
      }
      trial_notes_.push_back(
          fmt::format("{}: {:.1f} s{}", candidate.name(), trial.seconds,
                      count > 0 ? fmt::format(", mean output error {:.4f}", error / count) : ""));
    }
    std::stable_sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
      return a.estimated_seconds < b.estimated_seconds;
    });
  }

  // Nothing is measured of experts: with them the sparsity is the same everywhere.
  bool allocates(const Candidate& candidate) const {
    return !candidate.removes_experts() && candidate.method->allocates && candidate.unstructured() &&
           !model_.config().has_experts();
  }

  // The first run that allocates measures sensitivities too: about half as much again.
  double seconds_of(const Candidate& candidate) const {
    const bool measures = allocates(candidate) && sensitivities_.empty();
    return candidate.estimated_seconds * (measures ? 1.0 + kAllocationShare : 1.0);
  }

  void allocate(const Candidate& candidate, Plan& plan) {
    if (!allocates(candidate)) return;
    // What half of each linear's weights are worth does not depend on the sparsity on trial.
    if (sensitivities_.empty()) {
      sensitivities_ = device_
                           .measure_sensitivities(model_, plan, calibration(*candidate.method),
                                                  options_.forward.compute, options_.forward.progress)
                           .values;
    }
    allocate_by_sensitivity(sensitivities_, plan);
  }

  using Stages = std::vector<std::pair<std::string, double>>;

  Stages prune(const Candidate& candidate, const std::filesystem::path& folder) {
    Plan plan = plan_of(candidate);
    const auto begin = Clock::now();
    allocate(candidate, plan);
    const double allocate_seconds = seconds_since(begin);
    CheckpointWriter writer(folder, plan_like(model_.checkpoint()));
    CheckpointOutput output(model_.checkpoint(), writer);
    const PruneOptions options = options_of(candidate);
    device_.check_plan(model_, plan, options);
    const PruneResult result = device_.prune(model_, plan, windows_of(candidate, plan), options, output);
    output.copy_rest();
    writer.copy_other_files(model_.checkpoint());
    writer.finish();
    const StageSeconds& t = result.seconds;
    return {
        {"allocate", allocate_seconds}, {"load", t.load},     {"calibrate", t.calibrate}, {"score", t.score},
        {"select", t.select},           {"refine", t.refine}, {"write", t.write}};
  }

  // As `shrink --units experts` does by default.
  Stages take_experts_out(const Candidate& candidate, const std::filesystem::path& folder) {
    RemoveExpertsOptions options;
    options.keep = experts_for_ratio(model_.config(), candidate.expert_ratio);
    options.scorer = &expert_scorer("ours");
    options.refit = can_refit_experts(model_);
    options.compute = options_.forward.compute;
    if (options_.forward.progress) options.progress = options_.forward.progress;
    ExpertCheckpoint output(model_, options.keep, folder);
    const RemoveExpertsResult result = device_.remove_experts(model_, text_.calibration, options, output);
    output.finish(nlohmann::ordered_json::object());
    const ShrinkSeconds& t = result.seconds;
    return {{"load", t.load}, {"forward", t.forward}, {"solve", t.solve}, {"write", t.write}};
  }

  void try_whole(const Candidate& candidate) {
    const TemporaryFolder folder(options_.work / fmt::format("trial-{}", trials_.size()));
    const auto begin = Clock::now();
    const auto stages = candidate.removes_experts() ? take_experts_out(candidate, folder.path())
                                                    : prune(candidate, folder.path());
    const double seconds = seconds_since(begin);
    const auto start = Clock::now();
    const auto pruned = Model::open(folder.path());
    ComparisonInput input;
    input.models = {&model_, pruned.get()};
    input.folders = {options_.model, candidate.name()};
    input.text = options_.text;
    input.convention = text_.convention;
    input.parts = text_.evaluation;
    input.bytes_per_token = options_.bytes_per_token;
    input.masks = options_.masks;
    input.forward = options_.forward;
    ComparisonReport comparison = compare(input, device_);
    ModelReport trial = std::move(comparison.models[1]);
    if (trials_.empty()) {
      comparison.models.pop_back();
      report_ = std::move(comparison);
      report_.models[0].decode_tokens_per_second = speed_of(model_);
    }
    describe(candidate, stages, trial);
    measure_packed(
        *pruned, options_.work / fmt::format("trial-{}-packed", trials_.size()),
        [this](const Model& packed) { return speed_of(packed); }, trial);
    measure_seconds_ = seconds_since(start);
    for (Candidate& other : candidates_) {
      if (candidate.removes_experts() && other.removes_experts())
        other.estimated_seconds = seconds + measure_seconds_;
    }
    const double left = static_cast<double>(trial.summary.num_parameters) /
                        static_cast<double>(report_.models[0].summary.num_parameters);
    const double gone = 1.0 - (1.0 - trial.summary.sparsity) * left;
    trials_.push_back({candidate, std::move(trial), gone});
  }

  void describe(const Candidate& candidate, const Stages& stages, ModelReport& trial) const {
    ModelSummary& s = trial.summary;
    s.name = candidate.name();
    s.folder.clear();
    s.method = candidate.removes_experts() ? "experts" : std::string(candidate.method->name);
    s.stage_seconds = {stages.begin(), stages.end()};
    s.prune_command = command(candidate);
  }

  // The whole text may calibrate the real run.
  std::vector<std::string> command(const Candidate& candidate) const {
    if (candidate.removes_experts()) return expert_command(candidate);
    std::vector<std::string> arguments = {"swiftprune",
                                          "prune",
                                          options_.model,
                                          "--out",
                                          "PRUNED",
                                          "--method",
                                          std::string(candidate.method->name)};
    if (candidate.unstructured()) {
      arguments.insert(arguments.end(), {"--sparsity", fmt::format("{}", candidate.sparsity)});
    } else {
      arguments.insert(arguments.end(), {"--pattern", format(candidate.pattern)});
    }
    if (options_.device != "cpu") arguments.insert(arguments.end(), {"--device", options_.device});
    if (needs_calibration(plan_of(candidate))) {
      const std::int64_t windows = calibration(*candidate.method).num_windows();
      arguments.insert(arguments.end(), {"--calibration", options_.text, "--windows", std::to_string(windows),
                                         "--seqlen", std::to_string(text_.calibration.seqlen)});
    }
    arguments.insert(arguments.end(), options_.prune_arguments.begin(), options_.prune_arguments.end());
    return arguments;
  }

  std::vector<std::string> expert_command(const Candidate& candidate) const {
    std::vector<std::string> arguments = {"swiftprune",
                                          "shrink",
                                          options_.model,
                                          "--out",
                                          "SHRUNK",
                                          "--units",
                                          "experts",
                                          "--ratio",
                                          fmt::format("{}", candidate.expert_ratio),
                                          "--calibration",
                                          options_.text,
                                          "--windows",
                                          std::to_string(text_.calibration.num_windows()),
                                          "--seqlen",
                                          std::to_string(text_.calibration.seqlen)};
    arguments.insert(arguments.end(), options_.prune_arguments.begin(), options_.prune_arguments.end());
    return arguments;
  }

  double speed_of(const Model& model) const {
    return decode_speed(model, device_, text_.evaluation.front().windows.window(0), options_.forward.compute);
  }

  struct Trial {
    Candidate candidate;
    ModelReport report;
    double ratio() const { return report.divergence->perplexity_ratio; }
    // Of all parameters what was taken out, of what is left the linears' share of zeros.
    double gone = 0.0;
  };

  const Trial& recommended() const {
    const double limit = options_.max_perplexity_ratio;
    const auto better = [limit](const Trial& a, const Trial& b) {
      const bool a_keeps = a.ratio() <= limit, b_keeps = b.ratio() <= limit;
      if (a_keeps != b_keeps) return a_keeps;
      // Within a hundredth, sparsities count as the same.
      if (a_keeps && std::abs(a.gone - b.gone) > 0.01) return a.gone > b.gone;
      return a.ratio() < b.ratio();
    };
    const Trial* best = &trials_.front();
    for (const Trial& trial : trials_) {
      if (better(trial, *best)) best = &trial;
    }
    return *best;
  }

  ComparisonReport finish() {
    const Trial& best = recommended();
    report_.title = fmt::format("Pilot of {}", report_.models[0].summary.name);
    report_.recommendation = shell_command(best.report.summary.prune_command);
    report_.recommended = best.candidate.name();
    report_.notes.push_back(
        best.ratio() <= options_.max_perplexity_ratio
            ? fmt::format(
                  "{} is the sparsest trial whose perplexity stays within {:.2f} times the dense model's.",
                  best.candidate.name(), options_.max_perplexity_ratio)
            : fmt::format(
                  "No trial stays within {:.2f} times the dense model's perplexity; {} comes nearest.",
                  options_.max_perplexity_ratio, best.candidate.name()));
    report_.notes.push_back(fmt::format("First {} blocks alone: {}.",
                                        std::min(kTrialBlocks, model_.config().num_layers()),
                                        fmt::join(trial_notes_, "; ")));
    report_.notes.insert(report_.notes.end(), notes_.begin(), notes_.end());
    if (!left_out_.empty()) {
      report_.notes.push_back(
          fmt::format("Left out, for they would not have ended in time: {}.", fmt::join(left_out_, ", ")));
    }
    std::stable_sort(trials_.begin(), trials_.end(),
                     [](const Trial& a, const Trial& b) { return a.ratio() < b.ratio(); });
    for (Trial& trial : trials_) {
      report_.commands.push_back(shell_command(trial.report.summary.prune_command));
      report_.models.push_back(std::move(trial.report));
    }
    return std::move(report_);
  }

  const Model& model_;
  Device& device_;
  const PilotText& text_;
  const PilotOptions& options_;
  Clock::time_point start_ = Clock::now();
  std::vector<Candidate> candidates_;  // cheapest first, after estimate()
  std::vector<double> sensitivities_;
  double measure_seconds_ = 0.0;  // of the last trial's comparison
  std::vector<std::string> notes_, trial_notes_, left_out_;
  std::vector<Trial> trials_;
  ComparisonReport report_;
};

}  // namespace

PilotText split_text(const std::vector<std::int32_t>& ids, const std::string& name,
                     std::int64_t max_positions, std::int64_t max_calibration, std::int64_t max_evaluation) {
  constexpr std::int64_t kWindows = 4, kShortest = 64, kLongest = 2048;
  const std::int64_t half = std::ssize(ids) / 2;
  std::int64_t seqlen = kLongest;
  const auto fits = [&] { return seqlen <= max_positions && half / seqlen >= kWindows; };
  while (seqlen > kShortest && (!fits() || max_evaluation / seqlen < kWindows)) seqlen /= 2;
  if (!fits()) {
    bad_input("{}: found {} tokens, expected at least {} for calibration and evaluation; use a longer text",
              name, ids.size(), 2 * kWindows * kShortest);
  }
  const auto windows = [&](std::int64_t first, std::int64_t most) {
    const std::int64_t count = std::clamp<std::int64_t>(most / seqlen, 1, half / seqlen);
    return TokenWindows{seqlen, {ids.begin() + first, ids.begin() + first + count * seqlen}};
  };
  PilotText text;
  text.calibration = windows(0, max_calibration);
  ScoredWindows scored{windows(half, max_evaluation), {}};
  scored.first_target.assign(static_cast<std::size_t>(scored.windows.num_windows()), 1);
  text.evaluation = {std::move(scored)};
  text.convention = label_of(ConventionOptions{.seqlen = seqlen}) + ", second half of the text";
  return text;
}

ComparisonReport run_pilot(const Model& model, Device& device, const PilotText& text,
                           const PilotOptions& options) {
  return Pilot(model, device, text, options).run();
}

}  // namespace swiftprune
