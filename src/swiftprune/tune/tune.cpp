#include "swiftprune/tune/tune.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <sstream>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/core/read_file.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/evaluation/divergence.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/shared_writing.h"
#include "swiftprune/sparse/packed_checkpoint.h"
#include "swiftprune/tune/decode_times.h"
#include "swiftprune/tune/level_choice.h"
#include "swiftprune/tune/level_search.h"
#include "swiftprune/tune/level_store.h"
#include "swiftprune/tune/parameter_trials.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kRound = 8;  // plans that are measured together, beside one run of the dense model
constexpr int kPatience = 10;      // rounds without a better plan
constexpr double kReserve = 2.5;   // rounds' time that the check and the line take
constexpr double kLineSizes[] = {0.85, 0.925, 1.075, 1.15};  // of the best plan's
constexpr int kCalibrations = 3;     // whole models that are timed before the search and behind it
constexpr double kNearness = 0.01;   // of a budget in tokens a second: near enough
constexpr double kTolerance = 0.02;  // by which it may be missed: what measurements differ

ScoredWindows all_scored(const TokenWindows& windows) {
  return {windows, std::vector<std::int64_t>(static_cast<std::size_t>(windows.num_windows()), 1)};
}

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
        setup_(setup_of(options, text.calibration.num_windows())) {
    options_.method = &setup_.method;  // what is found counts everywhere
  }

  TunedPlan run() {
    check_without_experts(model_.config(), "tune", "prune it at one sparsity: swiftprune prune");
    if (has_packed_tensors(model_.checkpoint())) {
      bad_input("{}: found a packed model, expected a dense one; swiftprune unpack gives it back",
                model_.checkpoint().folder().string());
    }
    check_folder();
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
      search();
      finish();
    }
    return std::move(result_);
  }

 private:
  void check_folder() const {
    const std::int64_t blind = blind_ranks(ranks_, options_.folder);
    if (blind == 0) return;
    bad_usage(
        "{}: {} of {} ranks do not see what the first one writes there; choose a folder on a disk of all by "
        "--cache",
        options_.folder.string(), blind, ranks_.size());
  }

  const TuneBudget& budget() const { return options_.budget; }
  void open_times() {
    if (options_.clock == nullptr)
      clock_ = device_clock(device_, options_.forward.compute, options_.forward.progress);
    times_.emplace(model_, options_.clock != nullptr ? *options_.clock : *clock_,
                   store_.folder() / "stand-in", ranks_);
  }

  // From the folder where a run like this one left them.
  void make_levels() {
    if (const auto head = store_.restore(plan_)) {
      // What the first rank compares is compared: files of another host have other dates.
      const bool is_same =
          head->contains("identity") && (*head)["identity"] == nlohmann::json(options_.identity);
      if (ranks_.is_first() && !is_same) {
        bad_usage(
            "--cache: {} holds the levels of another run (other options, text, model or device); choose "
            "another "
            "folder, or remove it",
            options_.folder.string());
      }
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
            [&](double seconds) { return is_over(kParameterShare, seconds); });
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
    const auto begin = Clock::now();
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
    const std::chrono::duration<double> seconds = Clock::now() - begin;
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
      units_.push_back(std::move(unit));
      order_.push_back(std::move(order));
    }
    result_.tuned = std::ssize(units_);
    for (const auto& order : order_) result_.levels = std::max(result_.levels, order.size());
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

  // Numbers of the store's levels.
  std::vector<std::size_t> stored(const Levels& plan) const {
    std::vector<std::size_t> numbers;
    for (std::size_t u = 0; u < plan.size(); ++u) numbers.push_back(order_[u][plan[u]]);
    return numbers;
  }

  // Mean divergence of each plan on these windows; ranks take the plans in turn.
  std::vector<double> measure(std::span<const Levels> plans, const TokenWindows& windows) {
    const auto size = static_cast<std::size_t>(ranks_.size());
    const auto rank = static_cast<std::size_t>(ranks_.rank());
    std::vector<Levels> own;
    for (std::size_t p = rank; p < plans.size(); p += size) own.push_back(plans[p]);
    const std::vector<double> found = own.empty() ? std::vector<double>() : measure_here(own, windows);
    std::vector<double> divergences(plans.size());
    for (std::size_t i = 0; i < own.size(); ++i) divergences[rank + i * size] = found[i];
    exchange_owned(ranks_, divergences, [&](std::size_t p) { return static_cast<int>(p % size); });
    return divergences;
  }

  std::vector<double> measure_here(std::span<const Levels> plans, const TokenWindows& windows) {
    std::vector<std::unique_ptr<TemporaryFolder>> folders;
    std::vector<std::unique_ptr<Model>> models;
    std::vector<const Model*> all = {&model_};
    for (const Levels& plan : plans) {
      folders.push_back(
          store_.compose(stored(plan), fmt::format("plan-{}-{}", ranks_.rank(), folders.size())));
      models.push_back(Model::open(folders.back()->path()));
      all.push_back(models.back().get());
    }
    const ScoredWindows part = all_scored(windows);
    const auto forwards = device_.text_forwards(all, options_.forward);
    const std::vector<ComparedModel> compared =
        compare_models(all, *forwards, {&part, 1}, {.num_worst = 0, .progress = {}});
    std::vector<double> divergences;
    for (std::size_t m = 1; m < compared.size(); ++m) divergences.push_back(compared[m].divergence->mean_kl);
    return divergences;
  }

  std::filesystem::path journal() const { return store_.folder() / "trials.jsonl"; }

  // What earlier runs measured on the search's windows, as the first rank finds it. A last line that was cut off in the
  // middle does not count.
  void read_trials() {
    std::string lines;
    if (ranks_.is_first() && std::filesystem::exists(journal())) lines = file_bytes(journal());
    broadcast_text(ranks_, 0, lines);
    std::istringstream in(lines);
    for (std::string line; std::getline(in, line);) {
      const nlohmann::json trial = nlohmann::json::parse(line, nullptr, false);
      if (!trial.is_object() || !trial.contains("levels") || !trial.contains("kl")) break;
      if (!trial["levels"].is_array() || !trial["kl"].is_number()) break;
      const auto is_number = [](const nlohmann::json& level) { return level.is_number_unsigned(); };
      if (!std::all_of(trial["levels"].begin(), trial["levels"].end(), is_number)) break;
      known_[trial["levels"].dump()] = trial["kl"].get<double>();
    }
  }

  void append_trials(const std::string& lines) const {
    std::ofstream out(journal(), std::ios::app);
    out << lines;
    out.close();
    if (!out) fail(ErrorKind::kFailure, "{}: cannot be written", journal().string());
  }

  std::vector<double> search_kl(std::span<const Levels> plans) {
    std::vector<Levels> unknown;
    for (const Levels& plan : plans) {
      if (!known_.contains(nlohmann::json(stored(plan)).dump())) unknown.push_back(plan);
    }
    if (!unknown.empty()) {
      const std::vector<double> found = measure(unknown, text_.search);
      std::string lines;
      for (std::size_t i = 0; i < unknown.size(); ++i) {
        const nlohmann::json levels(stored(unknown[i]));
        known_[levels.dump()] = found[i];
        lines += nlohmann::ordered_json{{"levels", levels}, {"kl", found[i]}}.dump() + "\n";
      }
      if (ranks_.is_first()) append_trials(lines);
    }
    std::vector<double> result;
    for (const Levels& plan : plans) result.push_back(known_.at(nlohmann::json(stored(plan)).dump()));
    return result;
  }

  // Plans of an earlier run, the start among them, teach this one.
  void learn_known() {
    std::vector<Levels> plans;
    std::vector<double> divergences;
    for (const auto& [text, kl] : known_) {
      const auto numbers = nlohmann::json::parse(text).get<std::vector<std::size_t>>();
      if (numbers.size() != units_.size()) continue;
      Levels plan;
      for (std::size_t u = 0; u < units_.size(); ++u) {
        const auto level = std::find(order_[u].begin(), order_[u].end(), numbers[u]);
        if (level != order_[u].end()) plan.push_back(static_cast<std::size_t>(level - order_[u].begin()));
      }
      if (plan.size() != units_.size()) continue;
      plans.push_back(std::move(plan));
      divergences.push_back(kl);
    }
    search_->learn(plans, divergences);
  }

  SearchGoal goal() const {
    if (budget().kind == TuneBudget::Kind::kDivergence) return {0.0, budget().value};
    return {choice_->max_size(), {}};
  }

  // In the budget's unit.
  void check_size() const {
    if (budget().kind == TuneBudget::Kind::kDivergence) return;
    const double smallest = smallest_size(units_);
    if (goal().max_size >= smallest) return;
    bad_usage("{}: found {}, expected at {} {}, which the {} levels give", budget().flag(), budget().text(),
              budget().is_least() ? "most" : "least", choice_->text_of(smallest),
              budget().kind == TuneBudget::Kind::kSpeed ? "fastest" : "smallest");
  }

  // -- A budget in tokens a second

  double products_us(const Levels& plan) const {
    double us = 0.0;
    for (std::size_t u = 0; u < plan.size(); ++u) us += units_[u].levels[plan[u]].size;
    return us;
  }

  // A step of a model with this plan, which teaches what products save.
  double timed_step(const Levels& plan) {
    std::vector<const PlanEntry*> entries;
    std::vector<SolvedLevel> levels;
    const std::vector<std::size_t> numbers = stored(plan);
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
      const LevelSearch guess(units_, goal(), start_kl, options_.seed);
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
      if (is_near(step_us) || i + 1 == kCalibrations || goal().max_size < smallest_size(units_)) break;
      Levels next = search_->fitted(goal().max_size);
      if (next == best) break;
      best = std::move(next);
    }
    return best;
  }

  void search() {
    check_size();
    read_trials();
    start_.assign(units_.size(), 0);
    for (std::size_t u = 0; u < units_.size(); ++u) start_[u] = units_[u].start;
    const double start_kl = search_kl({&start_, 1}).front();
    calibrate(start_kl);
    search_.emplace(units_, goal(), start_kl, options_.seed);
    learn_known();
    result_.trials = std::ssize(known_);
    result_.ended = "all trials";
    int rounds_without = 0;
    try {
      while (result_.trials < options_.max_trials) {
        const auto begin = Clock::now();
        const auto room = static_cast<std::size_t>(options_.max_trials - result_.trials);
        const std::vector<Levels> plans = search_->propose(std::min(kRound, room));
        if (plans.empty()) {
          result_.ended = "no other plan was left";
          return;
        }
        const Levels before = search_->best();
        search_->learn(plans, search_kl(plans));
        result_.trials += std::ssize(plans);
        if (options_.forward.progress)
          options_.forward.progress("search", result_.trials, options_.max_trials);
        rounds_without = search_->best() == before ? rounds_without + 1 : 0;
        if (rounds_without == kPatience) {
          result_.ended = fmt::format("no plan was better for {} rounds", kPatience);
          return;
        }
        if (time_is_over(Clock::now() - begin)) {
          result_.ended = "the time";
          return;
        }
      }
    } catch (const Interrupted&) {
      if (ranks_.size() > 1) throw;  // others wait for this one
      result_.ended = "interrupted";
    }
  }

  bool time_is_over(std::chrono::duration<double> round) const {
    return is_over(1.0, (1.0 + kReserve) * round.count());
  }

  // Would this share of the time be over behind what is to come? By the first rank's clock.
  bool is_over(double share, double seconds_to_come) const {
    const std::chrono::duration<double> all = Clock::now() - begin_;
    bool over = all.count() + seconds_to_come > share * options_.max_seconds;
    ranks_.broadcast(0, std::as_writable_bytes(std::span(&over, 1)));
    return over;
  }

  TunePoint point(const std::string& name, const Levels& plan, double kl) const {
    TunePoint p;
    p.name = name;
    p.search_kl = kl;
    double bytes = 0.0, zeros = 0.0, tuned = 0.0;
    const std::vector<std::size_t> levels = stored(plan);
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
    const Levels best = result_.interrupted() ? search_->best() : settled(search_->best());
    result_.keeps_budget = search_->keeps_goal();
    result_.start = point("start", start_, known_.at(nlohmann::json(stored(start_)).dump()));
    result_.best = point("best", best, search_kl({&best, 1}).front());
    if (times_) {
      result_.dense_tokens_per_second = 1e6 / times_->dense_us();
      if (best_step_us_) result_.best.tokens_per_second = 1e6 / *best_step_us_;
      result_.keeps_budget = *result_.best.tokens_per_second >= (1.0 - kTolerance) * budget().value;
    }
    write_plan(best);
    if (result_.interrupted()) return;
    try {
      make_line(best);
    } catch (const Interrupted&) {
      if (ranks_.size() > 1) throw;
      result_.ended = "interrupted";
      return;
    }
    if (result_.keeps_budget || budget().kind != TuneBudget::Kind::kDivergence) return;
    const double nearest = search_->best_divergence();
    bad_usage("--max-kl: found {}, expected at least {:.4g}, the least that was found", budget().value,
              nearest);
  }

  // The best plans of other sizes, and how all of them do on text that the search did not see.
  void make_line(const Levels& best) {
    std::vector<Levels> plans = {best};
    std::vector<std::string> names = {"best"};
    const double size = search_->size_of(best);
    int smaller = 0, larger = 0;
    for (const double factor : kLineSizes) {
      Levels plan = search_->fitted(factor * size);
      const bool is_new = std::find(plans.begin(), plans.end(), plan) == plans.end();
      if (!is_new || search_->size_of(plan) > factor * size * 1.001) continue;
      names.push_back(factor < 1.0 ? fmt::format("smaller {}", ++smaller)
                                   : fmt::format("larger {}", ++larger));
      plans.push_back(std::move(plan));
    }
    const std::vector<double> of_search = search_kl(plans);
    plans.push_back(start_);
    const std::vector<double> of_check = measure(plans, text_.check);
    result_.start.check_kl = of_check.back();
    result_.best.check_kl = of_check.front();
    for (std::size_t i = 0; i < names.size(); ++i) {
      result_.line.push_back(point(names[i], plans[i], of_search[i]));
      result_.line.back().check_kl = of_check[i];
    }
    std::stable_sort(result_.line.begin(), result_.line.end(),
                     [](const TunePoint& a, const TunePoint& b) { return a.bytes < b.bytes; });
  }

  void write_plan(const Levels& best) {
    result_.plan = plan_;
    const std::vector<std::size_t> levels = stored(best);
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
  const Clock::time_point begin_ = Clock::now();
  LevelStore store_;
  std::unique_ptr<DecodeClock> clock_;
  std::optional<DecodeTimes> times_;  // of a budget in tokens a second
  std::optional<LevelChoice> choice_;
  std::optional<double> best_step_us_;
  MethodSetup setup_;
  std::vector<MethodParameter> parameters_;  // to search
  Plan plan_;                                // that the levels are solved by
  PruneOptions prune_options_;
  std::vector<double> sensitivities_;
  std::vector<SearchUnit> units_;                // of the store's units
  std::vector<std::vector<std::size_t>> order_;  // of each: the store's number of each of the search's levels
  Levels start_;
  std::map<std::string, double> known_;  // divergence on the search's windows by the store's levels
  std::optional<LevelSearch> search_;
  TunedPlan result_;
};

}  // namespace

MethodSetup setup_of(const TuneOptions& options, std::int64_t windows) {
  return {*options.method, options.selector, windows, !options.patterns.empty()};
}

std::string_view TuneBudget::flag() const {
  return kind == Kind::kSparsity ? "--sparsity" : kind == Kind::kDivergence ? "--max-kl" : "--budget";
}

std::string TuneBudget::text() const {
  switch (kind) {
    case Kind::kSparsity:
      return fmt::format("{:.3g} % zeros", 100.0 * value);
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
  return Tuner(model, device, text, options, ranks).run();
}

nlohmann::ordered_json plan_document(const TunedPlan& result) {
  nlohmann::ordered_json plan = to_json(result.plan);
  for (std::size_t e = 0; e < result.plan.entries.size(); ++e) {
    const PlanEntry& entry = result.plan.entries[e];
    plan["tensors"][e]["shape"] = {entry.rows, entry.cols};
  }
  return plan;
}

}  // namespace swiftprune
