#include "swiftprune/model/channel_fold.h"

#include <algorithm>
#include <numeric>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

using Order = std::vector<std::int64_t>;

Order counted(std::int64_t first, std::int64_t count) {
  Order rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

std::size_t index_of(const std::vector<LinearTensors>& linears, LinearInput input) {
  const auto found =
      std::find_if(linears.begin(), linears.end(), [&](const LinearTensors& l) { return l.input == input; });
  return static_cast<std::size_t>(found - linears.begin());
}

// Every row of gate and up makes one input of down; what stands between acts on each by itself.
ChannelFold mlp_fold(const BlockConfig& block, const std::vector<LinearTensors>& linears) {
  const std::int64_t width = block.down.inputs;
  ChannelFold fold;
  fold.size = width;
  fold.linear = index_of(linears, LinearInput::kMlpOutput);
  for (std::size_t i = 0; i < linears.size(); ++i) {
    if (linears[i].input != LinearInput::kMlp) continue;
    for (std::int64_t first = 0; first < linears[i].outputs; first += width)  // twice in a fused [gate | up]
      fold.sources.push_back({i, counted(first, width)});
  }
  return fold;
}

// Attention gives sums of values, element by element.
ChannelFold attention_fold(const ModelConfig& model, const BlockConfig& block,
                           const std::vector<LinearTensors>& linears) {
  const std::int64_t d = model.head_size_in(block), heads = model.heads_in(block),
                     kv_heads = model.kv_heads_in(block);
  ChannelFold fold;
  fold.size = d;
  fold.shared = heads / kv_heads;
  fold.linear = index_of(linears, LinearInput::kAttentionOutput);
  switch (model.qkv_layout) {
    case QkvLayout::kSeparate:
      fold.sources.push_back({2, counted(0, kv_heads * d)});
      break;
    case QkvLayout::kStacked:
      fold.sources.push_back({0, counted((heads + kv_heads) * d, kv_heads * d)});
      break;
    case QkvLayout::kInterleaved: {
      Order rows;
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t i = 0; i < d; ++i) rows.push_back((3 * h + 2) * d + i);
      }
      fold.sources.push_back({0, std::move(rows)});
      break;
    }
  }
  return fold;
}

}  // namespace

std::vector<std::int64_t> ChannelFold::of_inputs(std::span<const std::int64_t> channels) const {
  Order inputs;
  for (std::int64_t set = 0; set < std::ssize(channels) / size; ++set) {
    for (std::int64_t copy = 0; copy < shared; ++copy) {
      const std::int64_t moved = (set * shared + copy - set) * size;  // from the channel to this set's input
      for (std::int64_t i = 0; i < size; ++i)
        inputs.push_back(channels[static_cast<std::size_t>(set * size + i)] + moved);
    }
  }
  return inputs;
}

std::vector<std::int64_t> ChannelFold::of_channels(std::span<const std::int64_t> inputs) const {
  Order channels;
  for (std::int64_t set = 0; set < std::ssize(inputs) / (size * shared); ++set) {
    const std::int64_t moved = set * (shared - 1) * size;
    for (std::int64_t i = 0; i < size; ++i)
      channels.push_back(inputs[static_cast<std::size_t>(set * shared * size + i)] - moved);
  }
  return channels;
}

bool ChannelFold::moves_rows_of(std::size_t other) const {
  return std::any_of(sources.begin(), sources.end(),
                     [&](const Source& source) { return source.linear == other; });
}

bool fits(const ChannelFold& fold, std::span<const std::int64_t> inputs) {
  if (std::ssize(inputs) != fold.num_channels() * fold.shared) return false;
  for (std::size_t first = 0; first < inputs.size(); first += static_cast<std::size_t>(fold.size)) {
    Order set(inputs.begin() + static_cast<std::ptrdiff_t>(first),
              inputs.begin() + static_cast<std::ptrdiff_t>(first) + fold.size);
    std::sort(set.begin(), set.end());
    if (set != counted(static_cast<std::int64_t>(first), fold.size)) return false;
  }
  return std::ranges::equal(fold.of_inputs(fold.of_channels(inputs)), inputs);
}

std::optional<ChannelFold> channel_fold(const ModelConfig& model, const BlockConfig& block,
                                        LinearInput output, std::string_view* why) {
  std::string_view bound;
  const bool of_attention = output == LinearInput::kAttentionOutput;
  if (of_attention ? !block.has_mixer() : !block.has_mlp()) {
    bound = "a block without this projection";
  } else if (of_attention && block.latent) {
    bound = "latent attention";
  } else if (of_attention && block.recurrent) {
    bound = "a mixer in attention's place";
  } else if (of_attention && block.gated_heads) {
    bound = "a gate on each head's values";
  } else if (of_attention && block.beside) {
    bound = "a mixer beside attention";
  } else if (of_attention && (block.keys_are_values || block.carried_keys)) {
    bound = "values that are keys, or that blocks share";
  } else if (!of_attention && block.experts) {
    bound = "experts";
  }
  if (why != nullptr) *why = bound;
  if (!bound.empty()) return std::nullopt;
  const std::vector<LinearTensors> linears = linears_of(block);
  return of_attention ? attention_fold(model, block, linears) : mlp_fold(block, linears);
}

std::vector<std::int64_t> order_of_rows(const ChannelFold::Source& source, std::int64_t rows,
                                        std::span<const std::int64_t> channels) {
  Order order = counted(0, rows);
  for (std::size_t c = 0; c < channels.size(); ++c)
    order[static_cast<std::size_t>(source.rows[c])] = source.rows[static_cast<std::size_t>(channels[c])];
  return order;
}

}  // namespace swiftprune
