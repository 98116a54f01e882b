// Nemotron-H (arXiv 2504.03624) and Nemotron 3 Nano: each layer is Mamba-2, attention without positions, a plain MLP of
// squared ReLU or such experts beside a shared one, alone. Heads for multi-token prediction ("mtp.") are no part of the forward; they stay as they are.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"

namespace swiftprune {
namespace {

constexpr std::string_view kMamba = "linear_attention", kAttention = "full_attention", kMlp = "mlp",
                           kMoe = "moe";

std::string type_of_letter(const ConfigReader& c, std::string_view field, char letter) {
  switch (letter) {
    case 'M':
      return std::string(kMamba);
    case '*':
      return std::string(kAttention);
    case '-':
      return std::string(kMlp);
    case 'E':
      return std::string(kMoe);
    default:
      bad_input("{}: found '{}', expected M (Mamba), * (attention), - (MLP) or E (experts)", c.where(field),
                letter);
  }
}

constexpr std::string_view kList = "layers_block_type", kPattern = "hybrid_override_pattern";

// The list, in the names of transformers 5.24 or those before.
std::vector<std::string> kinds_of_list(const ConfigReader& c) {
  std::vector<std::string> kinds = c.texts(kList);
  std::replace(kinds.begin(), kinds.end(), std::string("mamba"), std::string(kMamba));
  std::replace(kinds.begin(), kinds.end(), std::string("attention"), std::string(kAttention));
  return kinds;
}

// Older files have a letter for each layer.
std::vector<std::string> kinds_of_pattern(const ConfigReader& c) {
  std::vector<std::string> kinds;
  for (const char letter : c.text(kPattern)) kinds.push_back(type_of_letter(c, kPattern, letter));
  return kinds;
}

std::vector<std::string> read_kinds(const ConfigReader& c) {
  const std::string_view field = c.has(kList) ? kList : kPattern;
  const std::vector<std::string> kinds = c.has(kList) ? kinds_of_list(c) : kinds_of_pattern(c);
  if (c.has(kList) && c.has(kPattern) && kinds_of_pattern(c) != kinds) {
    bad_input("{}: found {}, expected what {} says", c.where(kPattern), c.text(kPattern), kList);
  }
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i] == kMamba || kinds[i] == kAttention || kinds[i] == kMlp || kinds[i] == kMoe) continue;
    bad_input("{}: found '{}' at {}, expected {}, {}, {} or {}", c.where(field), kinds[i], i, kMamba,
              kAttention, kMlp, kMoe);
  }
  const std::int64_t layers = std::ssize(kinds);
  if (layers == 0 || read_num_layers(c, layers) != layers) {
    bad_input("{}: found {} layers, expected num_hidden_layers", c.where(field), layers);
  }
  return kinds;
}

// Before transformers 5 the mixer's fields had other names, which count before these.
std::string_view mixer_field(const ConfigReader& c, std::string_view before, std::string_view name) {
  return c.has(before) ? before : name;
}

Mamba2 read_mamba(const ConfigReader& c) {
  Mamba2 mixer;
  const std::string_view groups_field = mixer_field(c, "mamba_n_groups", "n_groups");
  mixer.heads = read_mixer_size(c, "mamba_num_heads", 128);
  mixer.head_size = read_mixer_size(c, "mamba_head_dim", 64);
  mixer.groups = read_mixer_size(c, groups_field, 8);
  mixer.state_size = read_mixer_size(c, "ssm_state_size", 128);
  mixer.least_step = static_cast<float>(c.positive(mixer_field(c, "mamba_dt_min", "time_step_min"), 0.001));
  mixer.convolution.taps = c.integer(mixer_field(c, "mamba_d_conv", "conv_kernel"), 4);
  if (mixer.heads % mixer.groups != 0) {
    bad_input("{}: found {}, expected a divisor of mamba_num_heads ({})", c.where(groups_field), mixer.groups,
              mixer.heads);
  }
  if (const std::string act = c.text("mamba_hidden_act", "silu"); act != "silu") {
    bad_input("{}: found '{}', expected silu", c.where("mamba_hidden_act"), act);
  }
  return mixer;
}

void set_nemotron_h_mamba(const ConfigReader& c, const ModelConfig& m, const std::string& module,
                          Mamba2 mixer, BlockConfig& b) {
  const std::int64_t size = mixer.heads * mixer.head_size;
  const std::int64_t channels = size + 2 * mixer.groups * mixer.state_size;
  const bool bias = c.boolean("use_bias", false);
  mixer.convolution.weight = module + "conv1d.weight";
  if (c.boolean(mixer_field(c, "mamba_conv_bias", "use_conv_bias"), true))
    mixer.convolution.bias = module + "conv1d.bias";
  mixer.convolution.channels = channels;
  mixer.decay = module + "A_log";
  mixer.step_bias = module + "dt_bias";
  mixer.skip = module + "D";
  mixer.norm = module + "norm.weight";
  b.qkv = {{module + "in_proj", size + channels + mixer.heads, m.hidden_size, bias, LinearInput::kAttention}};
  b.attention_output = {module + "out_proj", m.hidden_size, size, bias, LinearInput::kAttentionOutput};
  b.recurrent = std::move(mixer);
}

void set_nemotron_h_attention(const ModelConfig& m, const std::string& module, BlockConfig& b) {
  const std::int64_t q = m.num_heads * m.head_size, kv = m.num_kv_heads * m.head_size;
  b.qkv = {{module + "q_proj", q, m.hidden_size, false, LinearInput::kAttention},
           {module + "k_proj", kv, m.hidden_size, false, LinearInput::kAttention},
           {module + "v_proj", kv, m.hidden_size, false, LinearInput::kAttention}};
  b.attention_output = {module + "o_proj", m.hidden_size, q, false, LinearInput::kAttentionOutput};
}

void set_nemotron_h_experts(const ConfigReader& c, const ModelConfig& m, const std::string& module, bool bias,
                            BlockConfig& b) {
  if (!c.is_null("moe_latent_size") && c.has("moe_latent_size")) {
    bad_input("{}: found {}, expected null: experts behind a projection of their own are not supported",
              c.where("moe_latent_size"), c.integer("moe_latent_size"));
  }
  ExpertsConfig experts = read_sigmoid_experts(
      c, {.count = "n_routed_experts", .default_count = 8, .default_width = 7688, .default_top_k = 2}, {},
      module);
  experts.gated = false;
  const std::int64_t shared = c.integer("moe_shared_expert_intermediate_size", 7688);
  b.experts = std::move(experts);
  b.up = {{module + "shared_experts.up_proj", shared, m.hidden_size, bias, LinearInput::kMlp}};
  b.down = {module + "shared_experts.down_proj", m.hidden_size, shared, bias, LinearInput::kMlpOutput};
}

ModelConfig configure_nemotron_h(const ConfigReader& c) {
  ModelConfig m;
  m.family = "nemotron_h";
  read_common(c, {.max_positions = 4096, .num_kv_heads = 8, .head_size = 128}, m);
  m.norm_eps = static_cast<float>(c.positive("layer_norm_epsilon", 1e-5));
  m.gated_mlp = false;
  m.activation = read_activation(c, "mlp_hidden_act", "relu2");
  m.embedding = "backbone.embeddings.weight";
  m.final_norm = NormTensors{"backbone.norm_f.weight", ""};
  m.head = m.own_head = "lm_head.weight";
  if (c.boolean("tie_word_embeddings", false)) {
    bad_input("{}: found true, expected false: Nemotron-H has a head of its own",
              c.where("tie_word_embeddings"));
  }
  const Mamba2 mamba = read_mamba(c);
  const bool mlp_bias = c.boolean("mlp_bias", false);
  // Sizes of experts, which a model without them has, too.
  for (const char* field : {"n_routed_experts", "moe_intermediate_size"})
    static_cast<void>(c.integer(field, 1, 0));
  const std::vector<std::string> kinds = read_kinds(c);
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    const std::string prefix = fmt::format("backbone.layers.{}.", i), module = prefix + "mixer.";
    const NormTensors norm{prefix + "norm.weight", ""};
    BlockConfig b;
    b.layer_type = kinds[i];
    b.rope = -1;
    if (kinds[i] == kMoe) {
      set_nemotron_h_experts(c, m, module, mlp_bias, b);
      b.mlp_norm = norm;
    } else if (kinds[i] == kMlp) {
      set_plain_mlp(m, module + "up_proj", module + "down_proj", b);
      set_mlp_bias(mlp_bias, b);
      b.mlp_norm = norm;
    } else {
      kinds[i] == kMamba ? set_nemotron_h_mamba(c, m, module, mamba, b)
                         : set_nemotron_h_attention(m, module, b);
      b.attention_norm = norm;
    }
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kNemotronHFields =
    "intermediate_size num_key_value_heads head_dim layer_norm_epsilon mlp_hidden_act mlp_bias "
    "layers_block_type "
    "hybrid_override_pattern mamba_num_heads mamba_head_dim n_groups ssm_state_size time_step_min "
    "mamba_n_groups mamba_dt_min mamba_d_conv mamba_conv_bias "
    "conv_kernel "
    "mamba_hidden_act use_bias use_conv_bias n_routed_experts moe_intermediate_size";

constexpr std::array<std::string_view, 1> kNemotronHTypes = {"nemotron_h"};

}  // namespace

const ModelFamily kNemotronHFamily{"nemotron_h", kNemotronHTypes, configure_nemotron_h, kNemotronHFields};

}  // namespace swiftprune
