#include "swiftprune/pipeline/drivers/shrink.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/core/timeline.h"
#include "swiftprune/model/layer_sizes.h"
#include "swiftprune/pipeline/capabilities.h"
#include "swiftprune/pipeline/drivers/shrink_shop.h"
#include "swiftprune/sparse/packed_checkpoint.h"
#include "swiftprune/structure/unit_scores.h"

namespace swiftprune {
namespace {

using enum LinearInput;

constexpr std::array kCompensations = {
    std::pair{Compensation::kNone, "none"}, std::pair{Compensation::kBias, "bias"},
    std::pair{Compensation::kRefit, "refit"}, std::pair{Compensation::kAligned, "aligned"}};

class Shrinker {
 public:
  Shrinker(const ShrinkShopMaker& make_shop, const Model& model, const ShrinkShape& shape,
           std::span<const std::int64_t> removed, const TokenWindows& windows, const ShrinkOptions& options,
           ShrinkOutput& output)
      : model_(model),
        options_(options),
        removed_(removed),
        added_biases_(added_biases(model.config(), shape, options.compensation)),
        layers_(running_layers()),
        run_{.model = model,
             .shape = shape,
             .windows = windows,
             .options = options,
             .output = output,
             .seconds = result_.seconds,
             .scorer = unit_scorer(options.score),
             .added_biases = added_biases_,
             .layers = layers_} {
    const Stopwatch total(result_.seconds.total);
    const Stopwatch watch(result_.seconds.forward);
    shop_ = make_shop(run_);
  }

  ShrinkResult run() {
    {
      const Stopwatch total(result_.seconds.total);
      for (const std::int64_t layer : layers_) {
        check_interrupt();
        run_block(layer);
        options_.progress("shrink", layer + 1, model_.config().num_layers());
      }
      shop_->finish();
    }
    return std::move(result_);
  }

 private:
  bool is_removed(std::int64_t layer) const {
    return std::find(removed_.begin(), removed_.end(), layer) != removed_.end();
  }

  // A layer that goes runs only in the dense model.
  std::vector<std::int64_t> running_layers() const {
    std::vector<std::int64_t> layers;
    for (std::int64_t layer = 0; layer < model_.config().num_layers(); ++layer) {
      if (!is_removed(layer) || options_.compensation == Compensation::kAligned) layers.push_back(layer);
    }
    return layers;
  }

  void run_block(std::int64_t layer) {
    const bool removed = is_removed(layer);
    shop_->load(layer);
    {
      const Stopwatch watch(result_.seconds.forward);
      if (removed) shop_->silence();
      shop_->start_block();
    }
    ShrunkBlock shrunk{layer, all_units(model_.config())};
    for (int i = 0; i < kNumLinearInputs; ++i) {
      const auto input = static_cast<LinearInput>(i);
      if (run_.aligned() || is_output(input)) run_input(input, removed, shrunk);
    }
    if (layer != layers_.back()) {
      const Stopwatch watch(result_.seconds.forward);
      const TimelineStage stage("forward", layer);
      shop_->pass();
    }
    if (removed) return;
    shop_->write(shrunk);
    result_.blocks.push_back(std::move(shrunk));
  }

  void run_input(LinearInput input, bool removed, ShrunkBlock& shrunk) {
    const bool observed = !removed && changes(shrunk.layer, input);
    {
      const Stopwatch watch(result_.seconds.forward);
      const TimelineStage stage("forward", shrunk.layer);
      const StatNeeds needs = needs_of(input);
      // Where the output is normed before it joins the residual, making up for the residual's error would
      // need the norm's inverse.
      const bool residual = run_.aligned() && is_output(input) && !shop_->norms_output(input);
      shop_->collect(input, observed ? &needs : nullptr, residual);
    }
    if (!observed) return;
    const Stopwatch watch(result_.seconds.solve);
    const TimelineStage stage("refine", shrunk.layer);
    is_output(input) ? shrink_output(input, shrunk) : shop_->refit_readers(input, options_.refit);
  }

  // Do the linears that read the input become other ones? A fit of all columns to their own outputs gives
  // back what there was.
  bool changes(std::int64_t layer, LinearInput input) const {
    return run_.aligned() || loses_units(model_.config(), run_.shape, layer, input);
  }

  StatNeeds needs_of(LinearInput input) const {
    StatNeeds needs;
    needs.energy = needs.gram = run_.refits();
    needs.alignment = run_.aligned();
    if (is_output(input)) needs = needs | run_.scorer.needs;
    needs.sum |= is_output(input) && balances_bias(input);
    return needs;
  }

  bool balances_bias(LinearInput output) const {
    return options_.compensation != Compensation::kNone && !run_.aligned() && shop_->has_bias(output);
  }

  // Chooses the units, refits what is left and balances the bias.
  void shrink_output(LinearInput output, ShrunkBlock& shrunk) {
    const ModelConfig& m = model_.config();
    const bool mlp = output == kMlpOutput;
    const BlockConfig& block = m.blocks[static_cast<std::size_t>(shrunk.layer)];
    const std::int64_t unit = mlp ? 1 : columns_a_group(m);
    const std::int64_t count = units_in(run_.shape, shrunk.layer, output);
    std::vector<std::int64_t>& units = mlp ? shrunk.kept.channels : shrunk.kept.groups;
    // Head groups are ranked by one look at all of them: sums over columns that go together.
    const std::int64_t num_kept = mlp ? count : m.num_kv_heads * unit;
    if (count < std::ssize(units)) units = best_units(shop_->unit_scores(output, num_kept), unit, count);
    const std::vector<std::int64_t> columns = kept_columns(m, block, output, shrunk.kept);
    if (run_.refits()) {
      RefitOptions options = options_.refit;
      if (!run_.aligned()) options.alpha = options.beta = 0.0;
      shop_->refit_columns(output, columns, options);
    } else {
      shop_->keep_columns(output, columns);
    }
    if (!balances_bias(output)) return;
    std::vector<float> bias = shop_->bias(output);
    const std::vector<float> shift = shop_->mean_error(output);
    for (std::size_t o = 0; o < shift.size(); ++o) bias[o] += shift[o];
    shop_->set_bias(output, std::move(bias));
  }

  const Model& model_;
  const ShrinkOptions& options_;
  std::span<const std::int64_t> removed_;
  const std::vector<LinearInput> added_biases_;
  const std::vector<std::int64_t> layers_;
  ShrinkResult result_;
  ShrinkRun run_;  // refers to the ones before
  std::unique_ptr<ShrinkShop> shop_;
};

}  // namespace

bool ShrinkRun::needs_gram(LinearInput input) const {
  if (aligned()) return true;
  return is_output(input) && loses_units(model.config(), shape, input) && (refits() || scorer.needs.gram);
}

std::vector<KeptPart> kept_parts(const ModelConfig& model, const BlockConfig& block, const KeptUnits& kept) {
  const std::vector<LinearTensors> linears = linears_of(block);
  std::vector<KeptPart> parts;
  for (std::size_t i = 0; i < linears.size(); ++i) {
    parts.push_back({kept_rows(model, block, i, kept), {}});
    if (is_output(linears[i].input)) parts.back().columns = kept_columns(model, block, linears[i], kept);
  }
  return parts;
}

std::string_view name_of(Compensation compensation) {
  for (const auto& [value, name] : kCompensations) {
    if (value == compensation) return name;
  }
  return "";
}

Compensation parse_compensation(std::string_view name) {
  for (const auto& [value, known] : kCompensations) {
    if (name == known) return value;
  }
  bad_usage("--compensate: found '{}', expected auto, none, bias, refit or aligned", name);
}

std::vector<LinearInput> added_biases(const ModelConfig& model, const ShrinkShape& shape,
                                      Compensation compensation) {
  std::vector<LinearInput> added;
  if (compensation != Compensation::kBias) return added;
  const auto add = [&](LinearInput output, const LinearTensors& linear, const std::string& field) {
    if (linear.bias) return;
    if (field.empty()) {
      bad_usage(
          "--compensate: found bias, for which {} has no room: config.json of the family {} knows no bias "
          "there; expected none, refit or aligned",
          linear.name, model.family);
    }
    added.push_back(output);
  };
  const BlockConfig& block = model.blocks.front();
  if (loses_units(model, shape, kAttentionOutput)) {
    add(kAttentionOutput, block.attention_output, model.attention_bias_field);
  }
  if (loses_units(model, shape, kMlpOutput)) {
    add(kMlpOutput, block.down, model.mlp_bias_field);
  }
  return added;
}

void check_shrinkable(const Model& model) {
  check_without_experts(model.config(), "shrink --units heads or layers, or several",
                        "--units experts takes whole experts out, --units mlp alone their inner channels");
  if (!model.config().has_whole_blocks()) {
    bad_usage(
        "shrink: model of the family {}: found layers that are a mixer or an MLP alone, expected both in "
        "each",
        model.config().family);
  }
  const auto reason = inseparable(model.config(), UnitKind::kMlp);
  if (reason && inseparable(model.config(), UnitKind::kHeads) &&
      inseparable(model.config(), UnitKind::kLayers)) {
    bad_usage("shrink: model of the family {}: found no unit that can be removed: {}", model.config().family,
              *reason);
  }
  if (model.config().has_layer_sizes) {
    bad_input(
        "{}: config.json: field '{}': a model whose layers differ in size cannot be shrunk again; shrink "
        "the dense one",
        model.checkpoint().folder().string(), kLayerSizesField);
  }
  if (!has_packed_tensors(model.checkpoint())) return;
  bad_input("{}: a packed model cannot be shrunk; make it dense first: swiftprune unpack",
            model.checkpoint().folder().string());
}

void check_shrink(const Model& model, const ShrinkShape& shape, std::span<const std::int64_t> removed_layers,
                  const TokenWindows& windows) {
  expect(windows.num_windows() > 0, "shrink: calibration windows");
  expect(std::ssize(removed_layers) == model.config().num_layers() - shape.layers,
         "shrink: as many layers removed as the shape lacks");
  const auto one_a_layer = [&](const std::vector<std::int64_t>& sizes) {
    return sizes.empty() || std::ssize(sizes) == model.config().num_layers();
  };
  expect(one_a_layer(shape.layer_channels) && one_a_layer(shape.layer_groups), "shrink: a size a layer");
  check_shrinkable(model);
}

ShrinkResult shrink(const ShrinkShopMaker& make_shop, const Model& model, const ShrinkShape& shape,
                    std::span<const std::int64_t> removed_layers, const TokenWindows& windows,
                    const ShrinkOptions& options, ShrinkOutput& output) {
  check_shrink(model, shape, removed_layers, windows);
  return Shrinker(make_shop, model, shape, removed_layers, windows, options, output).run();
}

ShrinkResult shrink(const Model& model, const Backend& backend, const ShrinkShape& shape,
                    std::span<const std::int64_t> removed_layers, const TokenWindows& windows,
                    const ShrinkOptions& options, ShrinkOutput& output) {
  return shrink(cpu_shrink_shop(backend), model, shape, removed_layers, windows, options, output);
}

}  // namespace swiftprune
