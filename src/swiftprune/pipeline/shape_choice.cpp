#include "swiftprune/pipeline/shape_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "swiftprune/core/error.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/pipeline/scored_forward.h"
#include "swiftprune/pipeline/shrink.h"
#include "swiftprune/structure/unit_scores.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kWindows = 2;
constexpr std::int64_t kTokens = 512;  // of each window

// The loss of models that lost channels or head groups in every layer, each beside the dense one whose
// statistics choose the units.
class WidthLosses {
 public:
  WidthLosses(const Model& model, const Backend& backend, const TokenWindows& windows,
              const ShapeChoiceOptions& options)
      : model_(model), backend_(backend), windows_(windows), options_(options) {}

  std::vector<double> measure(const std::vector<ShrinkShape>& shapes) const {
    const std::vector<RopeTable> ropes = model_.rope_tables(windows_.seqlen);
    Matrix dense = model_.embed_windows(windows_, 0, windows_.num_windows());
    std::vector<Matrix> streams;
    for (std::size_t i = 0; i < shapes.size(); ++i) streams.push_back(dense.clone());
    const std::int64_t layers = model_.config().num_layers();
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      DecoderBlock block = model_.load_block(layer);
      block.pack(backend_, options_.layers.compute);
      const std::vector<std::vector<double>> scores =
          forward_scored(block, backend_, ropes, windows_.seqlen, options_.score, dense.view());
      for (std::size_t i = 0; i < shapes.size(); ++i) {
        DecoderBlock cut = model_.load_block(layer);
        cut_units(cut, scores, shapes[i]);
        cut.pack(backend_, options_.layers.compute);
        forward_windows(cut, backend_, ropes, windows_.seqlen, streams[i].view());
      }
      model_.release_block(layer);
      options_.layers.progress("widths", layer + 1, layers);
    }
    const ModelHead head = model_.load_head(backend_, options_.layers.compute);
    std::vector<double> losses;
    for (const Matrix& hidden : streams) {
      losses.push_back(loss_of(model_, backend_, head, windows_, hidden.view()));
    }
    return losses;
  }

 private:
  void cut_units(DecoderBlock& block, const std::vector<std::vector<double>>& scores,
                 const ShrinkShape& shape) const {
    const ModelConfig& m = model_.config();
    KeptUnits kept;
    kept.channels = best_units(scores[static_cast<std::size_t>(LinearInput::kMlpOutput)], 1, shape.channels);
    kept.groups = best_units(scores[static_cast<std::size_t>(LinearInput::kAttentionOutput)],
                             m.num_heads / m.num_kv_heads * m.head_size, shape.groups);
    for (const LinearInput output : {LinearInput::kAttentionOutput, LinearInput::kMlpOutput}) {
      keep_columns(output_projection(block, output), kept_columns(m, output, kept));
    }
  }

  const Model& model_;
  const Backend& backend_;
  const TokenWindows& windows_;
  const ShapeChoiceOptions& options_;
};

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
  Chooser(const Model& model, const Backend& backend, const TokenWindows& windows,
          const ShapeChoiceOptions& options)
      : model_(model),
        backend_(backend),
        options_(options),
        windows_(shortened(windows, kWindows, kTokens)),
        full_(shape_of(model.config())) {}

  ShapeChoice choose(const std::vector<ShrinkShape>& shapes) {
    std::int64_t most_layers = 0;
    for (const ShrinkShape& shape : shapes) most_layers = std::max(most_layers, full_.layers - shape.layers);
    if (most_layers > 0) order_layers(most_layers, shapes.size() > 1);
    ShapeChoice choice;
    choice.shape = shapes.size() == 1 ? shapes.front() : cheapest(shapes);
    choice.removed_layers.assign(order_.begin(), order_.begin() + (full_.layers - choice.shape.layers));
    std::sort(choice.removed_layers.begin(), choice.removed_layers.end());
    choice.measured = std::move(measured_);
    return choice;
  }

 private:
  void order_layers(std::int64_t count, bool losses_needed) {
    if (options_.greedy || losses_needed) {
      const GreedyLayers greedy = greedy_layers(model_, backend_, windows_, count, options_.layers);
      order_ = greedy.order;
      dense_loss_ = greedy.dense_loss;
      layer_losses_ = greedy.losses;
      measured_["layers"] = {
          {"dense_loss", greedy.dense_loss}, {"order", greedy.order}, {"losses", greedy.losses}};
    }
    if (options_.greedy) return;
    const std::vector<double> influence = block_influence(model_, backend_, windows_, options_.layers);
    order_.resize(influence.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(), [&](std::int64_t a, std::int64_t b) {
      return influence[static_cast<std::size_t>(a)] < influence[static_cast<std::size_t>(b)];
    });
    measured_["block_influence"] = influence;
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
    const std::vector<double> losses = WidthLosses(model_, backend_, windows_, options_).measure(points);
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

  const Model& model_;
  const Backend& backend_;
  const ShapeChoiceOptions& options_;
  TokenWindows windows_;
  ShrinkShape full_;
  std::vector<std::int64_t> order_;
  std::vector<double> layer_losses_;
  double dense_loss_ = 0.0;
  nlohmann::ordered_json measured_ = nlohmann::ordered_json::object();
};

}  // namespace

ShapeChoice choose_shape(const Model& model, const Backend& backend, const ShapeRequest& request,
                         const TokenWindows& windows, const ShapeChoiceOptions& options) {
  const std::vector<ShrinkShape> shapes = shapes_for(model.config(), request);
  return Chooser(model, backend, windows, options).choose(shapes);
}

}  // namespace swiftprune
