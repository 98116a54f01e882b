#include "swiftprune/tune/plan_search.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/core/read_file.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/evaluation/divergence.h"
#include "swiftprune/pipeline/shared_writing.h"

namespace swiftprune {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kRound = 8;  // plans that are measured together, beside one run of the dense model
constexpr int kPatience = 10;      // rounds without a better plan
constexpr double kReserve = 2.5;   // rounds' time that the check and the line take
constexpr double kLineSizes[] = {0.85, 0.925, 1.075, 1.15};  // of the best plan's

}  // namespace

ScoredWindows all_scored(const TokenWindows& windows) {
  return {windows, std::vector<std::int64_t>(static_cast<std::size_t>(windows.num_windows()), 1)};
}

PlanSearch::PlanSearch(const Model& model, Device& device, const TuneText& text, const SearchOptions& options,
                       Communicator& ranks, Compose compose)
    : model_(model),
      device_(device),
      text_(text),
      options_(options),
      ranks_(ranks),
      compose_(std::move(compose)) {}

void PlanSearch::check_folder() const {
  const std::int64_t blind = blind_ranks(ranks_, options_.folder);
  if (blind == 0) return;
  bad_usage(
      "{}: {} of {} ranks do not see what the first one writes there; choose a folder on a disk of all by "
      "--cache",
      options_.folder.string(), blind, ranks_.size());
}

// What the first rank compares is compared: files of another host have other dates.
std::optional<nlohmann::json> PlanSearch::kept_head() const {
  const std::filesystem::path file = options_.folder / kLevelsFile;
  if (!std::filesystem::exists(file)) return std::nullopt;
  const nlohmann::json document = read_json_file(file);
  const JsonField head = JsonField(document, file.string()).at("head");
  const auto identity = head.find("identity");
  const bool is_same = identity && identity->json() == nlohmann::json(options_.identity);
  if (ranks_.is_first() && !is_same) {
    bad_usage(
        "--cache: {} holds the levels of another run (other options, text, model or device); choose another "
        "folder, or remove it",
        options_.folder.string());
  }
  return head.json();
}

void PlanSearch::keep_head(const nlohmann::ordered_json& head) const {
  if (ranks_.is_first()) write_levels({{"head", head}}, options_.folder);
}

void PlanSearch::add_unit(SearchUnit unit, std::vector<std::size_t> numbers) {
  expect(unit.levels.size() == numbers.size(), "PlanSearch: a number for each level");
  units_.push_back(std::move(unit));
  numbers_.push_back(std::move(numbers));
}

std::size_t PlanSearch::most_levels() const {
  std::size_t most = 0;
  for (const auto& numbers : numbers_) most = std::max(most, numbers.size());
  return most;
}

std::vector<std::size_t> PlanSearch::stored(const Levels& plan) const {
  std::vector<std::size_t> numbers;
  for (std::size_t u = 0; u < plan.size(); ++u) numbers.push_back(numbers_[u][plan[u]]);
  return numbers;
}

// Mean divergence of each plan on these windows; ranks take the plans in turn.
std::vector<double> PlanSearch::measure(std::span<const Levels> plans, const TokenWindows& windows) {
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

std::vector<double> PlanSearch::measure_here(std::span<const Levels> plans, const TokenWindows& windows) {
  std::vector<std::unique_ptr<TemporaryFolder>> folders;
  std::vector<std::unique_ptr<Model>> models;
  std::vector<const Model*> all = {&model_};
  for (const Levels& plan : plans) {
    folders.push_back(compose_(stored(plan), fmt::format("plan-{}-{}", ranks_.rank(), folders.size())));
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

// What earlier runs measured on the search's windows, as the first rank finds it. A last line that was cut off in the
// middle does not count.
void PlanSearch::read_trials() {
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

void PlanSearch::append_trials(const std::string& lines) const {
  std::ofstream out(journal(), std::ios::app);
  out << lines;
  out.close();
  if (!out) fail(ErrorKind::kFailure, "{}: cannot be written", journal().string());
}

std::vector<double> PlanSearch::search_kl(std::span<const Levels> plans) {
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

double PlanSearch::measure_start() {
  read_trials();
  for (const SearchUnit& unit : units_) start_.push_back(unit.start);
  start_kl_ = search_kl({&start_, 1}).front();
  return start_kl_;
}

// Plans of an earlier run, the start among them, teach this one.
void PlanSearch::learn_known() {
  std::vector<Levels> plans;
  std::vector<double> divergences;
  for (const auto& [text, kl] : known_) {
    const auto numbers = nlohmann::json::parse(text).get<std::vector<std::size_t>>();
    if (numbers.size() != units_.size()) continue;
    Levels plan;
    for (std::size_t u = 0; u < units_.size(); ++u) {
      const auto level = std::find(numbers_[u].begin(), numbers_[u].end(), numbers[u]);
      if (level != numbers_[u].end()) plan.push_back(static_cast<std::size_t>(level - numbers_[u].begin()));
    }
    if (plan.size() != units_.size()) continue;
    plans.push_back(std::move(plan));
    divergences.push_back(kl);
  }
  search_->learn(plans, divergences);
}

void PlanSearch::run(SearchGoal goal, TunedPlan& result) {
  search_.emplace(units_, goal, start_kl_, options_.seed);
  learn_known();
  result.trials = std::ssize(known_);
  try {
    run_rounds(result);
  } catch (const Interrupted&) {
    if (ranks_.size() > 1) throw;  // others wait for this one
    result.ended = "interrupted";
  }
}

void PlanSearch::run_rounds(TunedPlan& result) {
  result.ended = "all trials";
  int rounds_without = 0;
  while (result.trials < options_.max_trials) {
    const auto begin = Clock::now();
    const auto room = static_cast<std::size_t>(options_.max_trials - result.trials);
    const std::vector<Levels> plans = search_->propose(std::min(kRound, room));
    if (plans.empty()) {
      result.ended = "no other plan was left";
      return;
    }
    const Levels before = search_->best();
    search_->learn(plans, search_kl(plans));
    result.trials += std::ssize(plans);
    if (options_.forward.progress) options_.forward.progress("search", result.trials, options_.max_trials);
    rounds_without = search_->best() == before ? rounds_without + 1 : 0;
    if (rounds_without == kPatience) {
      result.ended = fmt::format("no plan was better for {} rounds", kPatience);
      return;
    }
    const std::chrono::duration<double> round = Clock::now() - begin;
    if (is_over(1.0, (1.0 + kReserve) * round.count())) {
      result.ended = "the time";
      return;
    }
  }
}

bool PlanSearch::is_over(double share, double seconds_to_come) const {
  const std::chrono::duration<double> all = Clock::now() - begin_;
  bool over = all.count() + seconds_to_come > share * options_.max_seconds;
  ranks_.broadcast(0, std::as_writable_bytes(std::span(&over, 1)));
  return over;
}

void PlanSearch::check_divergence(const TuneBudget& budget, const TunedPlan& result) const {
  if (budget.kind != TuneBudget::Kind::kDivergence || result.keeps_budget || result.interrupted()) return;
  bad_usage("--max-kl: found {}, expected at least {:.4g}, the least that was found", budget.value,
            search_->best_divergence());
}

void PlanSearch::measure_line(const Levels& best, const Point& point, TunedPlan& result) {
  std::vector<Levels> plans = {best};
  std::vector<std::string> names = {result.best.name};
  const double size = search_->size_of(best);
  int smaller = 0, larger = 0;
  for (const double factor : kLineSizes) {
    Levels plan = search_->fitted(factor * size);
    const bool is_new = std::find(plans.begin(), plans.end(), plan) == plans.end();
    if (!is_new || search_->size_of(plan) > factor * size * 1.001) continue;
    names.push_back(factor < 1.0 ? fmt::format("smaller {}", ++smaller) : fmt::format("larger {}", ++larger));
    plans.push_back(std::move(plan));
  }
  try {
    const std::vector<double> of_search = search_kl(plans);
    plans.push_back(start_);
    const std::vector<double> of_check = measure(plans, text_.check);
    result.start.check_kl = of_check.back();
    result.best.check_kl = of_check.front();
    for (std::size_t i = 0; i < names.size(); ++i) {
      result.line.push_back(point(names[i], plans[i], of_search[i]));
      result.line.back().check_kl = of_check[i];
    }
  } catch (const Interrupted&) {
    if (ranks_.size() > 1) throw;
    result.ended = "interrupted";
    return;
  }
  std::stable_sort(result.line.begin(), result.line.end(),
                   [](const TunePoint& a, const TunePoint& b) { return a.bytes < b.bytes; });
}

}  // namespace swiftprune
