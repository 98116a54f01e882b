#include "swiftprune/tune/level_choice.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <span>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/pipeline/choices/allocate.h"
#include "swiftprune/pipeline/choices/allocate_bits.h"
#include "swiftprune/sparse/pack_quantized.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

// Shares around a linear's own that it is solved at, too.
constexpr double kNearShares[] = {-0.2, -0.15, -0.1, -0.05, 0.05, 0.1, 0.15};
constexpr double kWideShares[] = {-0.32, -0.24, -0.16, -0.08, 0.08, 0.16, 0.24, 0.32};
constexpr double kLeastShare = 0.02, kMostShare = 0.97;
// With grids: shares that are tried with each number of bits.
constexpr double kGridShares[] = {0.0, 0.3, 0.4, 0.5, 0.6, 0.7};
constexpr double kUsefulFrom = 0.6, kUsefulTo = 1.7;  // of the budget: choices that are solved
constexpr double kClearly = 0.7;                      // of a choice's cost: what beats it at its size
constexpr double kDivergenceShare = 0.5,
                 kDivergenceBits = 4.1;  // where levels are solved for a limit of divergence

SolvedLevel level_of(const Pattern& pattern, double share, const std::optional<QuantGrid>& grid) {
  const double zeros = target_sparsity({.pattern = pattern, .sparsity = share});
  return {.sparsity = zeros, .grid = grid, .pattern = pattern, .zeros = zeros};
}

}  // namespace

void set_method(const Method& method, PlanEntry& entry) {
  entry.score = entry.pattern.kind == Pattern::Kind::kNofM ? method.n_m_score : method.score;
  entry.refine = method.refine;
}

LevelChoice::LevelChoice(const Model& model, const TuneOptions& options, DecodeTimes* times)
    : model_(model), options_(options), times_(times) {
  const Method& method = *options.method;
  PlanDefaults defaults;
  defaults.score = method.score;
  defaults.refine = method.refine;
  // The refinement is asked whether it can do what the levels will want.
  if (has_grids()) defaults.grid = QuantGrid{.bits = options.bits.front(), .group = options.group};
  plan_ = uniform_plan(model, defaults, options.skip);
  plan_.rounding = PruneTarget::Rounding::kExactTotal;
  for (const PlanEntry& entry : plan_.entries) {
    num_weights_ += entry.num_weights();
    num_tuned_ += entry.prune ? entry.num_weights() : 0.0;
  }
  if (num_tuned_ == 0.0) bad_usage("--skip: leaves no linear to tune");
  count_bytes();
  check_options();
  for (const Pattern& pattern : options.patterns) {
    defaults.pattern = pattern;
    uniform_plan(model, defaults, options.skip);  // refuses what the linears or the refinement cannot have
  }
  if (times_ != nullptr) dense_us_ = total({});
}

void LevelChoice::count_bytes() {
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

void LevelChoice::check_options() const {
  using enum TuneBudget::Kind;
  if (has_grids() && budget().kind == kSparsity) {
    bad_usage(
        "--sparsity: found with --quantize, where zeros and bits are weighed against each other; say "
        "--budget in bytes, bits a weight or tokens a second, or --max-kl");
  }
  for (const Pattern& pattern : options_.patterns) {
    if (pattern.kind != Pattern::Kind::kNofM)
      bad_usage("--patterns: found {}, expected N:M such as 2:4; shares of zeros are chosen without it",
                format(pattern));
  }
  if (packs_ || budget().kind == kSparsity || budget().kind == kDivergence) return;
  bad_usage(
      "{}: found {}, but linears of F32 are stored as they are, whatever their zeros; add --quantize, say "
      "--sparsity, or convert the model to 16 bits",
      budget().flag(), budget().text());
}

bool LevelChoice::counts_bytes() const {
  using enum TuneBudget::Kind;
  return budget().kind == kBytes || budget().kind == kBits || (has_grids() && budget().kind == kDivergence);
}

double LevelChoice::packed_bytes(const PlanEntry& entry, const SolvedLevel& level) const {
  const TensorInfo& tensor = model_.checkpoint().at(entry.tensor);
  if (!packs_) return static_cast<double>(tensor.num_bytes());
  const auto kept = static_cast<std::int64_t>(std::llround((1.0 - level.zeros) * entry.num_weights()));
  if (level.grid) return grid_bytes(*level.grid, entry.rows, entry.cols, kept);
  PackedShape shape;
  shape.dtype = tensor.dtype;
  shape.rows = entry.rows;
  shape.cols = entry.cols;
  const auto bytes = [&](PackedKind kind, std::int64_t num_values) {
    shape.kind = kind;
    shape.num_values = num_values;
    return static_cast<double>(sections_of(shape).num_bytes);
  };
  return std::min(bytes(PackedKind::kDense16, entry.rows * entry.cols), bytes(PackedKind::kBitmap16, kept));
}

double LevelChoice::size(const PlanEntry& entry, const SolvedLevel& level) const {
  if (times_ != nullptr) return times_->product_us(entry, level);
  return counts_bytes() ? packed_bytes(entry, level) : (1.0 - level.sparsity) * entry.num_weights();
}

double LevelChoice::total(const SolvedLevel& level) const {
  double sum = 0.0;
  for (const PlanEntry& entry : plan_.entries) sum += entry.prune ? size(entry, level) : 0.0;
  return sum;
}

double LevelChoice::max_size() const {
  using enum TuneBudget::Kind;
  switch (budget().kind) {
    case kSparsity:
      return num_tuned_ - budget().value * num_weights_;
    case kBytes:
      return budget().value - fixed_bytes_;
    case kBits:
      return budget().value * num_tuned_ / 8.0;
    case kSpeed:
      return dense_us_ - times_->saved_for(1e6 / budget().value);
    case kRatio:  // of units
    case kDivergence:
      break;
  }
  return 0.0;
}

std::string LevelChoice::text_of(double size) const {
  using enum TuneBudget::Kind;
  TuneBudget same = budget();
  if (same.kind == kSparsity) same.value = (num_tuned_ - size) / num_weights_;
  if (same.kind == kBytes) same.value = fixed_bytes_ + size;
  if (same.kind == kBits) same.value = 8.0 * size / num_tuned_;
  if (same.kind == kSpeed) same.value = 1e6 / times_->step_us(dense_us_ - size);
  return same.text();
}

void LevelChoice::set_level(const SolvedLevel& level, PlanEntry& entry) const {
  entry.grid = level.grid;
  entry.pattern = level.pattern;
  entry.sparsity = level.sparsity;
  swiftprune::set_method(*options_.method, entry);
  entry.row_budgets = entry.prune && level.sparsity > 0.0 && takes_row_budgets(entry);
}

// The paper's own threshold is one for all rows.
bool LevelChoice::takes_row_budgets(const PlanEntry& entry) const {
  const bool has_thresholds = options_.method->select == SelectKind::kEwma && entry.refine.facts().uses_mask;
  return entry.pattern.kind == Pattern::Kind::kRow && !has_thresholds;
}

void LevelChoice::set_method(Plan& plan) const {
  for (PlanEntry& entry : plan.entries) {
    swiftprune::set_method(*options_.method, entry);
    entry.row_budgets &= takes_row_budgets(entry);
  }
}

// -- Choices: grids with zeros, patterns

// What a choice without grid costs follows the curve of zeros without a pattern, which tells patterns apart by their zeros
// alone.
std::vector<LevelChoice::Choice> LevelChoice::choices() const {
  std::vector<SolvedLevel> levels;
  std::vector<std::optional<QuantGrid>> grids = {std::nullopt};
  if (has_grids()) grids.clear();
  for (const int bits : options_.bits) grids.push_back(QuantGrid{.bits = bits, .group = options_.group});
  for (const auto& grid : grids) {
    if (options_.patterns.empty()) {
      for (const double share : kGridShares) levels.push_back(level_of({}, share, grid));
      continue;
    }
    levels.push_back(level_of({}, 0.0, grid));
    for (const Pattern& pattern : options_.patterns) levels.push_back(level_of(pattern, 0.0, grid));
  }
  std::vector<Choice> all;
  for (const SolvedLevel& level : levels) {
    const double zeros = level.sparsity > 0.0 ? std::exp(allocated_log_cost(level.sparsity)) : 0.0;
    const Choice choice{level, total(level),
                        level.grid ? level_cost(level.grid->bits, level.sparsity) : zeros};
    // A bitmap may take more than the zeros save.
    const bool saves = level.sparsity == 0.0 || choice.size < total(level_of({}, 0.0, level.grid));
    if (saves) all.push_back(choice);
  }
  return all;
}

double LevelChoice::aimed_size() const {
  return budget().kind == TuneBudget::Kind::kDivergence ? kDivergenceBits * num_tuned_ / 8.0 : max_size();
}

// Near the budget, those that no other is clearly better than at the same size.
std::vector<LevelChoice::Choice> LevelChoice::useful_choices() const {
  const std::vector<Choice> all = choices();
  if (!options_.patterns.empty()) return all;  // few
  std::vector<Choice> useful;
  for (const Choice& choice : all) {
    const double share = choice.size / aimed_size();
    const bool beaten = std::any_of(all.begin(), all.end(), [&](const Choice& other) {
      return other.size <= choice.size && other.cost < kClearly * choice.cost;
    });
    if (!beaten && share >= kUsefulFrom && share <= kUsefulTo) useful.push_back(choice);
  }
  return useful;
}

SolvedLevel LevelChoice::uniform_choice() const {
  const std::vector<Choice> all = choices();
  const auto by_size = [](const Choice& a, const Choice& b) { return a.size < b.size; };
  const Choice& smallest = *std::min_element(all.begin(), all.end(), by_size);
  const Choice& largest = *std::max_element(all.begin(), all.end(), by_size);
  const bool limits = budget().kind != TuneBudget::Kind::kDivergence;
  if (limits && max_size() < smallest.size) {
    bad_usage("{}: found {}, expected at {} {}, which {} gives", budget().flag(), budget().text(),
              budget().is_least() ? "most" : "least", text_of(smallest.size), describe(smallest.level));
  }
  // Some slack: a budget that the largest choice all but fills has nothing to gain, but is met.
  if (limits && max_size() > 1.02 * largest.size) {
    bad_usage("{}: found {}, but {} everywhere gives {}: there is nothing to choose{}", budget().flag(),
              budget().text(), describe(largest.level), text_of(largest.size),
              has_grids() ? "; add more bits to --quantize" : "");
  }
  if (!limits && !has_grids()) {  // somewhere between
    const auto far = [](const Choice& choice) { return std::abs(choice.level.sparsity - kDivergenceShare); };
    return std::min_element(all.begin(), all.end(),
                            [&](const Choice& a, const Choice& b) { return far(a) < far(b); })
        ->level;
  }
  const Choice* chosen = nullptr;
  for (const Choice& choice : all) {
    if (choice.size <= 1.01 * aimed_size() && (chosen == nullptr || choice.cost < chosen->cost))
      chosen = &choice;
  }
  return (chosen != nullptr ? *chosen : smallest).level;
}

// -- Shares of zeros

double LevelChoice::uniform_share() const {
  using enum TuneBudget::Kind;
  if (budget().kind == kDivergence) return kDivergenceShare;
  if (budget().kind == kSparsity) {
    // Of all linears, those that stay among them.
    const double share = budget().value * num_weights_ / num_tuned_;
    if (!(share < kMostShare)) {
      bad_usage(
          "--sparsity: found {}, expected at most {:.3f}, where every linear that is tuned loses {:.0f} % "
          "of its weights",
          budget().value, kMostShare * num_tuned_ / num_weights_, 100.0 * kMostShare);
    }
    return share;
  }
  const double size = max_size(), dense = total({}), least = total(level_of({}, kMostShare, {}));
  if (size >= dense) {
    bad_usage("{}: found {}, but the dense model has {}: there is nothing to prune", budget().flag(),
              budget().text(), text_of(dense));
  }
  if (size < least) {
    bad_usage("{}: found {}, expected at {} {}, which {:.0f} % zeros give; --quantize gives more",
              budget().flag(), budget().text(), budget().is_least() ? "most" : "least", text_of(least),
              100.0 * kMostShare);
  }
  double low = 0.0, share = kMostShare;  // low: takes more than the budget
  for (int i = 0; i < 40; ++i) {
    const double middle = 0.5 * (low + share);
    (total(level_of({}, middle, {})) > size ? low : share) = middle;
  }
  return share;
}

Plan LevelChoice::start_plan() const {
  Plan plan = plan_;
  const SolvedLevel level = has_choices()
                                ? uniform_choice()
                                : level_of({}, std::clamp(uniform_share(), kLeastShare, kMostShare), {});
  for (PlanEntry& entry : plan.entries) set_level(level, entry);
  return plan;
}

std::vector<std::vector<PlanEntry>> LevelChoice::levels_beside(const Plan& plan) const {
  std::vector<std::vector<PlanEntry>> levels(plan.entries.size());
  const std::vector<Choice> useful = has_choices() ? useful_choices() : std::vector<Choice>();
  const bool wide = budget().kind == TuneBudget::Kind::kDivergence;
  for (std::size_t e = 0; e < levels.size(); ++e) {
    const PlanEntry& entry = plan.entries[e];
    if (!entry.prune) continue;
    const auto add = [&](const SolvedLevel& level) {
      PlanEntry beside = entry;
      set_level(level, beside);
      levels[e].push_back(std::move(beside));
    };
    for (const Choice& choice : useful) {
      const SolvedLevel& level = choice.level;
      const bool is_own =
          level.grid == entry.grid && level.pattern == entry.pattern && level.sparsity == entry.sparsity;
      if (!is_own) add(level);
    }
    if (has_choices()) continue;
    for (const double by :
         wide ? std::span<const double>(kWideShares) : std::span<const double>(kNearShares)) {
      const double share = entry.sparsity + by;
      if (share >= kLeastShare && share <= kMostShare) add(level_of({}, share, {}));
    }
  }
  return levels;
}

}  // namespace swiftprune
