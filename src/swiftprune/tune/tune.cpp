#include "swiftprune/tune/tune.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <sstream>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/core/read_file.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/evaluation/divergence.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/choices/allocate_bits.h"
#include "swiftprune/pipeline/shared_writing.h"
#include "swiftprune/sparse/pack_quantized.h"
#include "swiftprune/sparse/packed_checkpoint.h"
#include "swiftprune/tune/level_search.h"
#include "swiftprune/tune/level_store.h"

namespace swiftprune {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kRound = 8;  // plans that are measured together, beside one run of the dense model
constexpr int kPatience = 10;      // rounds without a better plan
constexpr double kReserve = 2.5;   // rounds' time that the check and the line take
constexpr double kLineSizes[] = {0.85, 0.925, 1.075, 1.15};  // of the best plan's
// Shares around a linear's own that it is solved at, too.
constexpr double kNearShares[] = {-0.2, -0.15, -0.1, -0.05, 0.05, 0.1, 0.15};
constexpr double kWideShares[] = {-0.32, -0.24, -0.16, -0.08, 0.08, 0.16, 0.24, 0.32};
constexpr double kLeastShare = 0.02, kMostShare = 0.97;
// With grids: shares that are tried with each number of bits.
constexpr double kGridShares[] = {0.0, 0.3, 0.4, 0.5, 0.6, 0.7};
constexpr double kDivergenceShare = 0.5,
                 kDivergenceBits = 4.1;  // where levels are solved for a limit of divergence

struct GridLevel {
  QuantGrid grid;
  double sparsity = 0.0;
  double bits = 0.0;  // a weight, packed
  double cost = 0.0;  // expected, up to a factor: tells levels of one size apart before they are solved
};

class Tuner {
 public:
  Tuner(const Model& model, Device& device, const TuneText& text, const TuneOptions& options,
        Communicator& ranks)
      : model_(model),
        device_(device),
        text_(text),
        options_(options),
        ranks_(ranks),
        store_(options.folder, ranks) {}

  TunedPlan run() {
    check_without_experts(model_.config(), "tune", "prune it at one sparsity: swiftprune prune");
    if (has_packed_tensors(model_.checkpoint())) {
      bad_input("{}: found a packed model, expected a dense one; swiftprune unpack gives it back",
                model_.checkpoint().folder().string());
    }
    check_folder();
    {
      const Stopwatch watch(result_.solve_seconds);
      make_plan();
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
  bool has_grids() const { return !options_.bits.empty(); }
  double num_tuned_weights() const {
    double sum = 0.0;
    for (const PlanEntry& entry : plan_.entries) sum += entry.prune ? entry.num_weights() : 0.0;
    return sum;
  }
  double num_weights() const {
    double sum = 0.0;
    for (const PlanEntry& entry : plan_.entries) sum += entry.num_weights();
    return sum;
  }

  // Bytes of everything but the linears that are tuned, and of those as they are.
  void count_bytes() {
    std::map<std::string_view, bool> tuned;
    for (const PlanEntry& entry : plan_.entries) tuned.emplace(entry.tensor, entry.prune);
    const std::vector<std::string> tables =
        options_.table_bits > 0 ? tables_of(model_.config()) : std::vector<std::string>();
    for (const TensorInfo& tensor : model_.checkpoint().tensors()) {
      const auto found = tuned.find(tensor.name);
      const bool is_tuned = found != tuned.end() && found->second;
      if (is_tuned) packs_ &= has_grids() || tensor.dtype == DType::kBF16 || tensor.dtype == DType::kF16;
      if (is_tuned) continue;
      const bool table = std::find(tables.begin(), tables.end(), tensor.name) != tables.end();
      fixed_bytes_ += static_cast<double>(
          table ? measure_table(model_.checkpoint(), tensor.name, options_.table_bits).packed_bytes
                : tensor.num_bytes());
    }
  }

  double packed_bytes(const PlanEntry& entry, const SolvedLevel& level) const {
    const TensorInfo& tensor = model_.checkpoint().at(entry.tensor);
    if (!packs_) return static_cast<double>(tensor.num_bytes());
    const auto kept = static_cast<std::int64_t>(std::llround((1.0 - level.zeros) * entry.num_weights()));
    if (level.grid) return grid_bytes(*level.grid, entry.rows, entry.cols, kept);
    const auto bytes = [&](PackedKind kind) {
      PackedShape shape;
      shape.kind = kind;
      shape.dtype = tensor.dtype;
      shape.rows = entry.rows;
      shape.cols = entry.cols;
      shape.num_values = kind == PackedKind::kDense16 ? entry.rows * entry.cols : kept;
      return static_cast<double>(sections_of(shape).num_bytes);
    };
    return std::min(bytes(PackedKind::kDense16), bytes(PackedKind::kBitmap16));
  }

  // A weight of the tuned linears, were all of them at this level.
  double packed_bits(const std::optional<QuantGrid>& grid, double sparsity) const {
    double bytes = 0.0;
    for (const PlanEntry& entry : plan_.entries)
      bytes += entry.prune ? packed_bytes(entry, {sparsity, grid, sparsity, 0.0}) : 0.0;
    return 8.0 * bytes / num_tuned_weights();
  }

  // Within these bits, those that no other is clearly better than at the same size.
  std::vector<GridLevel> grid_levels(double least, double most) const {
    constexpr double kClearly = 0.7;
    std::vector<GridLevel> all;
    for (const int bits : options_.bits) {
      const QuantGrid grid{.bits = bits, .group = options_.group};
      for (const double share : kGridShares) {
        const GridLevel level{grid, share, packed_bits(grid, share), level_cost(bits, share)};
        // A bitmap may take more than the zeros save.
        const bool saves = share == 0.0 || level.bits < packed_bits(grid, 0.0);
        if (saves && level.bits >= least && level.bits <= most) all.push_back(level);
      }
    }
    std::vector<GridLevel> kept;
    for (const GridLevel& level : all) {
      const bool beaten = std::any_of(all.begin(), all.end(), [&](const GridLevel& other) {
        return other.bits <= level.bits && other.cost < kClearly * level.cost;
      });
      if (!beaten) kept.push_back(level);
    }
    return kept;
  }

  // Bits a weight that the budget leaves the tuned linears.
  double budget_bits() const {
    if (budget().kind == TuneBudget::Kind::kBits) return budget().value;
    if (budget().kind == TuneBudget::Kind::kBytes)
      return 8.0 * (budget().value - fixed_bytes_) / num_tuned_weights();
    return kDivergenceBits;
  }

  // Where levels are solved: today's allocation at about the budget, or with grids one level for all.
  void make_plan() {
    const Method& method = *options_.method;
    PlanDefaults defaults;
    defaults.score = method.score;
    defaults.refine = method.refine;
    defaults.sparsity = budget().kind == TuneBudget::Kind::kSparsity ? budget().value : kDivergenceShare;
    if (has_grids()) defaults.grid = QuantGrid{.bits = options_.bits.front(), .group = options_.group};
    plan_ = uniform_plan(model_, defaults, options_.skip);
    count_bytes();
    if (num_tuned_weights() == 0.0) bad_usage("--skip: leaves no linear to tune");
    check_kind();
    has_grids() ? choose_grid() : choose_share();
    prune_options_.select = method.select;
    prune_options_.propagation = method.propagation;
    prune_options_.compute = options_.forward.compute;
    prune_options_.progress = options_.forward.progress;
    device_.check_plan(model_, plan_, prune_options_);
  }

  void check_kind() const {
    using enum TuneBudget::Kind;
    if (has_grids() && budget().kind == kSparsity) {
      bad_usage(
          "--sparsity: found with --quantize, where zeros and bits are weighed against each other; say "
          "--budget "
          "in bytes or bits a weight, or --max-kl");
    }
    if (packs_ || budget().kind == kSparsity || budget().kind == kDivergence) return;
    bad_usage(
        "{}: found {}, but linears of F32 are stored as they are, whatever their zeros; add --quantize, say "
        "--sparsity, or convert the model to 16 bits",
        budget().flag(), budget().text());
  }

  void choose_share() {
    using enum TuneBudget::Kind;
    double share = plan_.entries.front().sparsity;
    if (budget().kind == kBytes || budget().kind == kBits) {
      const double bits = budget_bits();
      const double dense = packed_bits({}, 0.0), least = packed_bits({}, kMostShare);
      if (bits >= dense) {
        bad_usage("{}: found {}, but the dense model takes {}: there is nothing to prune", budget().flag(),
                  budget().text(), sizes_text(dense));
      }
      if (bits < least) {
        bad_usage(
            "{}: found {}, expected at least {}, which {:.0f} % zeros take; --quantize makes it smaller",
            budget().flag(), budget().text(), sizes_text(least), 100.0 * kMostShare);
      }
      double low = 0.0;  // takes more than the budget
      share = kMostShare;
      for (int i = 0; i < 40; ++i) {
        const double middle = 0.5 * (low + share);
        (packed_bits({}, middle) > bits ? low : share) = middle;
      }
    } else if (budget().kind == kSparsity) {
      // Of all linears, those that stay among them.
      share = budget().value * num_weights() / num_tuned_weights();
      if (!(share < kMostShare)) {
        bad_usage(
            "--sparsity: found {}, expected at most {:.3f}, where every linear that is tuned loses {:.0f} % "
            "of its "
            "weights",
            budget().value, kMostShare * num_tuned_weights() / num_weights(), 100.0 * kMostShare);
      }
    }
    for (PlanEntry& entry : plan_.entries) {
      entry.sparsity = std::clamp(share, kLeastShare, kMostShare);
      entry.row_budgets = entry.prune;
    }
    plan_.rounding = PruneTarget::Rounding::kExactTotal;
  }

  // "90.3 MB" or "3.25 bits a weight", as the budget is.
  std::string sizes_text(double bits) const {
    TuneBudget same = budget();
    same.value =
        same.kind == TuneBudget::Kind::kBytes ? fixed_bytes_ + bits * num_tuned_weights() / 8.0 : bits;
    return same.text();
  }

  void choose_grid() {
    const double bits = budget_bits();
    const std::vector<GridLevel> all = grid_levels(0.0, std::numeric_limits<double>::infinity());
    const auto by_bits = [](const GridLevel& a, const GridLevel& b) { return a.bits < b.bits; };
    const GridLevel& smallest = *std::min_element(all.begin(), all.end(), by_bits);
    const GridLevel& largest = *std::max_element(all.begin(), all.end(), by_bits);
    const bool limits = budget().kind != TuneBudget::Kind::kDivergence;
    if (limits && bits < smallest.bits) {
      bad_usage("{}: found {}, expected at least {}, which int{} with {:.0f} % zeros takes", budget().flag(),
                budget().text(), sizes_text(smallest.bits), smallest.grid.bits, 100.0 * smallest.sparsity);
    }
    if (limits && bits > 1.02 * largest.bits) {
      bad_usage(
          "{}: found {}, but int{} without zeros takes {}: there is nothing to choose; add more bits to "
          "--quantize",
          budget().flag(), budget().text(), largest.grid.bits, sizes_text(largest.bits));
    }
    const GridLevel* chosen = nullptr;
    for (const GridLevel& level : all) {
      if (level.bits <= 1.01 * bits && (chosen == nullptr || level.cost < chosen->cost)) chosen = &level;
    }
    if (chosen == nullptr) chosen = &smallest;
    for (PlanEntry& entry : plan_.entries) set_level(chosen->grid, chosen->sparsity, entry);
    plan_.rounding = PruneTarget::Rounding::kExactTotal;
  }

  static void set_level(const std::optional<QuantGrid>& grid, double sparsity, PlanEntry& entry) {
    entry.grid = grid;
    entry.sparsity = sparsity;
    entry.row_budgets = entry.prune && sparsity > 0.0;
  }

  std::vector<std::vector<PlanEntry>> levels_beside() const {
    std::vector<std::vector<PlanEntry>> levels(plan_.entries.size());
    const double bits = budget_bits();
    const std::vector<GridLevel> grids =
        has_grids() ? grid_levels(0.6 * bits, 1.7 * bits) : std::vector<GridLevel>();
    const bool wide = budget().kind == TuneBudget::Kind::kDivergence;
    for (std::size_t e = 0; e < levels.size(); ++e) {
      const PlanEntry& entry = plan_.entries[e];
      if (!entry.prune) continue;
      const auto add = [&](const std::optional<QuantGrid>& grid, double sparsity) {
        PlanEntry level = entry;
        set_level(grid, sparsity, level);
        levels[e].push_back(std::move(level));
      };
      for (const GridLevel& level : grids) {
        if (level.grid != entry.grid || level.sparsity != entry.sparsity) add(level.grid, level.sparsity);
      }
      if (has_grids()) continue;
      for (const double by :
           wide ? std::span<const double>(kWideShares) : std::span<const double>(kNearShares)) {
        const double share = entry.sparsity + by;
        if (share >= kLeastShare && share <= kMostShare) add(std::nullopt, share);
      }
    }
    return levels;
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
      sensitivities_ = head->at("sensitivities").get<std::vector<double>>();
      if (sensitivities_.size() != plan_.entries.size())
        bad_input("{}: found {} sensitivities, expected {}", store_.folder().string(), sensitivities_.size(),
                  plan_.entries.size());
      return;
    }
    sensitivities_ = device_
                         .measure_sensitivities(model_, plan_, text_.calibration, options_.forward.compute,
                                                options_.forward.progress, ranks_)
                         .values;
    if (!has_grids()) {
      allocate_by_sensitivity(sensitivities_, plan_);
    }
    store_.solve(model_, device_, plan_, levels_beside(), text_.calibration, prune_options_);
    store_.keep(
        {{"identity", options_.identity}, {"plan", to_json(plan_)}, {"sensitivities", sensitivities_}});
  }

  // In the budget's unit: bytes, or weights that are kept.
  bool counts_bytes() const {
    return has_grids() || budget().kind == TuneBudget::Kind::kBytes ||
           budget().kind == TuneBudget::Kind::kBits;
  }

  void make_units() {
    for (const SolvedUnit& solved : store_.units()) {
      const PlanEntry& entry = plan_.entries[solved.entry];
      std::vector<SearchLevel> levels;
      for (const SolvedLevel& level : solved.levels) {
        levels.push_back(
            {counts_bytes() ? packed_bytes(entry, level) : (1.0 - level.sparsity) * entry.num_weights(),
             level.error});
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
      unit.weight = sensitivity * (has_grids() ? 1.0 : std::exp(allocated_log_cost(entry.sparsity))) /
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
    ScoredWindows part{windows, {}};
    part.first_target.assign(static_cast<std::size_t>(windows.num_windows()), 1);
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
    using enum TuneBudget::Kind;
    const double tuned = num_tuned_weights();
    switch (budget().kind) {
      case kSparsity:
        return {tuned - budget().value * num_weights(), {}};
      case kBytes:
        return {budget().value - fixed_bytes_, {}};
      case kBits:
        return {budget().value * tuned / 8.0, {}};
      case kDivergence:
        break;
    }
    return {0.0, budget().value};
  }

  // In the budget's unit.
  void check_size() const {
    if (budget().kind == TuneBudget::Kind::kDivergence) return;
    const double smallest = smallest_size(units_);
    if (goal().max_size >= smallest) return;
    if (budget().kind == TuneBudget::Kind::kSparsity) {
      bad_usage("--sparsity: found {}, expected at most {:.3f}, which the sparsest levels give",
                budget().value, (num_tuned_weights() - smallest) / num_weights());
    }
    bad_usage("{}: found {}, expected at least {}, which the smallest levels take", budget().flag(),
              budget().text(), sizes_text(8.0 * smallest / num_tuned_weights()));
  }

  void search() {
    check_size();
    read_trials();
    start_.assign(units_.size(), 0);
    for (std::size_t u = 0; u < units_.size(); ++u) start_[u] = units_[u].start;
    const double start_kl = search_kl({&start_, 1}).front();
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

  // By the first rank's clock.
  bool time_is_over(std::chrono::duration<double> round) const {
    const std::chrono::duration<double> all = Clock::now() - begin_;
    bool over = all.count() + (1.0 + kReserve) * round.count() > options_.max_seconds;
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
      bytes += packed_bytes(entry, unit.levels[levels[u]]);
      zeros += unit.levels[levels[u]].zeros * entry.num_weights();
      tuned += entry.num_weights();
    }
    p.sparsity = zeros / num_weights();
    p.bits = 8.0 * bytes / tuned;
    p.bytes = fixed_bytes_ + bytes;
    return p;
  }

  void finish() {
    const Levels& best = search_->best();
    result_.keeps_budget = search_->keeps_goal();
    result_.start = point("start", start_, known_.at(nlohmann::json(stored(start_)).dump()));
    result_.best = point("best", best, search_->best_divergence());
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
      set_level(unit.levels[levels[u]].grid, unit.levels[levels[u]].sparsity, entry);
      tuned += entry.num_weights();
      asked += entry.sparsity * entry.num_weights();
    }
    if (budget().kind != TuneBudget::Kind::kSparsity) return;
    // What levels leave of the budget goes to all linears alike, so that the mean is exact.
    const double shift = (budget().value * num_weights() - asked) / tuned;
    for (PlanEntry& entry : result_.plan.entries) {
      if (entry.prune) entry.sparsity = std::clamp(entry.sparsity + shift, 0.0, 0.999);
    }
  }

  const Model& model_;
  Device& device_;
  const TuneText& text_;
  const TuneOptions& options_;
  Communicator& ranks_;
  const Clock::time_point begin_ = Clock::now();
  LevelStore store_;
  Plan plan_;  // that the levels are solved by
  PruneOptions prune_options_;
  std::vector<double> sensitivities_;
  double fixed_bytes_ = 0.0;
  bool packs_ = true;                            // the tuned linears
  std::vector<SearchUnit> units_;                // of the store's units
  std::vector<std::vector<std::size_t>> order_;  // of each: the store's number of each of the search's levels
  Levels start_;
  std::map<std::string, double> known_;  // divergence on the search's windows by the store's levels
  std::optional<LevelSearch> search_;
  TunedPlan result_;
};

}  // namespace

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
