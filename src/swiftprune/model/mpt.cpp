// MPT (https://www.databricks.com/blog/mpt-7b): positions by ALiBi (arXiv 2108.12409), LayerNorm without biases, query, key
// and value in one linear. transformers computes what it computes whatever some fields of config.json say (positions are
// always ALiBi's, MLPs four times as wide); folders that ask for something else are refused.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/config_fields.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"

namespace swiftprune {
namespace {

constexpr SizeNames kMptSizeNames = {.hidden_size = "d_model",
                                     .num_layers = "n_layers",
                                     .num_heads = "n_heads",
                                     .max_positions = "max_seq_len"};

// Of n = the next power of two: 2^(-8·i/n); fewer heads take every second one first.
std::vector<float> mpt_slopes(std::int64_t heads) {
  const auto power = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(heads)));
  std::vector<float> slopes;
  const auto add = [&](std::int64_t i) {
    slopes.push_back(
        static_cast<float>(std::pow(2.0, -8.0 * static_cast<double>(i) / static_cast<double>(power))));
  };
  if (power == heads) {
    for (std::int64_t i = 1; i <= power; ++i) add(i);
    return slopes;
  }
  for (std::int64_t i = 2; i <= power && std::ssize(slopes) < heads; i += 2) add(i);
  for (std::int64_t i = 1; std::ssize(slopes) < heads; i += 2) add(i);
  return slopes;
}

constexpr NeutralField kMptNeutral[] = {{"no_bias", "true"},
                                        {"expansion_ratio", "4"},
                                        {"logit_scale", ""},
                                        {"norm_type", R"("low_precision_layernorm")"}};
constexpr NeutralField kNeutralOfAttention[] = {{"attn_type", R"("multihead_attention")"},
                                                {"prefix_lm", "false"},
                                                {"qk_ln", "false"},
                                                {"alibi", "true"},
                                                {"alibi_bias_max", "8"},
                                                {"attn_uses_sequence_id", "false"}};
// What is read, what says how attention is computed and trained, and what transformers writes into every object.
constexpr std::string_view kOthersOfAttention =
    "clip_qkv softmax_scale attn_impl attn_pdrop _name_or_path architectures chunk_size_feed_forward dtype "
    "torch_dtype "
    "id2label label2id is_encoder_decoder model_type output_attentions output_hidden_states problem_type "
    "return_dict";

void check_neutral(const ConfigReader& c, std::span<const NeutralField> fields) {
  for (const NeutralField& field : fields) {
    if (!c.has(field.name)) continue;
    const nlohmann::json& value = c.object().at(std::string(field.name));
    if (is_in_list(value.dump(), field.values)) continue;
    bad_input("{}: found {}, expected {}: MPT has no such part here", c.where(field.name),
              json_excerpt(value, 60), field.values.empty() ? std::string_view("null") : field.values);
  }
}

void check_attention(const ConfigReader& c) {
  check_neutral(c, kNeutralOfAttention);
  for (const auto& [name, value] : c.object().items()) {
    const bool known =
        is_in_list(name, kOthersOfAttention) ||
        std::ranges::any_of(kNeutralOfAttention, [&](const NeutralField& f) { return f.name == name; });
    if (known || value.is_null()) continue;
    bad_input("{}: found {}, which swiftprune does not know: it may change attention", c.where(name),
              json_excerpt(value, 40));
  }
}

ModelConfig configure_mpt(const ConfigReader& c) {
  ModelConfig m;
  m.family = "mpt";
  read_common(c,
              {.max_positions = 2048,
               .intermediate_field = "",  // no field has the width
               .reads_heads = false,
               .vocab_size = 50368,
               .intermediate_size = 4 * c.integer(kMptSizeNames.hidden_size),
               .names = kMptSizeNames},
              m);
  m.has_width_field = false;
  m.intermediate_field = "expansion_ratio";
  check_neutral(c, kMptNeutral);
  if (c.has("attn_config")) {
    const ConfigReader attention = c.child("attn_config");
    check_attention(attention);
    m.qkv_clip = attention.has("clip_qkv") ? static_cast<float>(attention.positive("clip_qkv")) : 0.0f;
    if (attention.has("softmax_scale"))
      m.attention_scale = static_cast<float>(attention.positive("softmax_scale"));
  }
  m.norm = NormKind::kLayer;
  m.norm_eps = static_cast<float>(c.positive("layer_norm_epsilon", 1e-5));
  m.gated_mlp = false;
  m.activation = Activation::kGelu;
  m.qkv_layout = QkvLayout::kStacked;
  m.attention_slopes = mpt_slopes(m.num_heads);
  m.embedding = "transformer.wte.weight";
  m.final_norm = NormTensors{"transformer.norm_f.weight", ""};
  set_head(c, true, "lm_head.weight", m);
  const std::int64_t num_layers = read_num_layers(c, std::nullopt, kMptSizeNames.num_layers),
                     hidden = m.hidden_size;
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("transformer.blocks.{}.", i);
    BlockConfig b;
    b.qkv = {{prefix + "attn.Wqkv", 3 * hidden, hidden, false, LinearInput::kAttention}};
    b.attention_output = {prefix + "attn.out_proj", hidden, hidden, false, LinearInput::kAttentionOutput};
    set_plain_mlp(m, prefix + "ffn.up_proj", prefix + "ffn.down_proj", b);
    b.attention_norm = NormTensors{prefix + "norm_1.weight", ""};
    b.mlp_norm = NormTensors{prefix + "norm_2.weight", ""};
    b.rope = -1;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kMptFields =
    "d_model n_heads n_layers max_seq_len expansion_ratio layer_norm_epsilon attn_config no_bias logit_scale "
    "norm_type";

constexpr std::array<std::string_view, 1> kMptTypes = {"mpt"};

}  // namespace

const ModelFamily kMptFamily{"mpt", kMptTypes, configure_mpt, kMptFields};

}  // namespace swiftprune
