#include "swiftprune/checkpoint/gguf_architectures.h"

#include <algorithm>
#include <vector>

#include "swiftprune/checkpoint/gguf_fields.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

using namespace gguf_fields;

void add_field(const GgufFile& file, const ConfigField& field, Json& config) {
  const std::string key = key_of(file, field.gguf);
  if (!file.has(key)) {
    if (field.required) bad_input("{}: {} is missing", file.name(), key);
    return;
  }
  Json& target = config[std::string(field.hugging_face)];
  if (field.type == Type::kBoolean) {
    target = *file.boolean(key);
  } else if (field.type == Type::kNumber) {
    target = *file.number(key) == 0.0 ? 0.0 : positive_of(file, field.gguf, 0.0);
  } else if (field.type == Type::kPositive) {
    target = positive_of(file, field.gguf, 0.0);
  } else {
    // One number, or one for each layer: equal ones, but where config.json names the largest.
    const std::vector<std::int64_t> values = *file.integers(key);
    const std::int64_t value = values.empty() ? 0 : *std::max_element(values.begin(), values.end());
    const auto layers = file.integer(key_of(file, "block_count"));
    if (values.size() > 1 && layers && std::ssize(values) != *layers) {
      bad_input("{}: {}: found {} numbers, expected one for each of the {} layers", file.name(), key,
                values.size(), *layers);
    }
    const auto other = std::find_if(values.begin(), values.end(), [&](std::int64_t v) { return v != value; });
    if (field.type == Type::kInteger && other != values.end()) {
      bad_input(
          "{}: {}: found {} in layer {} and {} in another, expected one number for all: only llama's layers "
          "(architecture deci) may differ",
          file.name(), key, *other, other - values.begin(), value);
    }
    if (value < 1 || value > (std::int64_t{1} << 31)) {
      bad_input("{}: {}: found {}, expected 1 to 2^31", file.name(), key, value);
    }
    target = value;
  }
}

// Keys after "<architecture>." that every architecture's code above reads, and those that change nothing
// here.
constexpr std::string_view kReadKeys[] = {"vocab_size",
                                          "context_length",
                                          "embedding_length",
                                          "block_count",
                                          "feed_forward_length",
                                          "attention.head_count",
                                          "attention.head_count_kv",
                                          "attention.key_length",
                                          "attention.layer_norm_epsilon",
                                          "attention.layer_norm_rms_epsilon",
                                          "rope.dimension_count",
                                          "rope.freq_base",
                                          "rope.scaling.type",
                                          "rope.scaling.factor",
                                          "rope.scaling.attn_factor",
                                          "rope.scaling.original_context_length",
                                          "rope.scaling.yarn_beta_fast",
                                          "rope.scaling.yarn_beta_slow",
                                          "rope.scale_linear",
                                          "use_parallel_residual",
                                          "tensor_data_layout",
                                          "rope.scaling.finetuned"};
// Switches whose value here is what is computed anyway.
constexpr std::pair<std::string_view, double> kNeutralKeys[] = {{"attention.causal", 1.0},
                                                                {"rope.scaling.yarn_ext_factor", 1.0},
                                                                {"rope.scaling.yarn_attn_factor", 1.0},
                                                                {"attention.scale", 0.0},
                                                                {"logit_scale", 1.0},
                                                                {"residual_scale", 1.0},
                                                                {"embedding_scale", 1.0},
                                                                {"expert_weights_scale", 1.0},
                                                                {"expert_gating_func", 1.0},
                                                                {"expert_group_count", 1.0},
                                                                {"expert_group_used_count", 1.0}};

bool is_word_of(std::string_view word, std::string_view list) {
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find(' ', at), list.size());
    if (list.substr(at, end - at) == word) return true;
    at = end + 1;
  }
  return false;
}

// A key that is not read would make another model: experts, scales, windows. 0, false and empty lists are
// none.
void check_keys(const GgufFile& file, const GgufArchitecture& architecture) {
  const std::string prefix = std::string(architecture.name) + ".";
  for (const std::string_view key : file.keys()) {
    if (!key.starts_with(prefix)) continue;
    const std::string_view suffix = key.substr(prefix.size());
    if (std::find(std::begin(kReadKeys), std::end(kReadKeys), suffix) != std::end(kReadKeys)) continue;
    if (is_word_of(suffix, architecture.own_keys)) continue;
    if (suffix == "attention.value_length") {
      const auto keys = file.integer(key_of(file, "attention.key_length")), values = file.integer(key);
      if (keys == values) continue;
      bad_input("{}: {}: found {}, expected attention.key_length ({}): heads of one size", file.name(), key,
                values.value_or(0), keys ? std::to_string(*keys) : "absent");
    }
    const bool is_text = file.is_text(key);
    const std::vector<double> numbers = is_text ? std::vector<double>{} : file.one_or_more(key);
    const auto neutral = std::find_if(std::begin(kNeutralKeys), std::end(kNeutralKeys),
                                      [&](const auto& entry) { return entry.first == suffix; });
    const double none = neutral == std::end(kNeutralKeys) ? 0.0 : neutral->second;
    // Absent is what is computed here; false is a model that also looks ahead.
    const bool zero_is_none = suffix != "attention.causal";
    const auto differs = [&](double number) { return number != none && !(zero_is_none && number == 0.0); };
    if (!is_text && std::none_of(numbers.begin(), numbers.end(), differs)) continue;
    bad_input("{}: {}: found {}, which swiftprune does not read: the model would come out as another one",
              file.name(), key,
              is_text ? json_quoted(file.text(key).value_or("a list")) : fmt::format("{}", numbers[0]));
  }
}

}  // namespace

RowLayout value_head_layout(RowOrder order, std::int64_t key_heads, std::int64_t value_heads,
                            std::int64_t key_size, std::int64_t value_size) {
  return {.order = order,
          .heads = value_heads,
          .head_dim = order == RowOrder::kOneAValueHead ? 1 : value_size,
          .key_heads = key_heads,
          .first = order == RowOrder::kValuesBehindKeys ? 2 * key_heads * key_size : 0};
}

std::int64_t stored_row(const RowLayout& layout, std::int64_t row) {
  const std::int64_t size = layout.head_dim;
  if (layout.order == RowOrder::kSame || row < layout.first) return row;
  if (layout.order == RowOrder::kSplitQkv) {
    const std::int64_t head = row / (3 * size), part = row / size % 3;
    return (part * layout.heads + head) * size + row % size;
  }
  const std::int64_t head = (row - layout.first) / size, within = (row - layout.first) % size;
  if (is_of_value_heads(layout.order)) {
    const std::int64_t shared = layout.heads / layout.key_heads;
    return layout.first + (head % shared * layout.key_heads + head / shared) * size + within;
  }
  const std::int64_t half = within / (size / 2), pair = within % (size / 2);
  return head * size + 2 * pair + half;
}

std::span<const GgufArchitecture> gguf_architectures() {
  static const std::vector<GgufArchitecture> all = [] {
    std::vector<GgufArchitecture> result;
    for (const auto& part : {gguf_llama_like(), gguf_other_norms(), gguf_with_experts(), gguf_hybrids(),
                             gguf_mamba(), gguf_delta_net(), gguf_gemma4()}) {
      result.insert(result.end(), part.begin(), part.end());
    }
    return result;
  }();
  return all;
}

std::int64_t gguf_extra_blocks(const GgufFile& file) {
  const std::string key = key_of(file, "nextn_predict_layers");
  const std::int64_t extra = file.integer(key).value_or(0);
  const std::int64_t blocks = file.integer(key_of(file, "block_count")).value_or(0);
  if (extra != 0 && (extra < 0 || extra >= blocks)) {
    bad_input("{}: {}: found {}, expected 0 to block_count ({}) - 1", file.name(), key, extra, blocks);
  }
  return extra;
}

std::int64_t gguf_dense_blocks(const GgufFile& file) {
  const std::string key = key_of(file, "leading_dense_block_count");
  const std::int64_t dense = file.integer(key).value_or(0);
  const std::int64_t blocks = file.integer(key_of(file, "block_count")).value_or(0);
  if (dense < 0 || dense > blocks) {
    bad_input("{}: {}: found {}, expected 0 to block_count ({})", file.name(), key, dense, blocks);
  }
  return dense;
}

bool GgufBlock::has(TensorBlocks blocks) const {
  switch (blocks) {
    case TensorBlocks::kAll:
    case TensorBlocks::kSome:
      return true;
    case TensorBlocks::kDense:
      return dense;
    case TensorBlocks::kSparse:
      return experts;
    case TensorBlocks::kAttention:
      return attention;
    case TensorBlocks::kMixer:
      return mixer;
  }
  return false;
}

std::vector<GgufBlock> gguf_blocks(const GgufFile& file, bool has_experts) {
  const auto count = static_cast<std::size_t>(
      std::max<std::int64_t>(0, file.integer(key_of(file, "block_count")).value_or(0)));
  // A number for each block, or nothing.
  const auto list = [&](std::string_view name) {
    const std::string key = key_of(file, name);
    std::vector<std::int64_t> numbers = file.has(key) ? *file.integers(key) : std::vector<std::int64_t>{};
    if (numbers.size() > 1 && numbers.size() != count) {
      bad_input("{}: {}: found {} numbers, expected one for each of the {} layers", file.name(), key,
                numbers.size(), count);
    }
    if (numbers.size() <= 1 && count != 1) numbers.clear();
    return numbers;
  };
  const std::vector<std::int64_t> heads = list("attention.head_count_kv"),
                                  widths = list("feed_forward_length");
  const std::string interval_key = key_of(file, "full_attention_interval");
  const std::int64_t interval = file.integer(interval_key).value_or(0);
  if (interval < 0) bad_input("{}: {}: found {}, expected 1 or more", file.name(), interval_key, interval);
  const bool alone = std::find(widths.begin(), widths.end(), 0) != widths.end();
  const std::int64_t first_sparse = has_experts ? gguf_dense_blocks(file) : 0;
  std::vector<GgufBlock> blocks(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto number = static_cast<std::int64_t>(i);
    const bool mlp = !alone || widths[i] != 0;
    const bool attends = interval > 0 ? (number + 1) % interval == 0 : heads.empty() || heads[i] != 0;
    const bool mixes = !alone || !mlp;
    const bool experts = has_experts && number >= first_sparse;
    blocks[i] = {.attention = mixes && attends,
                 .mixer = mixes && !attends,
                 .dense = mlp && !experts,
                 .experts = mlp && experts};
  }
  return blocks;
}

const GgufArchitecture& gguf_architecture_of(const GgufFile& file) {
  const auto name = file.text("general.architecture");
  if (!name) bad_input("{}: general.architecture is missing", file.name());
  const bool has_experts = file.integer(key_of(file, "expert_count")).value_or(0) != 0;
  const bool rotates = file.boolean(key_of(file, "rope.scaling.finetuned")).value_or(true);
  std::vector<std::string_view> known;
  const GgufArchitecture* found = nullptr;
  for (const GgufArchitecture& architecture : gguf_architectures()) {
    if (architecture.name == *name && architecture.unrotated && !rotates) return architecture;
    if (architecture.name == *name && !architecture.unrotated &&
        (found == nullptr || architecture.has_experts == has_experts)) {
      found = &architecture;
    }
    if (known.empty() || std::find(known.begin(), known.end(), architecture.name) == known.end()) {
      known.push_back(architecture.name);
    }
  }
  if (found != nullptr) return *found;
  bad_input("{}: general.architecture: found {}, expected one of {}; docs/formats.md tells how to add one",
            file.name(), json_quoted(*name), fmt::join(known, ", "));
}

Json gguf_config(const GgufFile& file, const GgufArchitecture& architecture) {
  Json config;
  check_keys(file, architecture);
  config["architectures"] = {architecture.model_class};
  config["model_type"] = architecture.model_type;
  config.update(Json::parse(architecture.constants));
  for (const ConfigField& field : architecture.fields) add_field(file, field, config);
  // Every block has tensors; lists of blocks are made from here on.
  if (const std::int64_t blocks = config.at("num_hidden_layers"); blocks > std::ssize(file.tensors())) {
    bad_input("{}: {}: found {}, expected at most the {} tensors of the file", file.name(),
              key_of(file, "block_count"), blocks, file.tensors().size());
  }
  const bool has_groups =
      std::any_of(architecture.fields.begin(), architecture.fields.end(),
                  [](const ConfigField& f) { return f.hugging_face == "num_key_value_heads"; });
  if (has_groups && !config.contains("num_key_value_heads")) {
    config["num_key_value_heads"] = config.at("num_attention_heads");
  }
  if (const std::int64_t heads = config.at("num_attention_heads"),
      groups = config.value("num_key_value_heads", heads);
      heads % groups != 0) {
    bad_input("{}: found {} attention heads, expected a multiple of the {} key heads", file.name(), heads,
              groups);
  }
  const GgufTensor* embedding = file.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    bad_input("{}: tensor token_embd.weight: expected a matrix", file.name());
  }
  config["vocab_size"] = embedding->shape[0];
  config["tie_word_embeddings"] = file.find("output.weight") == nullptr;
  architecture.complete(file, config);
  return config;
}

}  // namespace swiftprune
