#include "swiftprune/pipeline/choices/row_budgets.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/refinement/layer_error.h"
#include "swiftprune/selection/selector.h"

namespace swiftprune {
namespace {

using enum LinearInput;

constexpr double kByThreshold = 0.5;  // weight of the threshold's counts; the rest is the mean
constexpr double kReach = 0.25;       // of the inputs, around the mean
constexpr double kMostOfRow = 0.97;   // of the inputs of a row

// Σ_i (scale_i·W_ij)² of each column j, added to sums.
void add_column_energies(ConstMatrixView weight, std::span<const float> scale, std::span<double> sums) {
  for (std::int64_t i = 0; i < weight.rows; ++i) {
    const double factor = scale.empty() ? 1.0 : double{scale[at(i)]};
    for (std::int64_t j = 0; j < weight.cols; ++j) {
      const double value = factor * double{weight.at(i, j)};
      sums[at(j)] += value * value;
    }
  }
}

// The factors that a norm multiplies each channel with; ones without a norm.
std::vector<float> gains(const Model& model, const std::optional<NormTensors>& norm) {
  const ModelConfig& config = model.config();
  std::vector<float> result(at(config.hidden_size), 1.0f);
  if (!norm || norm->gain.empty()) return result;
  result = model.checkpoint().load_vector(norm->gain, config.hidden_size);
  for (float& gain : result) gain += config.norm_gain_offset;
  return result;
}

// Where query, key and value rows stand in the linears of QkvLayout; logical order: all q, all k, all v.
struct QkvRow {
  std::size_t linear;
  std::int64_t row;
};
QkvRow qkv_row(const ModelConfig& config, const BlockConfig& block, std::int64_t logical) {
  const std::int64_t d = config.head_size_in(block);
  const std::int64_t q = config.heads_in(block) * d;
  const std::int64_t kv = config.kv_size_in(block);
  switch (config.qkv_layout) {
    case QkvLayout::kSeparate:
      if (logical < q) return {0, logical};
      return logical < q + kv ? QkvRow{1, logical - q} : QkvRow{2, logical - q - kv};
    case QkvLayout::kStacked:
      break;
    case QkvLayout::kInterleaved: {
      const std::int64_t part = logical / q;  // as many heads of each
      const std::int64_t head = logical % q / d;
      return {0, (3 * head + part) * d + logical % d};
    }
  }
  return {0, logical};
}

// Rows of a rotary pair share their mean.
void average_pairs(std::int64_t head_size, const RopeConfig& rope, std::span<double> values) {
  const std::size_t half = std::min(rope.inverse_frequency.size(), at(head_size / 2));
  for (std::size_t head = 0; head < values.size(); head += at(head_size)) {
    for (std::size_t i = 0; i < half; ++i) {
      double& a = values[head + (rope.rotates_neighbours ? 2 * i : i)];
      double& b = values[head + (rope.rotates_neighbours ? 2 * i + 1 : i + half)];
      a = b = 0.5 * (a + b);
    }
  }
}

std::vector<float> roots(std::span<const double> values) {
  std::vector<float> result(values.size());
  std::transform(values.begin(), values.end(), result.begin(),
                 [](double value) { return static_cast<float>(std::sqrt(value)); });
  return result;
}

// Means over the sample's tokens, [intermediate].
struct MlpSums {
  std::vector<double> gate, up;  // of (up · act'(gate))² and act(gate)²
};
MlpSums mlp_sums(const Backend& backend, const ModelConfig& config, const DecoderBlock& dense,
                 const LayerStats& stats) {
  const std::int64_t size = dense.config().down.inputs;
  expect(stats.sample != nullptr && stats.sample->rows() > 0, "RowEffects: a sample of the MLP's inputs");
  const ConstMatrixView x = stats.sample->view();
  std::vector<std::size_t> ups;
  for (std::size_t i = 0; i < dense.linears().size(); ++i) {
    if (dense.linears()[i].tensors.input == kMlp) ups.push_back(i);
  }
  Matrix first(x.rows, config.gated_mlp && ups.size() == 1 ? 2 * size : size);
  Matrix second;
  const auto product = [&](std::size_t i, MatrixView y) {
    backend.matmul_transposed(x, dense.linears()[i].weight.view(), dense.linears()[i].tensors.scale, 0.0f, y);
    const std::vector<float>& bias = dense.linears()[i].bias;
    if (bias.empty()) return;
    for (std::int64_t t = 0; t < y.rows; ++t) {
      for (std::int64_t j = 0; j < y.cols; ++j) y.at(t, j) += bias[at(j)];
    }
  };
  product(ups[0], first.view());
  if (ups.size() == 2) {
    second = Matrix(x.rows, size);
    product(ups[1], second.view());
  }
  const auto gate_at = [&](std::int64_t t, std::int64_t j) { return first.at(t, j); };
  const auto up_at = [&](std::int64_t t, std::int64_t j) {
    if (!config.gated_mlp) return 1.0f;
    return second.empty() ? first.at(t, size + j) : second.at(t, j);
  };

  // act and its slope, the latter as a difference: that serves every activation.
  Matrix value(x.rows, size), above(x.rows, size), below(x.rows, size);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t j = 0; j < size; ++j) {
      value.at(t, j) = gate_at(t, j);
      above.at(t, j) = gate_at(t, j) + kSlopeStep;
      below.at(t, j) = gate_at(t, j) - kSlopeStep;
    }
  }
  for (Matrix* part : {&value, &above, &below}) dense.activate(backend, part->view());
  MlpSums sums{std::vector<double>(at(size), 0.0), std::vector<double>(at(size), 0.0)};
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t j = 0; j < size; ++j) {
      const double slope = double{above.at(t, j) - below.at(t, j)} / (2.0 * double{kSlopeStep});
      sums.gate[at(j)] += std::pow(double{up_at(t, j)} * slope, 2);
      sums.up[at(j)] += std::pow(double{value.at(t, j)}, 2);
    }
  }
  for (std::vector<double>* values : {&sums.gate, &sums.up}) {
    for (double& sum : *values) sum /= static_cast<double>(x.rows);
  }
  return sums;
}

std::vector<RowEffects::Readers> measure_readers(const Model& model) {
  std::vector<RowEffects::Readers> readers;
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    readers.push_back(readers_of(model.load_block(layer)));
    model.release_block(layer);
  }
  return readers;
}

}  // namespace

RowEffects::Readers readers_of(const DecoderBlock& block) {
  RowEffects::Readers readers;
  for (const BlockLinear& linear : block.linears()) {
    const LinearInput input = linear.tensors.input;
    if (input != kAttention && input != kMlp) continue;
    std::vector<double>& sums = input == kAttention ? readers.attention : readers.mlp;
    sums.resize(at(linear.tensors.inputs), 0.0);
    add_column_energies(linear.weight.view(), {}, sums);
  }
  return readers;
}

RowEffects::RowEffects(const Model& model) : RowEffects(model, measure_readers(model)) {}

RowEffects::RowEffects(const Model& model, std::span<const Readers> readers) : model_(model) {
  const ModelConfig& config = model.config();
  expect(readers.size() == config.blocks.size(), "RowEffects: readers of every block");
  const std::vector<float> last = gains(model, config.final_norm);
  std::vector<double> sums(last.size());
  for (std::size_t j = 0; j < sums.size(); ++j) {
    sums[j] = double{last[j]} * double{last[j]} * static_cast<double>(config.hidden_size);
  }
  attention_output_.resize(config.blocks.size());
  mlp_output_.resize(config.blocks.size());
  const auto finished = [&](const std::optional<NormTensors>& norm) {
    std::vector<float> result = roots(sums);
    if (!norm) return result;
    const std::vector<float> gain = gains(model, norm);
    for (std::size_t j = 0; j < gain.size(); ++j) result[j] *= std::abs(gain[j]);
    return result;
  };
  const auto add = [&](const std::vector<double>& columns, const std::optional<NormTensors>& norm) {
    if (columns.empty()) return;  // the block has no such part
    const std::vector<float> gain = gains(model, norm);
    for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += columns[j] * double{gain[j]} * double{gain[j]};
  };
  for (std::int64_t layer = config.num_layers() - 1; layer >= 0; --layer) {
    const BlockConfig& names = config.blocks[at(layer)];
    const Readers& of_block = readers[at(layer)];
    mlp_output_[at(layer)] = finished(names.post_mlp_norm);
    if (!config.parallel_residual) add(of_block.mlp, names.mlp_norm);
    attention_output_[at(layer)] = finished(names.post_attention_norm);
    if (config.parallel_residual) add(of_block.mlp, names.mlp_norm);
    add(of_block.attention, names.attention_norm);
  }
}

const std::vector<float>& RowEffects::of_output(std::int64_t layer, LinearInput input) const {
  return (input == kAttentionOutput ? attention_output_ : mlp_output_)[at(layer)];
}

std::vector<std::vector<float>> RowEffects::of_outputs(std::int64_t layer, LinearInput input) const {
  const bool both = input == kAttentionOutput && model_.config().blocks[at(layer)].beside.has_value();
  return std::vector<std::vector<float>>(both ? 2 : 1, of_output(layer, input));
}

std::vector<float> RowEffects::mlp_output_gains(std::int64_t layer) const {
  const BlockConfig& block = model_.config().blocks[at(layer)];
  return block.post_mlp_norm ? gains(model_, block.post_mlp_norm) : std::vector<float>{};
}

std::vector<std::vector<float>> RowEffects::of(const Backend& backend, const DecoderBlock& dense,
                                               std::int64_t layer, LinearInput input,
                                               const LayerStats& stats) const {
  if (is_output(input)) return of_outputs(layer, input);
  if (input == kAttention) {
    // As if the inputs were uncorrelated where no Gram is known.
    std::vector<std::vector<double>> outputs;
    for (const BlockLinear& linear : dense.linears()) {
      if (linear.tensors.input == kAttention)
        outputs.push_back(row_energies(linear.weight.view(), stats, backend));
    }
    const BlockConfig& block = dense.config();
    if (rows_are_alike(block)) {
      std::vector<std::vector<float>> alike;
      for (const std::vector<double>& rows : outputs) alike.emplace_back(rows.size(), 1.0f);
      return alike;
    }
    const ModelConfig& config = model_.config();
    std::vector<double> columns(at(config.heads_in(block) * config.head_size_in(block)), 0.0);
    add_column_energies(dense.linears()[outputs.size()].weight.view(), {}, columns);
    return of_attention(layer, outputs, columns);
  }
  const MlpSums sums = mlp_sums(backend, model_.config(), dense, stats);
  std::vector<double> columns(sums.up.size(), 0.0);
  add_column_energies(dense.linears().back().weight.view(), mlp_output_gains(layer), columns);
  return of_mlp(layer, sums.gate, sums.up, columns);
}

std::vector<std::vector<float>> RowEffects::of_attention(std::int64_t layer,
                                                         std::span<const std::vector<double>> outputs,
                                                         std::span<const double> columns) const {
  const ModelConfig& config = model_.config();
  const BlockConfig& block = config.blocks[at(layer)];
  const std::int64_t d = config.head_size_in(block);
  const std::int64_t heads = config.heads_in(block);
  const std::int64_t q = heads * d;
  const std::int64_t kv = config.kv_size_in(block);
  const std::int64_t per_kv = heads / config.kv_heads_in(block);
  std::vector<double> energies(at(q + kv));
  for (std::int64_t i = 0; i < q + kv; ++i) {
    const QkvRow where = qkv_row(config, block, i);
    energies[at(i)] = std::max(0.0, outputs[where.linear][at(where.row)]);
  }
  if (block.rope >= 0) average_pairs(d, config.ropes[at(block.rope)], energies);
  std::vector<double> effect(at(q + 2 * kv), 0.0);
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t i = 0; i < d; ++i) {
      const std::int64_t query = head * d + i;
      const std::int64_t key = head / per_kv * d + i;
      effect[at(query)] = energies[at(q + key)];
      effect[at(q + key)] += energies[at(query)];
      effect[at(q + kv + key)] += columns[at(query)];
    }
  }
  std::vector<std::vector<float>> result;
  for (const std::vector<double>& rows : outputs) result.emplace_back(rows.size());
  const std::vector<float> root = roots(effect);
  for (std::int64_t i = 0; i < q + 2 * kv; ++i) {
    const QkvRow where = qkv_row(config, block, i);
    result[where.linear][at(where.row)] = root[at(i)];
  }
  return result;
}

std::vector<std::vector<float>> RowEffects::of_mlp(std::int64_t layer, std::span<const double> gate,
                                                   std::span<const double> up,
                                                   std::span<const double> columns) const {
  const auto effects = [&](std::span<const double> sums) {
    std::vector<double> products(sums.begin(), sums.end());
    for (std::size_t j = 0; j < products.size(); ++j) products[j] *= columns[j];
    return roots(products);
  };
  std::vector<float> of_gate = effects(gate);
  if (!model_.config().gated_mlp) return {std::move(of_gate)};
  const std::vector<float> of_up = effects(up);
  const std::vector<LinearTensors> linears = linears_of(model_.config().blocks[at(layer)]);
  const auto num_ups = std::count_if(linears.begin(), linears.end(),
                                     [](const LinearTensors& linear) { return linear.input == kMlp; });
  if (num_ups == 2) return {std::move(of_gate), of_up};
  of_gate.insert(of_gate.end(), of_up.begin(), of_up.end());
  return {std::move(of_gate)};
}

PruneTarget row_threshold_target(double sparsity) {
  PruneTarget target;
  target.pattern.kind = Pattern::Kind::kLayer;
  target.sparsity = sparsity;
  target.rounding = PruneTarget::Rounding::kExactTotal;
  return target;
}

std::vector<std::int64_t> row_threshold_counts(ConstMatrixView weight, std::span<const double> energy,
                                               std::span<const float> effects, const PruneTarget& target) {
  expect(static_cast<std::int64_t>(effects.size()) == weight.rows, "row budgets: an effect a row");
  const std::vector<float> zeros(at(weight.cols), 0.0f);
  const std::vector<float> norms = roots(energy);
  ScoreView scores = plain_scores(weight);
  scores.column = zeros;
  scores.row = effects;
  scores.slope = norms;
  const Mask mask = make_selector(kDefaultSelector)->select(scores, target).mask;
  std::vector<std::int64_t> by_threshold(at(weight.rows));
  for (std::int64_t r = 0; r < weight.rows; ++r) by_threshold[at(r)] = weight.cols - mask.num_kept(r);
  return by_threshold;
}

std::vector<std::int64_t> row_budgets(std::span<const std::int64_t> by_threshold, std::int64_t num_inputs,
                                      std::int64_t total) {
  const auto inputs = static_cast<double>(num_inputs);
  const double mean = static_cast<double>(total) / static_cast<double>(by_threshold.size());
  const double least = std::max(0.0, mean - kReach * inputs);
  const double most = std::max(mean, std::min(mean + kReach * inputs, kMostOfRow * inputs));
  std::vector<double> wanted(by_threshold.size());
  for (std::size_t r = 0; r < wanted.size(); ++r) {
    const auto count = static_cast<double>(by_threshold[r]);
    wanted[r] = std::clamp(kByThreshold * count + (1.0 - kByThreshold) * mean, least, most);
  }
  // Clipping moved the total: one factor brings it back; the rounding's rest is carried from row to row.
  const double sum = std::accumulate(wanted.begin(), wanted.end(), 0.0);
  std::vector<std::int64_t> counts(wanted.size(), 0);
  double asked = 0.0;
  std::int64_t given = 0;
  for (std::size_t r = 0; r < wanted.size(); ++r) {
    asked += sum > 0.0 ? wanted[r] * static_cast<double>(total) / sum : 0.0;
    const std::int64_t goal = r + 1 == wanted.size() ? total : std::llround(asked);
    counts[r] = std::clamp<std::int64_t>(goal - given, 0, num_inputs);
    given += counts[r];
  }
  return counts;
}

}  // namespace swiftprune
