#include "swiftprune/tune/tune.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>

#include "swiftprune/core/error.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/evaluation/divergence.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/sparse/packed_checkpoint.h"
#include "swiftprune/tune/decode_times.h"
#include "swiftprune/tune/level_choice.h"
#include "swiftprune/tune/level_search.h"
#include "swiftprune/tune/level_store.h"
#include "swiftprune/tune/parameter_trials.h"
#include "swiftprune/tune/plan_search.h"
#include "swiftprune/tune/unit_tune.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

constexpr int kCalibrations = 3;     // whole models that are timed before the search and behind it
constexpr double kNearness = 0.01;   // of a budget in tokens a second: near enough
constexpr double kTolerance = 0.02;  // by which it may be missed: what measurements differ

class Tuner {
 public:
  Tuner(const Model& model, Device& device, const TuneText& text, const TuneOptions& options,
        Communicator& ranks)
      : model_(model),
        device_(device),
        text_(text),
        options_(options),
        ranks_(ranks),
        store_(options.folder, ranks),
        plans_(model, device, text, options_, ranks,
               [this](const std::vector<std::size_t>& levels, const std::string& name) {
                 return store_.compose(levels, name);
               }),
        setup_(setup_of(options, text.calibration.num_windows())) {
    options_.method = &setup_.method;  // what is found counts everywhere
  }

  TunedPlan run() {
    check_without_experts(model_.config(), "tune", "prune it at one sparsity: swiftprune prune");
    if (has_packed_tensors(model_.checkpoint())) {
      bad_input("{}: found a packed model, expected a dense one; swiftprune unpack gives it back",
                model_.checkpoint().folder().string());
    }
    plans_.check_folder();
    if (!options_.parameters.empty()) parameters_ = chosen_parameters(setup_, options_.parameters);
    if (!parameters_.empty() && text_.search.num_windows() < 2) {
      bad_usage("--parameters: found {} window to search on, expected at least 2; use more --search-windows",
                text_.search.num_windows());
    }
    {
      const Stopwatch watch(result_.solve_seconds);
      if (budget().kind == TuneBudget::Kind::kSpeed) open_times();
      choice_.emplace(model_, options_, times_ ? &*times_ : nullptr);
      plan_ = choice_->start_plan();
      prune_options_.select = options_.method->select;
      prune_options_.selector = options_.selector;
      prune_options_.propagation = options_.method->propagation;
      prune_options_.compute = options_.forward.compute;
      prune_options_.progress = options_.forward.progress;
      device_.check_plan(model_, plan_, prune_options_);
      make_levels();
    }
    {
      const Stopwatch watch(result_.search_seconds);
      make_units();
      check_size();
      calibrate(plans_.measure_start());
      plans_.run(goal(), result_);
      finish();
    }
    return std::move(result_);
  }

 private:
  const TuneBudget& budget() const { return options_.budget; }
  void open_times() {
    if (options_.clock == nullptr)
      clock_ = device_clock(device_, options_.forward.compute, options_.forward.progress);
    times_.emplace(model_, options_.clock != nullptr ? *options_.clock : *clock_,
                   store_.folder() / "stand-in", ranks_);
  }

  // From the folder where a run like this one left them.
  void make_levels() {
    if (const auto head = plans_.kept_head()) {
      store_.restore(plan_);
      apply_plan(head->at("plan"), store_.folder().string(), plan_);
      if (head->contains("parameters"))
        use_parameters(read_parameters((*head)["parameters"], store_.folder().string()));
      sensitivities_ = head->at("sensitivities").get<std::vector<double>>();
      if (sensitivities_.size() != plan_.entries.size())
        bad_input("{}: found {} sensitivities, expected {}", store_.folder().string(), sensitivities_.size(),
                  plan_.entries.size());
      return;
    }
    Sensitivities measured = device_.measure_sensitivities(
        model_, plan_, text_.calibration, options_.forward.compute, options_.forward.progress, ranks_);
    sensitivities_ = std::move(measured.values);
    prune_options_.readers = std::move(measured.readers);
    if (choice_->allocates()) allocate_by_sensitivity(sensitivities_, plan_);
    choice_->set_method(plan_);
    nlohmann::ordered_json head = {{"identity", options_.identity}};
    if (!parameters_.empty()) {
      ParameterTrials trials(store_.folder(), options_.identity, ranks_);
      use_parameters(search_parameters(setup_, parameters_, [&](std::span<const MethodSetup> setups) {
        return trials.measure(
            setups, [&](const MethodSetup& setup) { return try_setup(setup); },
            [&](double seconds) { return plans_.is_over(kParameterShare, seconds); });
      }));
      head["parameters"] = to_json(result_.parameters);
    }
    head["plan"] = to_json(plan_);
    head["sensitivities"] = sensitivities_;
    store_.solve(model_, device_, plan_, choice_->levels_beside(plan_), calibration(setup_), prune_options_);
    store_.keep(head);
  }

  TokenWindows calibration(const MethodSetup& setup) const {
    return shortened(text_.calibration, setup.windows, text_.calibration.seqlen);
  }

  void use_parameters(ParameterSearch found) {
    setup_ = with_parameters(std::move(setup_), found.found);
    prune_options_.selector = setup_.selector;
    choice_->set_method(plan_);
    result_.parameters = std::move(found);
  }

  // The start plan, pruned with this setup by this rank alone.
  SetupMeasurement try_setup(const MethodSetup& setup) {
    const auto begin = std::chrono::steady_clock::now();
    Plan plan = plan_;
    for (PlanEntry& entry : plan.entries) set_method(setup.method, entry);
    PruneOptions options = prune_options_;
    options.selector = setup.selector;
    const TemporaryFolder folder(store_.folder() / fmt::format("trial-{}", ranks_.rank()));
    fs::remove_all(folder.path());  // of a run that was killed
    prune_into(folder.path(), model_, device_, plan, calibration(setup), options);
    const auto pruned = Model::open(folder.path());
    const Model* models[] = {&model_, pruned.get()};
    const ScoredWindows parts[] = {all_scored(text_.search), all_scored(text_.check)};
    const auto forwards = device_.text_forwards(models, options_.forward);
    const std::vector<ComparedModel> compared =
        compare_models(models, *forwards, parts, {.num_worst = 0, .progress = {}});
    const std::vector<double>& kl = compared[1].divergence->window_kl;
    const auto check = kl.begin() + text_.search.num_windows();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    return {{kl.begin(), check},
            std::accumulate(check, kl.end(), 0.0) / static_cast<double>(text_.check.num_windows()),
            seconds.count()};
  }

  void make_units() {
    for (const SolvedUnit& solved : store_.units()) {
      const PlanEntry& entry = plan_.entries[solved.entry];
      std::vector<SearchLevel> levels;
      for (const SolvedLevel& level : solved.levels) {
        levels.push_back({choice_->size(entry, level), level.error});
      }
      SearchUnit unit;
      unit.layer = entry.layer;
      const std::string name = entry.tensor.substr(0, entry.tensor.rfind('.'));
      unit.kind = name.substr(name.rfind('.') + 1);
      std::vector<std::size_t> order = useful_levels(levels);
      // The start stays, as a step between its neighbours, even where another level seems to beat it.
      if (std::find(order.begin(), order.end(), 0u) == order.end()) order = with_start(levels);
      for (std::size_t l = 0; l < order.size(); ++l) {
        if (order[l] == 0) unit.start = l;
        unit.levels.push_back(levels[order[l]]);
      }
      const double sensitivity = std::max(sensitivities_[solved.entry], 1e-12);
      unit.weight = sensitivity *
                    (choice_->allocates() ? std::exp(allocated_log_cost(entry.sparsity)) : 1.0) /
                    std::max(levels[0].error, 1e-9);
      plans_.add_unit(std::move(unit), std::move(order));
    }
    result_.tuned = std::ssize(plans_.units());
    result_.levels = plans_.most_levels();
  }

  // The start and the useful levels on both sides of it.
  static std::vector<std::size_t> with_start(const std::vector<SearchLevel>& levels) {
    std::vector<SearchLevel> above, below;
    std::vector<std::size_t> above_of, below_of;
    for (std::size_t l = 1; l < levels.size(); ++l) {
      const bool larger = levels[l].size > levels[0].size && levels[l].error < levels[0].error;
      const bool smaller = levels[l].size < levels[0].size && levels[l].error > levels[0].error;
      if (larger) above.push_back(levels[l]), above_of.push_back(l);
      if (smaller) below.push_back(levels[l]), below_of.push_back(l);
    }
    std::vector<std::size_t> order;
    for (const std::size_t l : useful_levels(above)) order.push_back(above_of[l]);
    order.push_back(0);
    for (const std::size_t l : useful_levels(below)) order.push_back(below_of[l]);
    return order;
  }

  SearchGoal goal() const {
    if (budget().kind == TuneBudget::Kind::kDivergence) return {0.0, budget().value};
    return {choice_->max_size(), {}};
  }

  // In the budget's unit.
  void check_size() const {
    if (budget().kind == TuneBudget::Kind::kDivergence) return;
    const double smallest = smallest_size(plans_.units());
    if (goal().max_size >= smallest) return;
    bad_usage("{}: found {}, expected at {} {}, which the {} levels give", budget().flag(), budget().text(),
              budget().is_least() ? "most" : "least", choice_->text_of(smallest),
              budget().kind == TuneBudget::Kind::kSpeed ? "fastest" : "smallest");
  }

  // -- A budget in tokens a second

  double products_us(const Levels& plan) const {
    double us = 0.0;
    for (std::size_t u = 0; u < plan.size(); ++u) us += plans_.units()[u].levels[plan[u]].size;
    return us;
  }

  // A step of a model with this plan, which teaches what products save.
  double timed_step(const Levels& plan) {
    std::vector<const PlanEntry*> entries;
    std::vector<SolvedLevel> levels;
    const std::vector<std::size_t> numbers = plans_.stored(plan);
    for (std::size_t u = 0; u < plan.size(); ++u) {
      const SolvedUnit& unit = store_.units()[u];
      entries.push_back(&plan_.entries[unit.entry]);
      levels.push_back(unit.levels[numbers[u]]);
    }
    return times_->measure(entries, levels, choice_->dense_us() - products_us(plan));
  }

  bool is_near(double step_us) const { return std::abs(step_us * budget().value / 1e6 - 1.0) <= kNearness; }

  // Products side by side in a model are not what each takes alone: plans of about the budget's size tell.
  void calibrate(double start_kl) {
    for (int i = 0; times_ && i < kCalibrations; ++i) {
      const LevelSearch guess(plans_.units(), goal(), start_kl, options_.seed);
      const double step_us = timed_step(guess.fitted(goal().max_size));
      check_size();  // the goal's size follows what was learned
      if (is_near(step_us)) break;
    }
  }

  // The best plan, or where a model of its size is too slow or faster than asked for, the one that was learned to be best at
  // the size that is.
  Levels settled(Levels best) {
    for (int i = 0; times_ && i < kCalibrations; ++i) {
      const double step_us = timed_step(best);
      best_step_us_ = step_us;
      if (is_near(step_us) || i + 1 == kCalibrations || goal().max_size < smallest_size(plans_.units()))
        break;
      Levels next = plans_.search().fitted(goal().max_size);
      if (next == best) break;
      best = std::move(next);
    }
    return best;
  }

  TunePoint point(const std::string& name, const Levels& plan, double kl) const {
    TunePoint p;
    p.name = name;
    p.search_kl = kl;
    double bytes = 0.0, zeros = 0.0, tuned = 0.0;
    const std::vector<std::size_t> levels = plans_.stored(plan);
    for (std::size_t u = 0; u < levels.size(); ++u) {
      const SolvedUnit& unit = store_.units()[u];
      const PlanEntry& entry = plan_.entries[unit.entry];
      bytes += choice_->packed_bytes(entry, unit.levels[levels[u]]);
      zeros += unit.levels[levels[u]].zeros * entry.num_weights();
      tuned += entry.num_weights();
    }
    p.sparsity = zeros / choice_->num_weights();
    p.bits = 8.0 * bytes / tuned;
    p.bytes = choice_->fixed_bytes() + bytes;
    if (times_) p.tokens_per_second = 1e6 / times_->step_us(choice_->dense_us() - products_us(plan));
    return p;
  }

  void finish() {
    result_.setup = setup_;
    const LevelSearch& search = plans_.search();
    const Levels best = result_.interrupted() ? search.best() : settled(search.best());
    result_.keeps_budget = search.keeps_goal();
    result_.start = point("start", plans_.start(), plans_.search_kl({&plans_.start(), 1}).front());
    result_.best = point("best", best, plans_.search_kl({&best, 1}).front());
    if (times_) {
      result_.dense_tokens_per_second = 1e6 / times_->dense_us();
      if (best_step_us_) result_.best.tokens_per_second = 1e6 / *best_step_us_;
      result_.keeps_budget = *result_.best.tokens_per_second >= (1.0 - kTolerance) * budget().value;
    }
    write_plan(best);
    if (result_.interrupted()) return;
    plans_.measure_line(
        best,
        [this](const std::string& name, const Levels& plan, double kl) { return point(name, plan, kl); },
        result_);
    plans_.check_divergence(budget(), result_);
  }

  void write_plan(const Levels& best) {
    result_.plan = plan_;
    const std::vector<std::size_t> levels = plans_.stored(best);
    double tuned = 0.0, asked = 0.0;
    for (std::size_t u = 0; u < levels.size(); ++u) {
      const SolvedUnit& unit = store_.units()[u];
      PlanEntry& entry = result_.plan.entries[unit.entry];
      choice_->set_level(unit.levels[levels[u]], entry);
      tuned += entry.num_weights();
      asked += entry.sparsity * entry.num_weights();
    }
    if (budget().kind != TuneBudget::Kind::kSparsity || !choice_->allocates()) return;
    // What levels leave of the budget goes to all linears alike, so that the mean is exact.
    const double shift = (budget().value * choice_->num_weights() - asked) / tuned;
    for (PlanEntry& entry : result_.plan.entries) {
      if (entry.prune) entry.sparsity = std::clamp(entry.sparsity + shift, 0.0, 0.999);
    }
  }

  const Model& model_;
  Device& device_;
  const TuneText& text_;
  TuneOptions options_;
  Communicator& ranks_;
  LevelStore store_;
  PlanSearch plans_;
  std::unique_ptr<DecodeClock> clock_;
  std::optional<DecodeTimes> times_;  // of a budget in tokens a second
  std::optional<LevelChoice> choice_;
  std::optional<double> best_step_us_;
  MethodSetup setup_;
  std::vector<MethodParameter> parameters_;  // to search
  Plan plan_;                                // that the levels are solved by
  PruneOptions prune_options_;
  std::vector<double> sensitivities_;
  TunedPlan result_;
};

}  // namespace

MethodSetup setup_of(const TuneOptions& options, std::int64_t windows) {
  return {*options.method, options.selector, windows, !options.patterns.empty()};
}

std::string_view TuneBudget::flag() const {
  switch (kind) {
    case Kind::kSparsity:
      return "--sparsity";
    case Kind::kRatio:
      return "--ratio";
    case Kind::kDivergence:
      return "--max-kl";
    default:
      return "--budget";
  }
}

std::string TuneBudget::text() const {
  switch (kind) {
    case Kind::kSparsity:
      return fmt::format("{:.3g} % zeros", 100.0 * value);
    case Kind::kRatio:
      return fmt::format("{:.3g} % of the blocks' weights gone", 100.0 * value);
    case Kind::kBytes:
      return fmt::format("{:.5g} MB", value / 1e6);
    case Kind::kBits:
      return fmt::format("{:.3g} bits a weight", value);
    case Kind::kSpeed:
      return fmt::format("{:.4g} tokens/s", value);
    case Kind::kDivergence:
      break;
  }
  return fmt::format("a divergence of {:.3g}", value);
}

TuneText split_for_tuning(const TokenWindows& windows, std::int64_t calibration, const std::string& name) {
  const std::int64_t seqlen = windows.seqlen;
  const std::int64_t length = std::min(kSearchTokens, seqlen);
  const std::int64_t rest = windows.num_windows() - calibration;
  const std::int64_t pieces = std::max<std::int64_t>(rest, 0) * (seqlen / length);
  if (pieces < 2) {
    bad_input(
        "{}: found {} windows of {} tokens, expected at least {}: {} to solve on, and text of its own for "
        "search and "
        "check; use a longer text, fewer --windows or a shorter --seqlen",
        name, windows.num_windows(), seqlen,
        calibration + std::max<std::int64_t>(1, ceil_div(2, seqlen / length)), calibration);
  }
  TuneText text;
  text.calibration = shortened(windows, calibration, seqlen);
  text.search.seqlen = text.check.seqlen = length;
  for (std::int64_t p = 0; p < pieces - pieces % 2; ++p) {
    // By turns, so that both parts see every document.
    const auto window = windows.window(calibration + p / (seqlen / length));
    const auto piece = window.subspan(static_cast<std::size_t>(p % (seqlen / length) * length),
                                      static_cast<std::size_t>(length));
    TokenWindows& to = p % 2 == 0 ? text.search : text.check;
    to.ids.insert(to.ids.end(), piece.begin(), piece.end());
  }
  return text;
}

TunedPlan tune(const Model& model, Device& device, const TuneText& text, const TuneOptions& options,
               Communicator& ranks) {
  if (!options.units.empty()) return tune_units(model, device, text, options, ranks);
  if (options.budget.kind == TuneBudget::Kind::kRatio)
    bad_usage("--ratio: found without --units, which say what is to go; of zeros say --sparsity");
  return Tuner(model, device, text, options, ranks).run();
}

nlohmann::ordered_json plan_document(const TunedPlan& result) {
  if (result.layers) return *result.layers;
  nlohmann::ordered_json plan = to_json(result.plan);
  for (std::size_t e = 0; e < result.plan.entries.size(); ++e) {
    const PlanEntry& entry = result.plan.entries[e];
    plan["tensors"][e]["shape"] = {entry.rows, entry.cols};
  }
  return plan;
}

}  // namespace swiftprune
