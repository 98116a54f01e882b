#include "swiftprune/pipeline/width_choice.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "swiftprune/core/error.h"
#include "swiftprune/model/forward.h"
#include "swiftprune/pipeline/relative_change.h"
#include "swiftprune/pipeline/scored_forward.h"
#include "swiftprune/pipeline/shrink.h"
#include "swiftprune/structure/unit_scores.h"

namespace swiftprune {
namespace {

using enum LinearInput;

constexpr std::int64_t kWindows = 2;
constexpr std::int64_t kTokens = 512;  // of each window

class ChangeProbe {
 public:
  ChangeProbe(const Model& model, const Backend& backend, const TokenWindows& windows,
              const WidthChoiceOptions& options)
      : model_(model),
        backend_(backend),
        windows_(windows),
        options_(options),
        ropes_(model.rope_tables(windows.seqlen)),
        dense_(model.embed_windows(windows, 0, windows.num_windows())) {}

  // kept: how many units of a kind the layer that loses some keeps; nothing: all.
  void run(std::optional<std::int64_t> kept_channels, std::optional<std::int64_t> kept_groups) {
    const ModelConfig& m = model_.config();
    for (std::int64_t layer = 0; layer < m.num_layers(); ++layer) {
      DecoderBlock block = model_.load_block(layer);
      block.pack(backend_, options_.layers.compute);
      for (Matrix& stream : streams_)
        forward_windows(block, backend_, ropes_, windows_.seqlen, stream.view());
      const Matrix input = dense_.clone();
      const std::vector<std::vector<double>> scores =
          forward_scored(block, backend_, ropes_, windows_.seqlen, options_.score, dense_.view());
      const auto add_stream = [&](LinearInput output, std::int64_t columns_a_unit, std::int64_t count) {
        const auto units = best_units(scores[static_cast<std::size_t>(output)], columns_a_unit, count);
        KeptUnits kept = all_units(m);
        (output == kMlpOutput ? kept.channels : kept.groups) = units;
        BlockLinear& linear = output_projection(block, output);
        const Matrix whole = linear.weight.clone();
        keep_columns(linear, kept_columns(m, output, kept));
        block.pack(backend_, options_.layers.compute, output);
        streams_.push_back(input.clone());
        forward_windows(block, backend_, ropes_, windows_.seqlen, streams_.back().view());
        std::copy_n(whole.data(), whole.numel(), linear.weight.row(0));
        block.pack(backend_, options_.layers.compute, output);
      };
      if (kept_channels) add_stream(kMlpOutput, 1, *kept_channels);
      if (kept_groups) add_stream(kAttentionOutput, m.num_heads / m.num_kv_heads * m.head_size, *kept_groups);
      model_.release_block(layer);
      options_.layers.progress("widths", layer + 1, m.num_layers());
    }
  }

  // Of the streams in the order in which they began.
  std::vector<double> changes() {
    const FinalNorm norm(model_.checkpoint(), model_.config());
    const auto normed = [&](Matrix& hidden) {
      if (norm.present()) norm.apply(backend_, hidden.view(), hidden.view());
    };
    normed(dense_);
    std::vector<double> result;
    for (Matrix& stream : streams_) {
      normed(stream);
      result.push_back(relative_change(dense_.view(), stream.view()));
    }
    return result;
  }

 private:
  const Model& model_;
  const Backend& backend_;
  const TokenWindows& windows_;
  const WidthChoiceOptions& options_;
  std::vector<RopeTable> ropes_;
  Matrix dense_;                 // [N, hidden]
  std::vector<Matrix> streams_;  // [N, hidden] each without something in one layer
};

// What is left of one kind of units in one layer, and what the next piece would cost.
struct Units {
  std::int64_t dense = 0;
  std::int64_t left = 0;
  std::int64_t step = 1;  // left is a multiple of it, or dense
  double weights = 0.0;   // of one unit
  double change = 0.0;
  double share = 1.0;

  std::int64_t next() const { return (left - 1) / step * step; }
  double cost(std::int64_t kept) const {
    const auto curve = [](double gone) { return gone * gone / (1.0 - gone); };
    return change * curve(static_cast<double>(dense - kept) / static_cast<double>(dense)) / curve(share);
  }
  double piece() const { return weights * static_cast<double>(left - next()); }
  double cost_a_weight() const { return (cost(next()) - cost(left)) / piece(); }
};

}  // namespace

WidthChanges measure_width_changes(const Model& model, const Backend& backend, const ShapeRequest& request,
                                   const TokenWindows& windows, const WidthChoiceOptions& options) {
  const ModelConfig& m = model.config();
  const TokenWindows text = shortened(windows, kWindows, kTokens);
  std::optional<std::int64_t> channels, groups;
  if (request.has(UnitKind::kMlp)) {
    channels = std::clamp<std::int64_t>(
        std::llround((1.0 - request.ratio) * static_cast<double>(m.intermediate_size)), 1,
        m.intermediate_size - 1);
  }
  if (request.has(UnitKind::kHeads)) groups = m.num_kv_heads - 1;
  ChangeProbe probe(model, backend, text, options);
  probe.run(channels, groups);
  const std::vector<double> changes = probe.changes();
  WidthChanges result;
  for (std::size_t i = 0; i < changes.size();) {
    if (channels) result.channels.changes.push_back(changes[i++]);
    if (groups) result.groups.changes.push_back(changes[i++]);
  }
  const auto share = [](std::int64_t kept, std::int64_t all) {
    return 1.0 - static_cast<double>(kept) / static_cast<double>(all);
  };
  if (channels) result.channels.share = share(*channels, m.intermediate_size);
  if (groups) result.groups.share = share(*groups, m.num_kv_heads);
  return result;
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
    for (const double change : of.changes) units.push_back({dense, dense, step, unit, change, of.share});
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
  if (!changes.channels.changes.empty()) {
    shape.layer_channels = left(0);
    shape.channels = *std::max_element(shape.layer_channels.begin(), shape.layer_channels.end());
  }
  if (!changes.groups.changes.empty()) {
    shape.layer_groups = left(units.size() - layers);
    shape.groups = *std::max_element(shape.layer_groups.begin(), shape.layer_groups.end());
  }
  return shape;
}

}  // namespace swiftprune
