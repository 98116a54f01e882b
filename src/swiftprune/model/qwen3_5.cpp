// Qwen3-Next (with experts) and Qwen 3.5, 3.6 (dense and with experts): three layers of gated DeltaNet (arXiv 2412.06464)
// and one of attention whose heads have gates, in turn. Heads for multi-token prediction ("mtp.") are no part of the
// forward; they stay as they are.
#include <array>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

constexpr std::string_view kLinearAttention = "linear_attention", kFullAttention = "full_attention";

enum class Generation { kNext, kDense, kExperts };

void set_delta_net(const ConfigReader& c, const ModelConfig& m, bool grouped, const std::string& prefix,
                   BlockConfig& b) {
  GatedDeltaNet mixer;
  mixer.key_heads = read_mixer_size(c, "linear_num_key_heads", 16);
  mixer.value_heads = read_mixer_size(c, "linear_num_value_heads", 32);
  mixer.key_size = read_mixer_size(c, "linear_key_head_dim", 128);
  mixer.value_size = read_mixer_size(c, "linear_value_head_dim", 128);
  if (mixer.value_heads % mixer.key_heads != 0) {
    bad_input("{}: found {}, expected a multiple of linear_num_key_heads ({})",
              c.where("linear_num_value_heads"), mixer.value_heads, mixer.key_heads);
  }
  const std::int64_t keys = mixer.key_heads * mixer.key_size, values = mixer.value_heads * mixer.value_size;
  const std::string module = prefix + "linear_attn.";
  mixer.convolution = {.weight = module + "conv1d.weight",
                       .channels = 2 * keys + values,
                       .taps = c.integer("linear_conv_kernel_dim", 4)};
  mixer.grouped = grouped;
  mixer.decay = module + "A_log";
  mixer.step_bias = module + "dt_bias";
  mixer.norm = module + "norm.weight";
  b.qkv.clear();
  const auto add = [&](const char* name, std::int64_t outputs) {
    b.qkv.push_back({module + name, outputs, m.hidden_size, false, LinearInput::kAttention});
  };
  if (grouped) {
    add("in_proj_qkvz", 2 * keys + 2 * values);
    add("in_proj_ba", 2 * mixer.value_heads);
  } else {
    add("in_proj_qkv", 2 * keys + values);
    add("in_proj_z", values);
    add("in_proj_b", mixer.value_heads);
    add("in_proj_a", mixer.value_heads);
  }
  b.attention_output = {module + "out_proj", m.hidden_size, values, false, LinearInput::kAttentionOutput};
  b.recurrent = std::move(mixer);
}

void set_gated_attention(bool bias, const std::string& prefix, BlockConfig& b) {
  b.gated_heads = true;
  b.qkv.front().outputs *= 2;
  set_attention_bias(bias, bias, b);
  b.query_norm = NormTensors{prefix + "self_attn.q_norm.weight", ""};
  b.key_norm = NormTensors{prefix + "self_attn.k_norm.weight", ""};
}

ModelConfig configure_qwen3_5(const ConfigReader& c, std::string_view family, Generation generation) {
  ModelConfig m;
  m.family = family;
  CommonDefaults defaults{.max_positions = 32768};
  defaults.num_kv_heads = generation == Generation::kDense ? 4 : 2;
  defaults.head_size = 256;
  // A model all of whose MLPs are experts has no number for others.
  if (generation != Generation::kDense) defaults.intermediate_size = 5632;
  read_common(c, defaults, m);
  if (!c.boolean("attn_output_gate", true)) {
    bad_input("{}: found false, expected true: attention of {} has gates", c.where("attn_output_gate"),
              family);
  }
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-6));
  m.norm_gain_offset = 1.0f;
  m.activation = read_activation(c, "hidden_act", "silu");
  if (m.activation != Activation::kSilu) {
    bad_input("{}: found {}, expected silu, which the convolutions of {} have", c.where("hidden_act"),
              name_of(m.activation), family);
  }
  const std::int64_t rotary_size = read_rotary_size(c, m.head_size, "partial_rotary_factor", 0.25);
  m.ropes = {read_rope(c, {.rotary_size = rotary_size, .max_positions = m.max_positions, .partial = true})};
  set_llama_ends(c, false, m);
  const std::int64_t num_layers = read_num_layers(c);
  const std::int64_t period = c.integer("full_attention_interval", 4);
  const std::vector<std::string> types = read_layer_types(
      c, num_layers, std::array{kLinearAttention, kFullAttention},
      [&](std::int64_t i) { return std::string((i + 1) % period != 0 ? kLinearAttention : kFullAttention); });
  const std::vector<bool> sparse = generation == Generation::kDense
                                       ? std::vector<bool>(static_cast<std::size_t>(num_layers), false)
                                       : read_sparse_layers(c, num_layers);
  const bool next = generation == Generation::kNext;
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    b.layer_type = types[static_cast<std::size_t>(i)];
    b.layer_type == kLinearAttention ? set_delta_net(c, m, next, prefix, b)
                                     : set_gated_attention(c.boolean("attention_bias", false), prefix, b);
    if (sparse[static_cast<std::size_t>(i)]) {
      set_qwen_experts(
          c, m, {.default_count = next ? 512 : 256, .default_width = 512, .default_top_k = next ? 10 : 8},
          true, 512, prefix + "mlp.", b);
    }
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kDenseFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters "
    "partial_rotary_factor attention_bias attn_output_gate layer_types full_attention_interval "
    "linear_conv_kernel_dim linear_key_head_dim linear_value_head_dim linear_num_key_heads "
    "linear_num_value_heads";
constexpr std::string_view kExpertFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters "
    "partial_rotary_factor attention_bias attn_output_gate layer_types full_attention_interval "
    "linear_conv_kernel_dim linear_key_head_dim linear_value_head_dim linear_num_key_heads "
    "linear_num_value_heads "
    "num_experts num_local_experts n_routed_experts num_experts_per_tok norm_topk_prob moe_intermediate_size "
    "shared_expert_intermediate_size decoder_sparse_step mlp_only_layers";

constexpr std::array<std::string_view, 1> kDenseTypes = {"qwen3_5_text"};
constexpr std::array<std::string_view, 1> kExpertTypes = {"qwen3_5_moe_text"};
constexpr std::array<std::string_view, 1> kNextTypes = {"qwen3_next"};

}  // namespace

const ModelFamily kQwen35Family{
    "qwen3_5", kDenseTypes,
    [](const ConfigReader& c) { return configure_qwen3_5(c, "qwen3_5", Generation::kDense); }, kDenseFields};
const ModelFamily kQwen35MoeFamily{
    "qwen3_5_moe", kExpertTypes,
    [](const ConfigReader& c) { return configure_qwen3_5(c, "qwen3_5_moe", Generation::kExperts); },
    kExpertFields};
const ModelFamily kQwen3NextFamily{
    "qwen3_next", kNextTypes,
    [](const ConfigReader& c) { return configure_qwen3_5(c, "qwen3_next", Generation::kNext); },
    kExpertFields};

}  // namespace swiftprune
