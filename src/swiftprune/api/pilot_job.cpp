#include "swiftprune/api/pilot_job.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <variant>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "swiftprune/api/prune_job.h"
#include "swiftprune/api/shrink_job.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/overloaded.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/device/device.h"
#include "swiftprune/evaluation/perplexity.h"
#include "swiftprune/pilot/block_trial.h"
#include "swiftprune/pilot/trial.h"
#include "swiftprune/pipeline/choices/allocate_bits.h"
#include "swiftprune/pipeline/choices/sensitivities.h"
#include "swiftprune/text/corpus.h"

namespace swiftprune {
namespace {

using Clock = std::chrono::steady_clock;
double elapsed(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Fewer say nothing.
constexpr std::int64_t kFewestWindows = 2;
// What the first blocks are tried on.
constexpr std::int64_t kTrialWindows = 4;
// Of a run's time what does not depend on the number of windows (reading, solving, writing).
constexpr double kFixedShare = 0.3;
constexpr const char* kIds = "ids.u32";

struct Candidate {
  std::string name;
  std::variant<PruneJob, ShrinkJob> job;
  std::string method;  // of the page
  // The share of the linears' outputs, in squares, that is expected to go: measured on the first blocks, or of units that
  // are removed the square of their share. Orders the trials.
  double harm = 0.0;
  std::optional<double> block_error = {};
  double seconds = 0.0;  // expected, of the whole run
  double size = 1.0;     // expected of what is stored, as a share of the dense linears' 16 bits

  bool prunes() const { return std::holds_alternative<PruneJob>(job); }
  bool has_few_bits() const { return prunes() && !std::get<PruneJob>(job).quantize.empty(); }
};

std::string percent(double share) { return fmt::format("{:.4g} %", 100.0 * share); }

class Pilot {
 public:
  Pilot(const PilotJob& job, const PilotRun& run, const Model& model, Device& device)
      : job_(job),
        run_(run),
        model_(model),
        device_(device),
        calibration_(run.work / "calibration"),
        evaluation_(run.text.evaluation) {
    std::filesystem::create_directories(calibration_.path());
    write_token_ids(calibration_.path() / kIds, run.text.calibration.ids);
    list_prunings();
    list_few_bits();
    list_units();
    if (candidates_.empty())
      bad_usage(
          "pilot: found nothing to try, expected at least one of --sparsity, --pattern, --shrink, "
          "--quantize");
  }

  ComparisonReport run() {
    estimate();
    fit_to_time();
    for (std::vector<Candidate> waiting = candidates_; !waiting.empty();) {
      const auto candidate = next_of(waiting);
      const auto fits = [this](const Candidate& c) { return ends_in_time(c); };
      // One is tried whatever the time: the gentlest, where none ends in it.
      const bool alone = trials_.empty() && std::ranges::none_of(waiting, fits);
      if (alone || fits(*candidate))
        try_whole(*candidate);
      else
        left_out_.push_back(candidate->name);
      waiting.erase(candidate);
    }
    return finish();
  }

 private:
  double budget() const { return 60.0 * job_.minutes; }
  bool ends_in_time(const Candidate& candidate) const {
    return elapsed(start_) + candidate.seconds * slowness_ + measure_seconds_ <= budget();
  }
  // The gentlest of those that would be smaller than what keeps the limit already, since they alone can still be
  // recommended; then the gentlest of the others.
  std::vector<Candidate>::const_iterator next_of(const std::vector<Candidate>& waiting) const {
    const auto smaller = std::ranges::find_if(
        waiting, [this](const Candidate& candidate) { return candidate.size < kept_size_; });
    return smaller == waiting.end() ? waiting.begin() : smaller;
  }
  // Where each trial stands while it is measured.
  std::string trial_folder() const { return (run_.work / "trial").string(); }

  // Of the pilot's own half of the text.
  void calibrate_on_half(CalibrationText& calibration) const {
    calibration.sources = {(calibration_.path() / kIds).string()};
    calibration.seqlen = run_.text.calibration.seqlen;
    calibration.seqlen_given = true;
  }

  PruneJob pruning(const std::string& method) const {
    PruneJob job;
    job.model = job_.model;
    job.out = trial_folder();
    job.method = method;
    job.where = job_.where;
    calibrate_on_half(job.calibration);
    job.windows = std::to_string(
        std::min(device_.default_windows(method_by_name(method), model_, job.calibration.seqlen),
                 run_.text.calibration.num_windows()));
    return job;
  }

  void list_prunings() {
    for (const std::string& method : job_.methods) {
      for (const double sparsity : job_.sparsities) {
        PruneJob job = pruning(method);
        job.sparsity = sparsity;
        job.sparsity_given = true;
        candidates_.push_back({fmt::format("{} {}", method, percent(sparsity)), job, method});
      }
      for (const std::string& pattern : job_.patterns) {
        if (parse_pattern(pattern).kind != Pattern::Kind::kNofM)
          bad_usage("--pattern: found {}, expected N:M such as 2:4", pattern);
        PruneJob job = pruning(method);
        job.pattern = pattern;
        candidates_.push_back({fmt::format("{} {}", method, pattern), job, method});
      }
    }
  }

  void list_few_bits() {
    for (const std::string& bits : job_.bits) {
      PruneJob job = pruning(std::string(kDefaultMethod));
      job.sparsity = 0.0;
      job.zeros = false;
      job.quantize = bits;
      candidates_.push_back({bits, job, job.method});
    }
  }

  void list_units() {
    const bool experts = model_.config().has_experts();
    for (const double ratio : experts ? job_.expert_ratios : job_.shrink_ratios) {
      ShrinkJob job;
      job.model = job_.model;
      job.out = trial_folder();
      job.ratio = ratio;
      job.where = job_.where;
      if (experts) job.units = "experts";
      calibrate_on_half(job.calibration);
      job.windows = std::min(job.windows, run_.text.calibration.num_windows());
      if (experts) job.windows = run_.text.calibration.num_windows();
      candidates_.push_back(
          {experts ? fmt::format("{} of experts out", percent(ratio)) : "shrink " + percent(ratio), job,
           experts ? "experts" : "shrink"});
    }
  }

  PreparedShrink prepared(const ShrinkJob& job) const {
    return prepare(job, model_, device_, run_.compute, [](std::string_view) { return false; });
  }

  // Each on the first blocks: the error of their outputs, and what a whole run will take. What cannot be done here is passed
  // over. Gentle ones come first.
  void estimate() {
    std::vector<Candidate> possible;
    std::string refusal;
    double seconds = 0.0;
    std::size_t counted = 0;
    for (Candidate& candidate : candidates_) {
      try {
        if (const auto* job = std::get_if<PruneJob>(&candidate.job)) {
          seconds += try_blocks(*job, candidate), ++counted;
        } else {
          const auto& shrinking = std::get<ShrinkJob>(candidate.job);
          static_cast<void>(prepared(shrinking));
          candidate.harm = *shrinking.ratio * *shrinking.ratio;
          candidate.size = 1.0 - *shrinking.ratio;
        }
        possible.push_back(std::move(candidate));
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kUsage && error.kind() != ErrorKind::kBadInput) throw;
        refusal = error.what();
        notes_.push_back(fmt::format("Passed over {}: {}.", candidate.name, refusal));
      }
    }
    if (possible.empty())
      bad_usage("pilot: nothing of what was asked for can be done with this model: {}", refusal);
    for (Candidate& candidate : possible) {
      if (!candidate.prunes() && counted > 0) candidate.seconds = seconds / static_cast<double>(counted);
    }
    std::stable_sort(possible.begin(), possible.end(),
                     [](const Candidate& a, const Candidate& b) { return a.harm < b.harm; });
    candidates_ = std::move(possible);
  }

  // Seconds of the whole run.
  double try_blocks(const PruneJob& job, Candidate& candidate) const {
    PruneJob shorter = job;
    const std::int64_t whole = std::stoll(job.windows), windows = std::min(whole, kTrialWindows);
    shorter.windows = std::to_string(windows);
    const PreparedPrune prepared = prepare(shorter, model_, device_, run_.compute);
    const BlockTrial trial =
        try_first_blocks(model_, device_, prepared.plan, windows_of(shorter, prepared), prepared.options);
    constexpr double kBits = 16.0;  // with one more a weight where zeros are packed
    candidate.size = prepared.plan.quantizes() ? packed_bits(prepared.plan) / kBits
                                               : std::min(1.0, 1.0 - prepared.plan.sparsity() + 1.0 / kBits);
    const double times = static_cast<double>(whole) / static_cast<double>(windows);
    candidate.seconds = trial.whole_seconds * (kFixedShare + (1.0 - kFixedShare) * times);
    double error = 0.0;
    int count = 0;
    for (const TensorResult& tensor : trial.result.tensors) {
      if (tensor.error) error += *tensor.error, ++count;
    }
    if (count > 0) candidate.block_error = error / count;
    // Without text no error is measured: as if a pruned weight's share of the outputs went.
    candidate.harm = candidate.block_error.value_or(prepared.plan.sparsity());
    return candidate.seconds;
  }

  TokenWindows windows_of(const PruneJob& job, const PreparedPrune& prepared) const {
    if (!needs_calibration(prepared.plan) && !prepared.allocates) return {};
    return calibrate(job, prepared, model_, device_, [](const std::string&) {}).windows;
  }

  // Where all trials would not end in time, all get fewer windows to calibrate and to measure on.
  void fit_to_time() {
    const std::int64_t measured = num_evaluated();
    measure_seconds_ = seconds_of_window() * 2.0 * static_cast<double>(measured);  // the dense model's, too
    double runs = 0.0;
    bool measures = false;
    for (const Candidate& candidate : candidates_) {
      runs += candidate.seconds;
      if (allocates(candidate) && !std::exchange(measures, true))
        runs += kAllocationShare * candidate.seconds;
    }
    const double measuring = measure_seconds_ * static_cast<double>(candidates_.size());
    const double left = budget() - elapsed(start_);
    if (runs + measuring <= left) return;
    const double variable = (1.0 - kFixedShare) * runs + measuring;
    const double share = std::clamp((left - kFixedShare * runs) / variable, 0.0, 1.0);
    const auto fewer = [&](std::int64_t windows) {
      const auto wanted = static_cast<std::int64_t>(std::floor(share * static_cast<double>(windows)));
      return std::min(windows, std::max(kFewestWindows, wanted));
    };
    for (Candidate& candidate : candidates_) {
      std::visit(
          Overloaded{[&](PruneJob& job) { job.windows = std::to_string(fewer(std::stoll(job.windows))); },
                     [&](ShrinkJob& job) { job.windows = fewer(job.windows); }},
          candidate.job);
      candidate.seconds *= kFixedShare + (1.0 - kFixedShare) * share;
    }
    const std::int64_t kept = fewer(measured);
    cut_evaluation(kept);
    measure_seconds_ *= static_cast<double>(kept) / static_cast<double>(measured);
    notes_.push_back(fmt::format(
        "To end in time, {} of {} windows are measured, and as much fewer calibrate; --minutes gives more.",
        kept, measured));
  }

  std::int64_t num_evaluated() const {
    std::int64_t count = 0;
    for (const ScoredWindows& part : evaluation_) count += part.windows.num_windows();
    return count;
  }

  void cut_evaluation(std::int64_t count) {
    for (ScoredWindows& part : evaluation_) {
      const std::int64_t kept = std::min(count, part.windows.num_windows());
      part.windows.ids.resize(static_cast<std::size_t>(kept * part.windows.seqlen));
      part.first_target.resize(static_cast<std::size_t>(kept));
      count -= kept;
    }
    std::erase_if(evaluation_, [](const ScoredWindows& part) { return part.windows.num_windows() == 0; });
  }

  ForwardOptions forward() const { return {.compute = run_.compute, .progress = current_run().progress}; }

  double seconds_of_window() const {
    const ScoredWindows& part = evaluation_.front();
    const auto window = part.windows.window(0);
    ScoredWindows one{TokenWindows{part.windows.seqlen, {window.begin(), window.end()}}, {}};
    one.first_target = {part.first_target.front()};
    const Model* models[] = {&model_};
    const auto forwards = device_.text_forwards(models, forward());
    const auto begin = Clock::now();
    static_cast<void>(perplexity(model_, *forwards, std::span(&one, 1), current_run().progress));
    return elapsed(begin);
  }

  bool allocates(const Candidate& candidate) const {
    const auto* job = std::get_if<PruneJob>(&candidate.job);
    return job != nullptr && prepare(*job, model_, device_, run_.compute).allocates;
  }

  // What half of each linear's weights are worth does not depend on the sparsity on trial: it is measured once.
  void spread_zeros(const PruneJob& job, PreparedPrune& prepared) {
    if (!prepared.allocates || prepared.bits) return;
    if (!sensitivities_) {
      sensitivities_ = device_.measure_sensitivities(model_, prepared.plan, windows_of(job, prepared),
                                                     run_.compute, prepared.options.progress);
    }
    prepared.options.readers = sensitivities_->readers;
    allocate_by_sensitivity(sensitivities_->values, prepared.plan);
    prepared.allocates = false;
  }

  using Stages = std::vector<std::pair<std::string, double>>;

  Stages write(const Candidate& candidate) {
    const JobOrigin origin{.command = {{"arguments", command(candidate)}}, .options = {}};
    const NoteFn note = [](const std::string&) {};
    if (const auto* given = std::get_if<PruneJob>(&candidate.job)) {
      const PruneJob& job = *given;
      PreparedPrune prepared = prepare(job, model_, device_, run_.compute);
      const auto begin = Clock::now();
      spread_zeros(job, prepared);
      const double allocate_seconds = elapsed(begin);
      const PruneReport report = *prune(job, std::move(prepared), model_, device_, origin, note);
      const StageSeconds& t = report.result.seconds;
      return {{"allocate", allocate_seconds},
              {"load", t.load},
              {"calibrate", t.calibrate},
              {"score", t.score},
              {"select", t.select},
              {"refine", t.refine},
              {"write", t.write}};
    }
    const auto& job = std::get<ShrinkJob>(candidate.job);
    const ShrinkReport report = *shrink(job, prepared(job), model_, device_, origin, note);
    const auto stages = [](const ShrinkSeconds& t) {
      return Stages{{"load", t.load}, {"forward", t.forward}, {"solve", t.solve}, {"write", t.write}};
    };
    return std::visit(Overloaded{[&](const ShrunkUnits& units) { return stages(units.result.seconds); },
                                 [&](const auto& experts) { return stages(experts.seconds); }},
                      report.result);
  }

  void try_whole(const Candidate& candidate) {
    // Its stages tell whose they are.
    RunContext context = current_run();
    context.progress = [outer = context.progress,
                        trial = fmt::format("trial {} of {}, {}: ", trials_.size() + left_out_.size() + 1,
                                            candidates_.size(), candidate.name)](
                           std::string_view stage, std::int64_t done, std::int64_t total) {
      outer(trial + std::string(stage), done, total);
    };
    const RunScope scope(std::move(context));
    const TemporaryFolder folder(trial_folder());
    const auto begin = Clock::now();
    const Stages stages = write(candidate);
    // One that measured sensitivities for all of them says nothing of the others' time.
    if (candidate.seconds > 0.0 && stages.front().second == 0.0)
      slowness_ = std::max(1.0, elapsed(begin) / candidate.seconds);
    const auto start = Clock::now();
    const auto pruned = Model::open(folder.path());
    ComparisonInput input;
    input.models = {&model_, pruned.get()};
    input.folders = {run_.model, candidate.name};
    input.text = job_.text;
    input.convention = run_.text.convention;
    input.parts = evaluation_;
    input.bytes_per_token = run_.bytes_per_token;
    input.masks = run_.masks;
    input.forward = forward();
    if (candidate.has_few_bits()) input.first_few_bits = 1;
    ComparisonReport comparison = compare(input, device_);
    ModelReport trial = std::move(comparison.models[1]);
    if (trials_.empty()) {
      comparison.models.pop_back();
      report_ = std::move(comparison);
      report_.models[0].decode_tokens_per_second = speed_of(model_);
    }
    describe(candidate, stages, trial);
    if (trial.summary.packed) {
      trial.decode_tokens_per_second = speed_of(*pruned);
    } else {
      measure_packed(
          *pruned, run_.work / "packed", [this](const Model& packed) { return speed_of(packed); }, trial);
    }
    measure_seconds_ = elapsed(start);
    if (ratio_of(trial) <= job_.max_perplexity_ratio) kept_size_ = std::min(kept_size_, candidate.size);
    trials_.push_back(std::move(trial));
  }

  void describe(const Candidate& candidate, const Stages& stages, ModelReport& trial) const {
    ModelSummary& s = trial.summary;
    s.name = candidate.name;
    s.folder.clear();
    s.method = candidate.method;
    s.stage_seconds = {stages.begin(), stages.end()};
    s.prune_command = command(candidate);
    trial.first_blocks_error = candidate.block_error;
  }

  // The whole text may calibrate the real run.
  std::vector<std::string> command(const Candidate& candidate) const {
    std::vector<std::string> arguments = {"swiftprune"};
    const auto add = [&](std::initializer_list<std::string> more) {
      arguments.insert(arguments.end(), more.begin(), more.end());
    };
    bool reads_text = true;
    std::string windows;
    if (const auto* job = std::get_if<PruneJob>(&candidate.job)) {
      windows = job->windows;
      if (candidate.has_few_bits()) {
        add({"quantize", run_.model, "--out", "QUANTIZED", "--quantize", job->quantize});
      } else {
        add({"prune", run_.model, "--out", "PRUNED", "--method", job->method});
        if (job->sparsity_given)
          add({"--sparsity", fmt::format("{}", job->sparsity)});
        else
          add({"--pattern", job->pattern});
      }
      reads_text = needs_calibration(prepare(*job, model_, device_, run_.compute).plan);
    } else {
      const auto& shrinking = std::get<ShrinkJob>(candidate.job);
      windows = std::to_string(shrinking.windows);
      add({"shrink", run_.model, "--out", "SHRUNK"});
      if (shrinking.units != "mlp") add({"--units", shrinking.units});
      add({"--ratio", fmt::format("{}", *shrinking.ratio)});
    }
    if (job_.where.device != "cpu") add({"--device", job_.where.device});
    if (reads_text) {
      add({"--calibration", job_.text, "--windows", windows, "--seqlen",
           std::to_string(run_.text.calibration.seqlen)});
    }
    arguments.insert(arguments.end(), run_.prune_arguments.begin(), run_.prune_arguments.end());
    return arguments;
  }

  double speed_of(const Model& model) const {
    return decode_speed(model, device_, evaluation_.front().windows.window(0), run_.compute);
  }

  // As stored; where nothing is packed, of what is left.
  double size_of(const ModelReport& trial) const {
    if (trial.packed_bytes || trial.summary.packed) return static_cast<double>(trial.stored_bytes());
    return static_cast<double>(trial.summary.num_bytes) * (1.0 - trial.summary.sparsity);
  }

  // The smallest that keeps the limit, or null.
  const ModelReport* recommended() const {
    constexpr double kSameSize = 0.01;
    const ModelReport* best = nullptr;
    for (const ModelReport& trial : trials_) {
      if (ratio_of(trial) > job_.max_perplexity_ratio) continue;
      if (best == nullptr) {
        best = &trial;
        continue;
      }
      const double size = size_of(trial), other = size_of(*best);
      const bool same = std::abs(size - other) <= kSameSize * other;
      if (same ? ratio_of(trial) < ratio_of(*best) : size < other) best = &trial;
    }
    return best;
  }
  static double ratio_of(const ModelReport& trial) { return trial.divergence->perplexity_ratio; }

  ComparisonReport finish() {
    report_.title = fmt::format("Pilot of {}", report_.models[0].summary.name);
    report_.max_perplexity_ratio = job_.max_perplexity_ratio;
    report_.is_pilot = true;
    if (const ModelReport* best = recommended()) {
      report_.recommendation = shell_command(best->summary.prune_command);
      report_.recommended = best->summary.name;
      report_.notes.push_back(fmt::format(
          "{} is the smallest trial whose perplexity stays within {:.2f} times the dense model's.",
          best->summary.name, job_.max_perplexity_ratio));
    }
    report_.notes.insert(report_.notes.end(), notes_.begin(), notes_.end());
    if (!left_out_.empty()) {
      report_.notes.push_back(
          fmt::format("Left out, for they would not have ended in time: {}.", fmt::join(left_out_, ", ")));
    }
    std::stable_sort(trials_.begin(), trials_.end(),
                     [](const ModelReport& a, const ModelReport& b) { return ratio_of(a) < ratio_of(b); });
    for (ModelReport& trial : trials_) {
      report_.commands.push_back(shell_command(trial.summary.prune_command));
      report_.models.push_back(std::move(trial));
    }
    return std::move(report_);
  }

  const PilotJob& job_;
  const PilotRun& run_;
  const Model& model_;
  Device& device_;
  const TemporaryFolder calibration_;  // with its ids
  std::vector<ScoredWindows> evaluation_;
  const Clock::time_point start_ = Clock::now();
  std::vector<Candidate> candidates_;
  std::optional<Sensitivities> sensitivities_;
  double measure_seconds_ = 0.0;                                // of a trial's comparison
  double kept_size_ = std::numeric_limits<double>::infinity();  // the smallest of trials that keep the limit
  double slowness_ = 1.0;  // of the runs beside what was expected of them
  std::vector<std::string> notes_, left_out_;
  std::vector<ModelReport> trials_;
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

ComparisonReport run_pilot(const PilotJob& job, const PilotRun& run, const Model& model, Device& device) {
  return Pilot(job, run, model, device).run();
}

}  // namespace swiftprune
