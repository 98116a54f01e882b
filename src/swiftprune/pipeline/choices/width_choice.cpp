#include "swiftprune/pipeline/choices/width_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "swiftprune/core/error.h"
#include "swiftprune/structure/unit_scores.h"

namespace swiftprune {
namespace {

using enum LinearInput;

// What is left of one kind of units in one layer, and what the next piece would cost.
struct Units {
  std::int64_t dense = 0;
  std::int64_t left = 0;
  std::int64_t step = 1;  // left is a multiple of it, or dense
  double weights = 0.0;   // of one unit
  const UnitChanges* changes = nullptr;
  std::size_t layer = 0;

  std::int64_t next() const { return (left - 1) / step * step; }
  double cost(std::int64_t kept) const {
    return changes->cost(layer, static_cast<double>(dense - kept) / static_cast<double>(dense));
  }
  double piece() const { return weights * static_cast<double>(left - next()); }
  double cost_a_weight() const { return (cost(next()) - cost(left)) / piece(); }
};

// (x - mean) / standard deviation; zeros where all are equal.
std::vector<double> standardized(std::vector<double> values) {
  const auto n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double square = 0.0;
  for (const double x : values) square += (x - mean) * (x - mean);
  const double deviation = values.size() > 1 ? std::sqrt(square / (n - 1.0)) : 0.0;
  for (double& x : values) x = deviation > 0.0 ? (x - mean) / deviation : 0.0;
  return values;
}

void set_widest(ShrinkShape& shape) {
  const auto widest = [](const std::vector<std::int64_t>& sizes, std::int64_t otherwise) {
    return sizes.empty() ? otherwise : *std::max_element(sizes.begin(), sizes.end());
  };
  shape.channels = widest(shape.layer_channels, shape.channels);
  shape.groups = widest(shape.layer_groups, shape.groups);
}

}  // namespace

double UnitChanges::cost(std::size_t layer, double gone) const {
  const auto curve = [](double s) { return s * s / (1.0 - s); };
  return changes[layer] * curve(gone) / curve(share);
}

WidthChanges measure_width_changes(const ModelConfig& m, const ShapeRequest& request, TrialStreams& trials,
                                   const WidthChoiceOptions& options) {
  struct Cut {
    LinearInput output;
    std::int64_t columns_a_unit, left;  // none left: the whole layer goes
    UnitChanges* changes;
  };
  WidthChanges result;
  std::vector<Cut> cuts;
  const auto add = [&](LinearInput output, std::int64_t columns, std::int64_t left, std::int64_t all,
                       UnitChanges& changes) {
    changes.share = 1.0 - static_cast<double>(left) / static_cast<double>(all);
    cuts.push_back({output, columns, left, &changes});
  };
  if (request.has(UnitKind::kMlp)) {
    const std::int64_t all = m.intermediate_size;
    const std::int64_t left = std::llround((1.0 - request.ratio) * static_cast<double>(all));
    add(kMlpOutput, 1, std::clamp<std::int64_t>(left, 1, all - 1), all, result.channels);
  }
  if (request.has(UnitKind::kHeads))
    add(kAttentionOutput, columns_a_group(m), m.num_kv_heads - 1, m.num_kv_heads, result.groups);
  if (request.has(UnitKind::kLayers)) add(kMlpOutput, 1, 0, 1, result.layers);

  trials.restart();
  std::vector<std::size_t> behind;  // streams that have lost something
  for (std::int64_t layer = 0; layer < m.num_layers(); ++layer) {
    trials.load_block(layer);
    for (const std::size_t stream : behind) trials.run(stream);
    for (std::size_t i = 0; i < cuts.size(); ++i) behind.push_back(trials.fork(0));
    const auto scores = trials.run_scored(0, options.score);
    for (std::size_t i = 0; i < cuts.size(); ++i) {
      const Cut& cut = cuts[i];
      if (cut.left == 0) continue;  // past the layer
      KeptUnits kept = all_units(m);
      (cut.output == kMlpOutput ? kept.channels : kept.groups) =
          best_units(scores[static_cast<std::size_t>(cut.output)], cut.columns_a_unit, cut.left);
      trials.run_with(behind[behind.size() - cuts.size() + i], kept);
    }
    if (options.progress) options.progress("widths", layer + 1, m.num_layers());
  }
  const std::vector<double> changes = trials.final_changes();
  for (std::size_t i = 0; i < changes.size(); ++i)
    cuts[i % cuts.size()].changes->changes.push_back(changes[i]);
  return result;
}

ShrinkShape standardized_widths(const ModelConfig& m, const ShapeRequest& request, TrialStreams& trials,
                                const WidthChoiceOptions& options) {
  check_width_request(m, request);
  struct Unit {
    double score;
    double weights;
    std::int64_t* left;  // of its kind in its layer
  };
  const UnitWeights weights = unit_weights(m);
  ShrinkShape shape = shape_of(m);
  if (request.has(UnitKind::kMlp)) shape.layer_channels.assign(m.blocks.size(), m.intermediate_size);
  if (request.has(UnitKind::kHeads)) shape.layer_groups.assign(m.blocks.size(), m.num_kv_heads);
  std::vector<Unit> units;
  const auto add = [&](std::span<const double> scores, std::int64_t columns, double weight,
                       std::int64_t& left) {
    for (const double score : standardized(unit_sums(scores, columns)))
      units.push_back({score, weight, &left});
  };
  trials.restart();
  for (std::int64_t layer = 0; layer < m.num_layers(); ++layer) {
    trials.load_block(layer);
    const auto scores = trials.run_scored(0, options.score);
    const auto l = static_cast<std::size_t>(layer);
    if (request.has(UnitKind::kMlp))
      add(scores[static_cast<std::size_t>(kMlpOutput)], 1, weights.channel, shape.layer_channels[l]);
    if (request.has(UnitKind::kHeads)) {
      add(scores[static_cast<std::size_t>(kAttentionOutput)], columns_a_group(m), weights.group,
          shape.layer_groups[l]);
    }
    if (options.progress) options.progress("widths", layer + 1, m.num_layers());
  }
  std::stable_sort(units.begin(), units.end(),
                   [](const Unit& a, const Unit& b) { return a.score < b.score; });
  double to_go = request.ratio * static_cast<double>(block_parameters(m, shape_of(m)));
  for (const Unit& unit : units) {
    if (to_go < 0.5 * unit.weights) break;
    to_go -= unit.weights;
    --*unit.left;
  }
  for (std::int64_t& left : shape.layer_channels) {
    const std::int64_t pieces = (left + request.align / 2) / request.align;
    left = std::min(m.intermediate_size, std::max<std::int64_t>(1, pieces) * request.align);
  }
  for (std::int64_t& left : shape.layer_groups) left = std::max<std::int64_t>(1, left);
  set_widest(shape);
  return shape;
}

void check_width_request(const ModelConfig& model, const ShapeRequest& request) {
  check_request(model, request);
  if (request.has(UnitKind::kLayers)) {
    bad_usage("--units: found layers, expected mlp, heads or both with --non-uniform");
  }
  const ShrinkShape full = shape_of(model);
  ShrinkShape least = full;
  if (request.has(UnitKind::kMlp)) least.channels = request.align;
  if (request.has(UnitKind::kHeads)) least.groups = 1;
  if (const double most = ratio_of(model, least); request.ratio > most) {
    bad_usage(
        "--ratio: found {}, expected at most {:.3f}: {} must be left in every block; add units or lower "
        "the ratio",
        request.ratio, most,
        request.has(UnitKind::kMlp) ? fmt::format("{} channels (--align) and one head group", request.align)
                                    : "one head group");
  }
}

ShrinkShape spread_widths(const ModelConfig& model, const ShapeRequest& request,
                          const WidthChanges& changes) {
  check_width_request(model, request);
  const UnitWeights weights = unit_weights(model);
  std::vector<Units> units;
  const auto add = [&](const UnitChanges& of, std::int64_t dense, std::int64_t step, double unit) {
    for (std::size_t layer = 0; layer < of.changes.size(); ++layer)
      units.push_back({dense, dense, step, unit, &of, layer});
  };
  add(changes.channels, model.intermediate_size, request.align, weights.channel);
  add(changes.groups, model.num_kv_heads, 1, weights.group);
  double to_go = request.ratio * static_cast<double>(block_parameters(model, shape_of(model)));
  while (true) {
    Units* best = nullptr;
    for (Units& u : units) {
      const bool fits = u.next() >= 1 && 0.5 * u.piece() <= to_go;
      if (fits && (best == nullptr || u.cost_a_weight() < best->cost_a_weight())) best = &u;
    }
    if (best == nullptr) break;
    to_go -= best->piece();
    best->left = best->next();
  }
  ShrinkShape shape = shape_of(model);
  const std::size_t layers = model.blocks.size();
  const auto left = [&](std::size_t first) {
    std::vector<std::int64_t> sizes;
    for (std::size_t i = 0; i < layers; ++i) sizes.push_back(units[first + i].left);
    return sizes;
  };
  if (!changes.channels.changes.empty()) shape.layer_channels = left(0);
  if (!changes.groups.changes.empty()) shape.layer_groups = left(units.size() - layers);
  set_widest(shape);
  return shape;
}

}  // namespace swiftprune
