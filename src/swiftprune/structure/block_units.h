// What can be taken out of a decoder block so that a smaller one of the same family is left, and which rows
// and columns of its linears that means:
//   mlp     channel j: row j of gate and up (and of their biases), column j of down
//   heads   group g: the query heads that share key head g, that key head and its value head, the columns of
//           the output projection that read them
//   layers  the whole block
// Widths must be the same in every block: config.json has one number each.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/model/model_config.h"

namespace swiftprune {

enum class UnitKind { kMlp, kHeads, kLayers };
std::string_view name_of(UnitKind kind);
// "mlp,heads,layers" in any mix; throws Error{kUsage} naming --units.
std::vector<UnitKind> parse_units(std::string_view text);

// Why this model's units of a kind cannot be removed; nothing when they can.
std::optional<std::string> inseparable(const ModelConfig& model, UnitKind kind);

// What stays in one block; both in rising order.
struct KeptUnits {
  std::vector<std::int64_t> channels;
  std::vector<std::int64_t> groups;
};
KeptUnits all_units(const ModelConfig& model);

// kAttentionOutput or kMlpOutput: the output projection of the part of the block that reads this input.
LinearInput output_of(LinearInput input);

// Columns of the attention's output projection that read one head group.
std::int64_t columns_a_group(const ModelConfig& model);
// The columns of the block's output projection (kAttentionOutput, kMlpOutput) that stay.
std::vector<std::int64_t> kept_columns(const ModelConfig& model, const BlockConfig& block, LinearInput output,
                                       const KeptUnits& kept);
// The same of one output projection, of which a block may have two that read attention's input (ParallelMixer).
std::vector<std::int64_t> kept_columns(const ModelConfig& model, const BlockConfig& block,
                                       const LinearTensors& linear, const KeptUnits& kept);
// The rows of the block's linear (index into linears_of()) that stay. Output projections keep theirs all.
std::vector<std::int64_t> kept_rows(const ModelConfig& model, const BlockConfig& block, std::size_t linear,
                                    const KeptUnits& kept);

}  // namespace swiftprune
