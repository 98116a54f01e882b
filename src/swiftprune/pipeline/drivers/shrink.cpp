#include "swiftprune/pipeline/drivers/shrink.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/stopwatch.h"
#include "swiftprune/model/layer_sizes.h"
#include "swiftprune/pipeline/streams/one_stream.h"
#include "swiftprune/pipeline/streams/two_streams.h"
#include "swiftprune/sparse/packed_checkpoint.h"
#include "swiftprune/structure/unit_scores.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

using enum LinearInput;

constexpr std::array kCompensations = {
    std::pair{Compensation::kNone, "none"}, std::pair{Compensation::kBias, "bias"},
    std::pair{Compensation::kRefit, "refit"}, std::pair{Compensation::kAligned, "aligned"}};

// Columns back at their places, zeros elsewhere.
void spread_columns(ConstMatrixView narrow, std::span<const std::int64_t> columns, MatrixView wide) {
  for (std::int64_t r = 0; r < wide.rows; ++r) {
    std::fill_n(wide.row(r), wide.cols, 0.0f);
    for (std::int64_t k = 0; k < std::ssize(columns); ++k) {
      wide.at(r, columns[static_cast<std::size_t>(k)]) = narrow.at(r, k);
    }
  }
}

class BlockShrinker {
 public:
  BlockShrinker(const Model& model, const Backend& backend, const ShrinkShape& shape,
                std::span<const std::int64_t> removed, const TokenWindows& windows,
                const ShrinkOptions& options, ShrinkOutput& output)
      : model_(model),
        backend_(backend),
        shape_(shape),
        removed_(removed),
        windows_(windows),
        options_(options),
        output_(output),
        scorer_(unit_scorer(options.score)),
        added_biases_(added_biases(model.config(), shape, options.compensation)) {}

  ShrinkResult run() {
    {
      const Stopwatch total(result_.seconds.total);
      run_blocks();
    }
    return std::move(result_);
  }

 private:
  void run_blocks() {
    {
      const Stopwatch watch(result_.seconds.forward);
      if (aligned()) {
        two_.emplace(model_, backend_, windows_);
      } else {
        one_.emplace(model_, backend_, windows_);
      }
    }
    const std::int64_t layers = model_.config().num_layers();
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      check_interrupt();
      run_block(layer, layer + 1 < layers);
      options_.progress("shrink", layer + 1, layers);
    }
  }

  bool aligned() const { return options_.compensation == Compensation::kAligned; }

  void run_block(std::int64_t layer, bool more_to_come) {
    const bool removed = std::find(removed_.begin(), removed_.end(), layer) != removed_.end();
    if (removed && !aligned()) return;
    std::optional<DecoderBlock> dense, block;
    {
      const Stopwatch watch(result_.seconds.load);
      if (aligned()) dense.emplace(model_.load_block(layer));
      block.emplace(model_.load_block(layer));
      if (removed) silence(*block);
      add_biases(*block);
    }
    {
      const Stopwatch watch(result_.seconds.forward);
      if (dense) dense->pack(backend_, options_.compute);
      block->pack(backend_, options_.compute);
      aligned() ? two_->start_block(*dense, *block) : one_->start_block(*block);
    }
    ShrunkBlock shrunk{layer, all_units(model_.config())};
    for (int i = 0; i < kNumLinearInputs; ++i) {
      const auto input = static_cast<LinearInput>(i);
      if (aligned() || is_output(input)) run_input(*block, input, removed, shrunk);
    }
    if (more_to_come) {
      const Stopwatch watch(result_.seconds.forward);
      aligned() ? two_->finish_block() : one_->finish_block();
    }
    if (!removed) {
      const Stopwatch watch(result_.seconds.write);
      output_.write(std::ssize(result_.blocks), shrunk, *block);
      result_.blocks.push_back(std::move(shrunk));
    }
    model_.release_block(layer);
  }

  void add_biases(DecoderBlock& block) const {
    for (BlockLinear& linear : block.linears()) {
      const LinearInput output = output_of(linear.tensors.input);
      if (linear.tensors.bias || std::count(added_biases_.begin(), added_biases_.end(), output) == 0)
        continue;
      linear.tensors.bias = true;
      linear.bias.assign(static_cast<std::size_t>(linear.tensors.outputs), 0.0f);
    }
  }

  void run_input(DecoderBlock& block, LinearInput input, bool removed, ShrunkBlock& shrunk) {
    std::optional<ActivationStats> stats;
    if (!removed && changes(shrunk.layer, input)) stats = make_stats(block, input);
    {
      const Stopwatch watch(result_.seconds.forward);
      aligned() ? two_->collect(input, stats ? &*stats : nullptr)
                : one_->collect(input, stats ? &*stats : nullptr);
      if (stats) stats->finish(fmt::format("block {}, {}", shrunk.layer, name_of(input)));
    }
    if (!stats) return;
    {
      const Stopwatch watch(result_.seconds.solve);
      is_output(input) ? shrink_output(output_projection(block, input), input, stats->view(), shrunk)
                       : refit_readers(block, input, stats->view());
    }
    const Stopwatch watch(result_.seconds.forward);
    block.pack(backend_, options_.compute, input);
  }

  // Do the linears that read the input become other ones? A fit of all columns to their own outputs gives
  // back what there was.
  bool changes(std::int64_t layer, LinearInput input) const {
    return aligned() || loses_units(model_.config(), shape_, layer, input);
  }

  ActivationStats make_stats(const DecoderBlock& block, LinearInput input) const {
    StatNeeds needs;
    needs.energy = needs.gram = aligned() || options_.compensation == Compensation::kRefit;
    needs.alignment = aligned();
    if (is_output(input)) needs = needs | scorer_.needs;
    std::int64_t inputs = 0;
    for (const BlockLinear& linear : block.linears()) {
      if (linear.tensors.input != input) continue;
      inputs = linear.tensors.inputs;
      needs.sum |= balances_bias(linear);
    }
    // Where the output is normed before it joins the residual, making up for the residual's error would need
    // the norm's inverse.
    const bool residual = aligned() && is_output(input) && !block.norms_output(input);
    return ActivationStats(inputs, needs, residual ? model_.config().hidden_size : 0, options_.compute);
  }

  bool balances_bias(const BlockLinear& linear) const {
    return options_.compensation != Compensation::kNone && !aligned() && !linear.bias.empty();
  }

  void refit_readers(DecoderBlock& block, LinearInput input, const LayerStats& stats) const {
    for (BlockLinear& linear : block.linears()) {
      if (linear.tensors.input != input) continue;
      std::vector<std::int64_t> all(static_cast<std::size_t>(linear.tensors.inputs));
      for (std::size_t j = 0; j < all.size(); ++j) all[j] = static_cast<std::int64_t>(j);
      linear.weight = refit_columns(linear.weight.view(), stats, all, options_.refit, backend_,
                                    linear.tensors.name + ".weight");
      round_to(linear.dtype, linear.weight.values());
    }
  }

  // Chooses the units, refits what is left and balances the bias.
  void shrink_output(BlockLinear& linear, LinearInput output, const LayerStats& stats,
                     ShrunkBlock& shrunk) const {
    const ModelConfig& m = model_.config();
    const bool mlp = output == kMlpOutput;
    const std::int64_t unit = mlp ? 1 : columns_a_group(m);
    const std::int64_t count = units_in(shape_, shrunk.layer, output);
    std::vector<std::int64_t>& units = mlp ? shrunk.kept.channels : shrunk.kept.groups;
    // Head groups are ranked by one look at all of them: sums over columns that go together.
    const std::int64_t num_kept = mlp ? count : linear.tensors.inputs;
    units = best_units(score_columns(scorer_, linear.weight.view(), stats, num_kept, backend_), unit, count);
    const std::vector<std::int64_t> columns = kept_columns(m, output, shrunk.kept);
    const Matrix dense = linear.weight.clone();
    const bool refit = aligned() || options_.compensation == Compensation::kRefit;
    if (refit) {
      RefitOptions options = options_.refit;
      if (!aligned()) options.alpha = options.beta = 0.0;
      spread_columns(
          refit_columns(dense.view(), stats, columns, options, backend_, linear.tensors.name + ".weight")
              .view(),
          columns, linear.weight.view());
    } else {
      keep_columns(linear, columns);
    }
    round_to(linear.dtype, linear.weight.values());
    if (!balances_bias(linear)) return;
    const std::vector<float> shift = mean_error(dense.view(), linear.weight.view(), stats);
    for (std::size_t o = 0; o < shift.size(); ++o) linear.bias[o] += shift[o];
    round_to(linear.dtype, linear.bias);
  }

  const Model& model_;
  const Backend& backend_;
  const ShrinkShape& shape_;
  std::span<const std::int64_t> removed_;
  const TokenWindows& windows_;
  const ShrinkOptions& options_;
  ShrinkOutput& output_;
  const UnitScorer& scorer_;
  const std::vector<LinearInput> added_biases_;
  std::optional<TwoStreams> two_;
  std::optional<OneStream> one_;
  ShrinkResult result_;
};

}  // namespace

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

void round_to(DType dtype, std::span<float> values) {
  if (dtype == DType::kF32) return;
  std::vector<std::byte> bytes(values.size() * static_cast<std::size_t>(size_of(dtype)));
  convert_from_f32(values, dtype, bytes);
  convert_to_f32(bytes, dtype, values);
}

BlockLinear& output_projection(DecoderBlock& block, LinearInput output) {
  const auto found = std::find_if(block.linears().begin(), block.linears().end(),
                                  [&](const BlockLinear& l) { return l.tensors.input == output; });
  expect(is_output(output) && found != block.linears().end(), "output_projection: an output's input");
  return *found;
}

void silence(DecoderBlock& block) {
  for (const LinearInput output : {kAttentionOutput, kMlpOutput}) {
    BlockLinear& linear = output_projection(block, output);
    std::fill(linear.weight.values().begin(), linear.weight.values().end(), 0.0f);
    std::fill(linear.bias.begin(), linear.bias.end(), 0.0f);
  }
}

void keep_columns(BlockLinear& linear, std::span<const std::int64_t> kept) {
  const Matrix narrow = take_columns(std::as_const(linear.weight).view(), kept);
  spread_columns(narrow.view(), kept, linear.weight.view());
}

void check_shrinkable(const Model& model) {
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

void ShrinkOutput::write_part(const std::string&, std::int64_t, std::span<const std::byte>) {
  expect(false, "ShrinkOutput: parts of tensors are taken");
}

void ShrinkOutput::write_bias(const std::string&, std::span<const float>) {
  expect(false, "ShrinkOutput: biases are taken");
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

ShrinkResult shrink(const Model& model, const Backend& backend, const ShrinkShape& shape,
                    std::span<const std::int64_t> removed_layers, const TokenWindows& windows,
                    const ShrinkOptions& options, ShrinkOutput& output) {
  check_shrink(model, shape, removed_layers, windows);
  return BlockShrinker(model, backend, shape, removed_layers, windows, options, output).run();
}

}  // namespace swiftprune
