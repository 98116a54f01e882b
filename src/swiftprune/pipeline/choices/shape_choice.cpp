#include "swiftprune/pipeline/choices/shape_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "swiftprune/core/error.h"
#include "swiftprune/structure/unit_scores.h"

namespace swiftprune {
namespace {

// The loss of models that lost channels or head groups in every layer, each beside the dense one whose
// statistics choose the units.
std::vector<double> width_losses(const ModelConfig& m, const std::vector<ShrinkShape>& shapes,
                                 TrialStreams& trials, const ShapeChoiceOptions& options) {
  trials.restart();
  std::vector<std::size_t> streams;
  for (std::size_t i = 0; i < shapes.size(); ++i) streams.push_back(trials.fork(0));
  for (std::int64_t layer = 0; layer < m.num_layers(); ++layer) {
    trials.load_block(layer);
    const auto scores = trials.run_scored(0, options.score);
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      KeptUnits kept = all_units(m);
      kept.channels =
          best_units(scores[static_cast<std::size_t>(LinearInput::kMlpOutput)], 1, shapes[i].channels);
      if (shapes[i].groups < m.num_kv_heads) {
        kept.groups = best_units(scores[static_cast<std::size_t>(LinearInput::kAttentionOutput)],
                                 columns_a_group(m), shapes[i].groups);
      }
      trials.run_with(streams[i], kept);
    }
    if (options.progress) options.progress("widths", layer + 1, m.num_layers());
  }
  std::vector<double> losses;
  for (const std::size_t stream : streams) losses.push_back(trials.loss(stream));
  return losses;
}

// rise = rise_whole · (share / whole)^power, through the rises at half and at the whole share.
struct WidthCurve {
  double whole = 0.0;  // share of the channels
  double rise_whole = 0.0;
  double power = 1.0;

  double operator()(double share) const {
    return share <= 0.0 || whole <= 0.0 ? 0.0 : rise_whole * std::pow(share / whole, power);
  }
};

WidthCurve fit(double whole, double rise_half, double rise_whole) {
  WidthCurve curve{whole, std::max(rise_whole, 0.0), 1.0};
  if (rise_half > 0.0 && rise_whole > rise_half) curve.power = std::log2(rise_whole / rise_half);
  return curve;
}

class Chooser {
 public:
  Chooser(const ModelConfig& model, TrialStreams& trials, const ShapeChoiceOptions& options)
      : model_(model), trials_(trials), options_(options), full_(shape_of(model)) {}

  ShapeChoice choose(const std::vector<ShrinkShape>& shapes) {
    std::int64_t most_layers = 0;
    for (const ShrinkShape& shape : shapes) most_layers = std::max(most_layers, full_.layers - shape.layers);
    if (most_layers > 0) order_layers(most_layers, shapes.size() > 1);
    ShapeChoice choice;
    choice.shape = shapes.size() == 1 ? shapes.front() : cheapest(shapes);
    choice.removed_layers = removed(full_.layers - choice.shape.layers);
    choice.measured = std::move(measured_);
    return choice;
  }

 private:
  std::vector<std::int64_t> removed(std::int64_t count) {
    const auto first = [&](const std::vector<std::int64_t>& order) {
      return LayerSet(order.begin(), order.begin() + count);
    };
    LayerSet layers = first(order_);
    if (options_.layers_by == LayersBy::kSearch && count > 0) {
      const ExchangedLayers found =
          exchange_layers(trials_, full_.layers, {layers, first(by_influence())}, options_.progress);
      measured_["layers"]["search"] = {
          {"layers", found.layers}, {"loss", found.loss}, {"exchanges", found.exchanges}};
      layers = found.layers;
    }
    return {layers.begin(), layers.end()};
  }

  std::vector<std::int64_t> by_influence() {
    const std::vector<double> influence = block_influence(trials_, full_.layers, options_.progress);
    std::vector<std::int64_t> order(influence.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return influence[static_cast<std::size_t>(a)] < influence[static_cast<std::size_t>(b)];
    });
    measured_["block_influence"] = influence;
    return order;
  }

  void order_layers(std::int64_t count, bool losses_needed) {
    const bool by_loss = options_.layers_by != LayersBy::kInfluence;
    if (by_loss || losses_needed) {
      const GreedyLayers greedy = greedy_layers(trials_, full_.layers, count, options_.progress);
      order_ = greedy.order;
      dense_loss_ = greedy.dense_loss;
      layer_losses_ = greedy.losses;
      measured_["layers"] = {
          {"dense_loss", greedy.dense_loss}, {"order", greedy.order}, {"losses", greedy.losses}};
    }
    if (!by_loss) order_ = by_influence();
  }

  ShrinkShape cheapest(const std::vector<ShrinkShape>& shapes) {
    std::int64_t fewest_channels = full_.channels, fewest_groups = full_.groups;
    for (const ShrinkShape& shape : shapes) {
      fewest_channels = std::min(fewest_channels, shape.channels);
      fewest_groups = std::min(fewest_groups, shape.groups);
    }
    // The dense model, half and the whole cut in width, every number of groups.
    std::vector<ShrinkShape> points(3, full_);
    points[1].channels = (full_.channels + fewest_channels) / 2;
    points[2].channels = fewest_channels;
    for (std::int64_t groups = full_.groups - 1; groups >= fewest_groups; --groups) {
      points.push_back({full_.channels, groups, full_.layers});
    }
    const std::vector<double> losses = width_losses(model_, points, trials_, options_);
    if (layer_losses_.empty()) dense_loss_ = losses[0];
    const auto share = [&](std::int64_t channels) {
      return 1.0 - static_cast<double>(channels) / static_cast<double>(full_.channels);
    };
    const WidthCurve curve = fit(share(fewest_channels), losses[1] - losses[0], losses[2] - losses[0]);
    measured_["widths"] = {{"channels", {full_.channels, points[1].channels, points[2].channels}},
                           {"losses", {losses[0], losses[1], losses[2]}}};
    measured_["groups"] = std::vector<double>(losses.begin() + 3, losses.end());

    const auto cost = [&](const ShrinkShape& shape) {
      double rise = curve(share(shape.channels));
      if (shape.groups < full_.groups) {
        rise += losses[static_cast<std::size_t>(2 + full_.groups - shape.groups)] - losses[0];
      }
      if (shape.layers < full_.layers) {
        rise += layer_losses_[static_cast<std::size_t>(full_.layers - shape.layers - 1)] - dense_loss_;
      }
      return rise;
    };
    return *std::min_element(shapes.begin(), shapes.end(),
                             [&](const ShrinkShape& a, const ShrinkShape& b) { return cost(a) < cost(b); });
  }

  const ModelConfig& model_;
  TrialStreams& trials_;
  const ShapeChoiceOptions& options_;
  ShrinkShape full_;
  std::vector<std::int64_t> order_;
  std::vector<double> layer_losses_;
  double dense_loss_ = 0.0;
  nlohmann::ordered_json measured_ = nlohmann::ordered_json::object();
};

}  // namespace

ShapeChoice choose_shape(const ModelConfig& model, const ShapeRequest& request, TrialStreams& trials,
                         const ShapeChoiceOptions& options) {
  return Chooser(model, trials, options).choose(shapes_for(model, request));
}

}  // namespace swiftprune
