#include "swiftprune/tune/unit_tune.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "swiftprune/checkpoint/output_file.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/pipeline/choices/width_choice.h"
#include "swiftprune/pipeline/drivers/shrink.h"
#include "swiftprune/pipeline/shrink_plan.h"
#include "swiftprune/tune/plan_search.h"
#include "swiftprune/tune/width_store.h"

namespace swiftprune {
namespace {

// Shares that a layer may lose, of the one that all would lose alike.
constexpr double kLayerShares[] = {0.35, 0.7, 1.0, 1.3, 1.6, 2.0, 2.5};
constexpr double kMostOfLayer = 0.9;
constexpr double kDivergenceRatio = 0.2;  // where widths are solved for a limit of divergence
constexpr double kLeastCost = 1e-12;      // no units are free

class UnitTuner {
 public:
  UnitTuner(const Model& model, Device& device, const TuneText& text, const TuneOptions& options,
            Communicator& ranks)
      : model_(model),
        config_(model.config()),
        device_(device),
        text_(text),
        options_(options),
        ranks_(ranks),
        plans_(model, device, text, options, ranks,
               [this](const std::vector<std::size_t>& levels, const std::string& name) {
                 return store_->compose(levels_of(levels), name);
               }) {}

  TunedPlan run() {
    check_shrinkable(model_);
    plans_.check_folder();
    {
      const Stopwatch watch(result_.solve_seconds);
      const std::optional<nlohmann::json> kept = plans_.kept_head();
      ratio_ = kept ? JsonField(*kept, plans_.kept_file(), "head").at("ratio").number() : wanted_ratio();
      request_ = {.ratio = ratio_, .units = options_.units, .align = options_.align};
      check_request(config_, request_);
      make_choices();
      check_size();
      store_.emplace(options_.folder, model_, shapes_, ranks_);
      kept ? read_changes(JsonField(*kept, plans_.kept_file(), "head").at("changes")) : make_levels();
    }
    {
      const Stopwatch watch(result_.search_seconds);
      make_units();
      plans_.measure_start();
      plans_.run(goal(), result_);
      finish();
    }
    return std::move(result_);
  }

 private:
  const TuneBudget& budget() const { return options_.budget; }
  bool limits_divergence() const { return budget().kind == TuneBudget::Kind::kDivergence; }

  double model_bytes() const {
    double bytes = 0.0;
    for (const TensorInfo& tensor : model_.checkpoint().tensors())
      bytes += static_cast<double>(tensor.num_bytes());
    return bytes;
  }
  double block_bytes() const {
    double bytes = 0.0;
    for (const BlockConfig& block : config_.blocks) {
      for (const LinearTensors& linear : linears_of(block))
        bytes += static_cast<double>(model_.checkpoint().at(linear.name + ".weight").num_bytes());
    }
    return bytes;
  }
  double weights() const { return static_cast<double>(block_parameters(config_, shape_of(config_))); }

  // Of the blocks' weights that go, by what the budget is in. A time is the first rank's, for all.
  double wanted_ratio() {
    using enum TuneBudget::Kind;
    switch (budget().kind) {
      case kRatio:
        return budget().value;
      case kDivergence:
        return kDivergenceRatio;
      case kBytes:
        break;
      case kSpeed:
        if (ranks_.is_first()) decode_ = device_.decode_time(model_, options_.forward.compute);
        ranks_.broadcast(0, std::as_writable_bytes(std::span(&decode_, 1)));
        break;
      default:
        bad_usage(
            "{}: found with --units, whose plans have no zeros and no grids; expected --ratio, --max-kl or a "
            "--budget in bytes or tokens a second",
            budget().flag());
    }
    const double all = budget().kind == kBytes ? model_bytes() : 1e3 / decode_.total_ms;
    const double least = budget().kind == kBytes ? all - block_bytes() : 1e3 / decode_.head_ms;
    TuneBudget dense = budget(), nothing = budget();
    dense.value = all;
    nothing.value = least;
    const bool is_between = budget().value > std::min(all, least) && budget().value < std::max(all, least);
    if (!is_between) {
      bad_usage("--budget: found {}, expected between {} (the dense model) and {} (nothing in its blocks)",
                budget().text(), dense.text(), nothing.text());
    }
    return budget().kind == kBytes ? (all - budget().value) / block_bytes()
                                   : ratio_for(decode_, 1e3 / budget().value);
  }

  // Widths that are solved, and what is left of a layer: each with each.
  void make_choices() {
    const UnitWeights sizes = unit_weights(config_);
    const ShrinkShape full = shape_of(config_);
    const bool mlp = request_.has(UnitKind::kMlp), heads = request_.has(UnitKind::kHeads);
    const auto layers = static_cast<double>(full.layers);
    const double narrowed = (mlp ? sizes.channel * static_cast<double>(full.channels) * layers : 0.0) +
                            (heads ? sizes.group * static_cast<double>(full.groups) * layers : 0.0);
    std::vector<std::int64_t> channels = {full.channels}, groups = {full.groups};
    for (const double times : kLayerShares) {
      if (narrowed == 0.0) break;
      const double left = 1.0 - std::min(kMostOfLayer, times * ratio_ * weights() / narrowed);
      ShrinkShape shape = full;
      if (mlp) {
        const std::int64_t pieces =
            std::llround(left * static_cast<double>(full.channels) / static_cast<double>(request_.align));
        shape.channels = std::min(full.channels, std::max<std::int64_t>(1, pieces) * request_.align);
      }
      if (heads)
        shape.groups = std::max<std::int64_t>(1, std::llround(left * static_cast<double>(full.groups)));
      if (shape == full || (!shapes_.empty() && shape == shapes_.back())) continue;
      shapes_.push_back(shape);
      if (shape.channels < channels.back()) channels.push_back(shape.channels);
      if (shape.groups < groups.back()) groups.push_back(shape.groups);
    }
    for (const std::int64_t c : channels) {
      for (const std::int64_t g : groups) choices_.push_back({c, g});
    }
    if (request_.has(UnitKind::kLayers)) choices_.push_back({});
  }

  void make_levels() {
    {
      const auto trials =
          device_.trial_streams(model_, trial_text(text_.calibration), options_.forward.compute);
      changes_ =
          measure_width_changes(config_, request_, *trials,
                                {.score = ShrinkOptions{}.score, .progress = options_.forward.progress});
    }
    ShrinkOptions options;
    options.compensation = Compensation::kRefit;
    options.compute = options_.forward.compute;
    if (options_.forward.progress) options.progress = options_.forward.progress;
    store_->solve(device_, text_.calibration, options);
    const auto json_of = [](const UnitChanges& of) {
      return nlohmann::ordered_json{{"share", of.share}, {"changes", of.changes}};
    };
    plans_.keep_head({{"identity", options_.identity},
                      {"ratio", ratio_},
                      {"changes",
                       {{"channels", json_of(changes_.channels)},
                        {"groups", json_of(changes_.groups)},
                        {"layers", json_of(changes_.layers)}}}});
  }

  void read_changes(const JsonField& head) {
    const auto read = [&](const char* name, UnitKind kind) {
      UnitChanges changes;
      changes.share = head.at(name).at("share").number();
      for (const JsonField& value : head.at(name).at("changes").items())
        changes.changes.push_back(value.number());
      const std::size_t expected = request_.has(kind) ? config_.blocks.size() : 0;
      if (changes.changes.size() != expected)
        head.at(name).at("changes").unexpected(fmt::format("{} numbers", expected));
      return changes;
    };
    changes_ = {read("channels", UnitKind::kMlp), read("groups", UnitKind::kHeads),
                read("layers", UnitKind::kLayers)};
  }

  double size_of(const LayerLevel& level) const {
    const UnitWeights sizes = unit_weights(config_);
    return sizes.channel * static_cast<double>(level.channels) +
           sizes.group * static_cast<double>(level.groups);
  }

  // Expected, by what the model's output changes by when the layer alone loses as much.
  double cost_of(std::size_t layer, const LayerLevel& level) const {
    if (level.is_gone()) return std::max(changes_.layers.changes[layer], kLeastCost);
    const auto gone = [](std::int64_t left, std::int64_t all) {
      return static_cast<double>(all - left) / static_cast<double>(all);
    };
    double cost = 0.0;
    if (level.channels < config_.intermediate_size)
      cost += std::max(kLeastCost,
                       changes_.channels.cost(layer, gone(level.channels, config_.intermediate_size)));
    if (level.groups < config_.num_kv_heads)
      cost += std::max(kLeastCost, changes_.groups.cost(layer, gone(level.groups, config_.num_kv_heads)));
    return cost;
  }

  // The start: from the dense model on, what is expected to cost least for its size goes, as shrink --non-uniform does it.
  void make_units() {
    // One layer stays whatever it takes: the one that is missed most.
    const auto& of_layers = changes_.layers.changes;
    const auto missed = std::max_element(of_layers.begin(), of_layers.end()) - of_layers.begin();
    std::vector<SearchUnit> units;
    std::vector<std::vector<std::size_t>> numbers;
    for (std::size_t layer = 0; layer < config_.blocks.size(); ++layer) {
      std::vector<SearchLevel> levels;
      for (const LayerLevel& level : choices_) {
        if (level.is_gone() && std::cmp_equal(layer, missed)) break;  // it is the last one
        levels.push_back({size_of(level), cost_of(layer, level)});
      }
      SearchUnit unit;
      unit.layer = static_cast<std::int64_t>(layer);
      unit.kind = "layer";
      numbers.push_back(useful_levels(levels));
      for (const std::size_t l : numbers.back()) unit.levels.push_back(levels[l]);
      units.push_back(std::move(unit));
    }
    const double size = (1.0 - ratio_) * weights();
    const Levels start = LevelSearch(units, {size, {}}, 1.0, options_.seed).fitted(size);
    for (std::size_t u = 0; u < units.size(); ++u) {
      units[u].start = start[u];
      plans_.add_unit(std::move(units[u]), std::move(numbers[u]));
    }
    result_.tuned = std::ssize(plans_.units());
    result_.levels = plans_.most_levels();
  }

  // Before anything is solved: where layers may go, all but one of them.
  void check_size() const {
    double narrowest = size_of(choices_.front());
    for (const LayerLevel& level : choices_) {
      if (!level.is_gone()) narrowest = std::min(narrowest, size_of(level));
    }
    const double smallest =
        request_.has(UnitKind::kLayers) ? narrowest : narrowest * static_cast<double>(config_.num_layers());
    if (limits_divergence() || (1.0 - ratio_) * weights() >= smallest) return;
    const double most = 1.0 - smallest / weights();
    const std::string text =
        budget().kind == TuneBudget::Kind::kRatio
            ? fmt::format("{}", budget().value)
            : fmt::format("{}, which takes {:.3f} of the blocks' weights", budget().text(), ratio_);
    bad_usage("{}: found {}, expected at most {:.3f}, which the narrowest levels give; add --units",
              budget().flag(), text, most);
  }

  SearchGoal goal() const {
    if (limits_divergence()) return {0.0, budget().value};
    return {(1.0 - ratio_) * weights(), {}};
  }

  std::vector<LayerLevel> levels_of(const std::vector<std::size_t>& numbers) const {
    std::vector<LayerLevel> levels;
    for (const std::size_t number : numbers) levels.push_back(choices_[number]);
    return levels;
  }

  TunePoint point(const std::string& name, const Levels& plan, double kl) const {
    TunePoint p;
    p.name = name;
    p.search_kl = kl;
    const double left = plans_.search().size_of(plan) / weights();
    p.ratio = 1.0 - left;
    p.bytes = model_bytes() - *p.ratio * block_bytes();
    if (decode_.total_ms > 0.0)
      p.tokens_per_second = 1e3 / (decode_.head_ms + left * (decode_.total_ms - decode_.head_ms));
    return p;
  }

  void finish() {
    const Levels best = plans_.search().best();
    result_.keeps_budget = plans_.search().keeps_goal();
    result_.start = point("start", plans_.start(), plans_.search_kl({&plans_.start(), 1}).front());
    result_.best = point("best", best, plans_.search_kl({&best, 1}).front());
    if (decode_.total_ms > 0.0) result_.dense_tokens_per_second = 1e3 / decode_.total_ms;
    std::vector<std::int64_t> channels, groups;
    ShapeChoice choice;
    for (const LayerLevel& level : levels_of(plans_.stored(best))) {
      if (level.is_gone()) choice.removed_layers.push_back(std::ssize(channels));
      channels.push_back(level.channels);
      groups.push_back(level.groups);
    }
    choice.shape = shape_of_layers(std::move(channels), std::move(groups));
    result_.layers = shrink_plan_document(config_, choice);
    if (result_.interrupted()) return;
    plans_.measure_line(
        best,
        [this](const std::string& name, const Levels& plan, double kl) { return point(name, plan, kl); },
        result_);
    plans_.check_divergence(budget(), result_);
  }

  const Model& model_;
  const ModelConfig& config_;
  Device& device_;
  const TuneText& text_;
  const TuneOptions& options_;
  Communicator& ranks_;
  PlanSearch plans_;
  double ratio_ = 0.0;
  ShapeRequest request_;
  DecodeTime decode_;                // of a budget in tokens a second
  std::vector<ShrinkShape> shapes_;  // that are solved
  std::vector<LayerLevel> choices_;  // the dense layer first, none last
  std::optional<WidthStore> store_;
  WidthChanges changes_;
  TunedPlan result_;
};

}  // namespace

TunedPlan tune_units(const Model& model, Device& device, const TuneText& text, const TuneOptions& options,
                     Communicator& ranks) {
  return UnitTuner(model, device, text, options, ranks).run();
}

}  // namespace swiftprune
