#include "swiftprune/structure/block_units.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

constexpr std::array kKinds = {UnitKind::kMlp, UnitKind::kHeads, UnitKind::kLayers};

std::vector<std::int64_t> all_of(std::int64_t n) {
  std::vector<std::int64_t> indices(static_cast<std::size_t>(n));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

// `size` consecutive indices for each unit, the first unit's at `offset`.
void append_runs(const std::vector<std::int64_t>& units, std::int64_t size, std::int64_t offset,
                 std::vector<std::int64_t>& indices) {
  for (const std::int64_t unit : units) {
    for (std::int64_t i = 0; i < size; ++i) indices.push_back(offset + unit * size + i);
  }
}

// Units can go where all blocks have the model's heads and width (inseparable()). Blocks of which all stay may have
// others, or something in attention's place: nothing is asked of their sizes.
bool keeps_groups(const ModelConfig& model, const KeptUnits& kept) {
  return std::ssize(kept.groups) == model.num_kv_heads;
}
bool keeps_channels(const ModelConfig& model, const KeptUnits& kept) {
  return std::ssize(kept.channels) == model.intermediate_size;
}

std::vector<std::int64_t> kept_qkv_rows(const ModelConfig& m, std::size_t linear,
                                        const std::vector<std::int64_t>& groups) {
  const std::int64_t heads_a_group = m.num_heads / m.num_kv_heads;
  const std::int64_t q = heads_a_group * m.head_size, kv = m.head_size;
  std::vector<std::int64_t> rows;
  switch (m.qkv_layout) {
    case QkvLayout::kSeparate:
      append_runs(groups, linear == 0 ? q : kv, 0, rows);
      break;
    case QkvLayout::kStacked:
      append_runs(groups, q, 0, rows);
      append_runs(groups, kv, m.num_heads * m.head_size, rows);
      append_runs(groups, kv, (m.num_heads + m.num_kv_heads) * m.head_size, rows);
      break;
    case QkvLayout::kInterleaved:  // every head has its own key: one run of q, k, v
      append_runs(groups, 3 * m.head_size, 0, rows);
      break;
  }
  return rows;
}

}  // namespace

std::string_view name_of(UnitKind kind) {
  switch (kind) {
    case UnitKind::kMlp:
      return "mlp";
    case UnitKind::kHeads:
      return "heads";
    case UnitKind::kLayers:
      return "layers";
  }
  return "";
}

std::vector<UnitKind> parse_units(std::string_view text) {
  std::vector<UnitKind> kinds;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view name = text.substr(begin, end - begin);
    const auto kind =
        std::find_if(kKinds.begin(), kKinds.end(), [&](UnitKind k) { return name_of(k) == name; });
    if (kind == kKinds.end()) {
      bad_usage(
          "--units: found '{}', expected mlp, heads, layers or several of them with commas, or experts alone",
          text);
    }
    if (std::find(kinds.begin(), kinds.end(), *kind) == kinds.end()) kinds.push_back(*kind);
    begin = end + 1;
  }
  return kinds;
}

std::optional<std::string> inseparable(const ModelConfig& model, UnitKind kind) {
  if (!model.has_whole_blocks()) {
    return fmt::format("a layer of {} is a mixer or an MLP alone, which shrink does not know", model.family);
  }
  if (kind == UnitKind::kLayers && model.num_layers() < 2) return "the model has a single layer";
  if (kind == UnitKind::kLayers && (model.carried > 0 || model.has_head_sizes())) {
    return "its layers hang together: some read others' keys, tables hold parts of all, or the last must be "
           "a full one";
  }
  if (kind == UnitKind::kMlp &&
      std::any_of(model.blocks.begin(), model.blocks.end(), [&](const BlockConfig& block) {
        return !block.experts && block.down.inputs != model.intermediate_size;
      })) {
    return "MLPs of the model have different widths already";
  }
  if (kind == UnitKind::kMlp && !model.has_width_field) {
    return fmt::format("config.json of {} has no width of the MLP: it follows from the hidden size",
                       model.family);
  }
  if (kind != UnitKind::kHeads) return std::nullopt;
  if (model.has_recurrent_blocks()) {
    return "blocks with a recurrent mixer or a convolution in attention's place have no such heads";
  }
  if (!model.has_head_size_field) {
    return fmt::format(
        "{} has no head_dim in config.json: its head size is hidden_size / num_attention_heads",
        model.family);
  }
  if (model.has_head_sizes() || model.carried > 0) return "blocks differ in their heads, or share keys";
  const BlockConfig& block = model.blocks.front();
  if (block.query_norm && block.head_norms != HeadNorms::kEach) {
    return "the norms of queries and keys have a gain for each head, or count all heads together";
  }
  const bool longrope = !model.ropes.empty() && !model.ropes.front().long_inverse_frequency.empty();
  if (longrope) {
    return "transformers takes the size of longrope's tables from hidden_size / num_attention_heads";
  }
  if (model.num_kv_heads < 2) {
    return fmt::format("all {} query heads share one key head, and a group goes as a whole", model.num_heads);
  }
  return std::nullopt;
}

KeptUnits all_units(const ModelConfig& model) {
  return {all_of(model.intermediate_size), all_of(model.num_kv_heads)};
}

LinearInput output_of(LinearInput input) {
  const bool attention = input == LinearInput::kAttention || input == LinearInput::kAttentionOutput;
  return attention ? LinearInput::kAttentionOutput : LinearInput::kMlpOutput;
}

std::int64_t columns_a_group(const ModelConfig& model) {
  return model.num_heads / model.num_kv_heads * model.head_size;
}

std::vector<std::int64_t> kept_columns(const ModelConfig& model, const BlockConfig& block, LinearInput output,
                                       const KeptUnits& kept) {
  if (output == LinearInput::kMlpOutput)
    return keeps_channels(model, kept) ? all_of(block.down.inputs) : kept.channels;
  expect(output == LinearInput::kAttentionOutput, "kept_columns: an output projection");
  if (keeps_groups(model, kept)) return all_of(block.attention_output.inputs);
  std::vector<std::int64_t> columns;
  append_runs(kept.groups, columns_a_group(model), 0, columns);
  return columns;
}

std::vector<std::int64_t> kept_columns(const ModelConfig& model, const BlockConfig& block,
                                       const LinearTensors& linear, const KeptUnits& kept) {
  const bool stays = linear.input == LinearInput::kAttentionOutput && keeps_groups(model, kept);
  return stays ? all_of(linear.inputs) : kept_columns(model, block, linear.input, kept);
}

std::vector<std::int64_t> kept_rows(const ModelConfig& model, const BlockConfig& block, std::size_t linear,
                                    const KeptUnits& kept) {
  const std::vector<LinearTensors> linears = linears_of(block);
  const LinearTensors& tensors = linears.at(linear);
  switch (tensors.input) {
    case LinearInput::kAttention:
      if (keeps_groups(model, kept)) break;
      return kept_qkv_rows(model, linear, kept.groups);
    case LinearInput::kMlp: {
      if (keeps_channels(model, kept)) break;
      std::vector<std::int64_t> rows = kept.channels;
      const bool fused = tensors.outputs == 2 * model.intermediate_size;  // gate over up
      if (fused) append_runs(kept.channels, 1, model.intermediate_size, rows);
      return rows;
    }
    case LinearInput::kAttentionOutput:
    case LinearInput::kMlpOutput:
      break;
  }
  return all_of(tensors.outputs);
}

}  // namespace swiftprune
