// LFM2 (https://www.liquid.ai/blog/liquid-foundation-models-v2-our-second-series-of-generative-ai-models): short
// convolutions between two gates in most layers, grouped attention with norms of queries and keys in the others; and
// LFM2-8B-A1B, whose MLPs are experts behind the first layers.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

constexpr std::string_view kConvolution = "conv", kLfm2Attention = "full_attention";

// The width of the MLP, which config.json's number is only an upper bound of.
void adjust_width(const ConfigReader& c, ModelConfig& m) {
  m.adjusts_width_field = "block_auto_adjust_ff_dim";
  if (!c.boolean(m.adjusts_width_field, true)) return;
  const double factor = c.positive("block_ffn_dim_multiplier", 1.0);
  const std::int64_t multiple = c.integer("block_multiple_of", 256);
  const auto width = static_cast<double>(2 * m.intermediate_size / 3) * factor;
  constexpr double kMost = 1e9;  // a bound on what is computed before the tensors' shapes are known
  if (!(width >= 1.0 && width <= kMost)) {
    bad_input("{}: found {}, which gives an MLP of width {}", c.where("block_ffn_dim_multiplier"), factor,
              width);
  }
  const auto whole = static_cast<std::int64_t>(width);
  m.intermediate_size = c.is_null("block_ffn_dim_multiplier") ? 2 * m.intermediate_size / 3
                                                              : (whole + multiple - 1) / multiple * multiple;
}

void set_convolution(const ConfigReader& c, const ModelConfig& m, const std::string& prefix, BlockConfig& b) {
  const bool bias = c.boolean("conv_bias", false);
  const std::int64_t hidden = m.hidden_size;
  ShortConvolution mixer;
  mixer.convolution = {.weight = prefix + "conv.conv.weight",
                       .bias = bias ? prefix + "conv.conv.bias" : "",
                       .channels = hidden,
                       .taps = c.integer("conv_L_cache", 3)};
  b.qkv = {{prefix + "conv.in_proj", 3 * hidden, hidden, bias, LinearInput::kAttention}};
  b.attention_output = {prefix + "conv.out_proj", hidden, hidden, bias, LinearInput::kAttentionOutput};
  b.recurrent = std::move(mixer);
}

// transformers adds 1e-6 to the sum by which it divides the chosen experts' scores, which is left out here: the scores
// are sigmoids of the best.
void set_lfm2_experts(const ConfigReader& c, const ModelConfig& m, const std::string& prefix,
                      BlockConfig& b) {
  ExpertsConfig experts =
      read_experts(c, {.default_count = 32, .default_width = 1792, .default_top_k = 4}, prefix);
  experts.parts = {"w1", "w3", "w2"};
  experts.router.score = RouterScore::kSigmoid;
  experts.router.renormalised = c.boolean("norm_topk_prob", true);
  experts.router.scale = static_cast<float>(c.positive("routed_scaling_factor", 1.0));
  if (c.boolean("use_expert_bias", true)) experts.router.correction_bias = prefix + "expert_bias";
  check_experts(c, experts);
  set_experts(m, std::move(experts), prefix, "", 0, b);
}

ModelConfig configure_lfm2(const ConfigReader& c, bool with_experts) {
  ModelConfig m;
  m.family = with_experts ? "lfm2_moe" : "lfm2";
  const bool other_name = !with_experts && c.has("block_ff_dim");
  read_common(c,
              {.max_positions = 128000,
               .intermediate_field = other_name ? "block_ff_dim" : "intermediate_size",
               .intermediate_size = with_experts ? 7168 : 12288,
               .num_kv_heads = 8},
              m);
  if (!with_experts) adjust_width(c, m);
  const std::int64_t num_dense = with_experts ? c.integer("num_dense_layers", 2, 0) : 0;
  m.norm_eps = static_cast<float>(c.positive("norm_eps", 1e-5));
  m.ropes = {read_rope(
      c, {.rotary_size = m.head_size, .max_positions = m.max_positions, .theta = c.positive("theta", 1e6)})};
  m.embedding = "model.embed_tokens.weight";
  m.final_norm = NormTensors{"model.embedding_norm.weight", ""};
  m.own_head = "lm_head.weight";
  m.head = c.boolean("tie_embedding", c.boolean("tie_word_embeddings", true)) ? m.embedding : m.own_head;
  const std::int64_t num_layers = read_num_layers(c);
  std::vector<std::int64_t> attends;
  if (c.has("full_attn_idxs")) attends = c.integers("full_attn_idxs");
  const std::vector<std::string> types =
      read_layer_types(c, num_layers, std::array{kConvolution, kLfm2Attention}, [&](std::int64_t i) {
        const bool all = !c.has("full_attn_idxs");
        return std::string(all || std::find(attends.begin(), attends.end(), i) != attends.end()
                               ? kLfm2Attention
                               : kConvolution);
      });
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    b.layer_type = types[static_cast<std::size_t>(i)];
    if (b.layer_type == kConvolution) {
      set_convolution(c, m, prefix, b);
    } else {
      b.attention_output.name = prefix + "self_attn.out_proj";
      b.query_norm = NormTensors{prefix + "self_attn.q_layernorm.weight", ""};
      b.key_norm = NormTensors{prefix + "self_attn.k_layernorm.weight", ""};
    }
    b.up[0].name = prefix + "feed_forward.w1";
    b.up[1].name = prefix + "feed_forward.w3";
    b.down.name = prefix + "feed_forward.w2";
    b.attention_norm = NormTensors{prefix + "operator_norm.weight", ""};
    b.mlp_norm = NormTensors{prefix + "ffn_norm.weight", ""};
    if (with_experts && i >= num_dense) set_lfm2_experts(c, m, prefix + "feed_forward.", b);
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kLfm2Fields =
    "block_ff_dim num_key_value_heads head_dim norm_eps rope_theta theta rope_scaling "
    "rope_parameters layer_types full_attn_idxs conv_bias conv_L_cache block_multiple_of "
    "block_ffn_dim_multiplier "
    "block_auto_adjust_ff_dim tie_embedding";

constexpr std::string_view kLfm2MoeFields =
    "intermediate_size num_key_value_heads head_dim norm_eps rope_theta theta rope_scaling "
    "rope_parameters layer_types full_attn_idxs conv_bias conv_L_cache tie_embedding num_dense_layers "
    "num_experts num_local_experts n_routed_experts num_experts_per_tok moe_intermediate_size norm_topk_prob "
    "routed_scaling_factor use_expert_bias";

constexpr std::array<std::string_view, 1> kLfm2Types = {"lfm2"};
constexpr std::array<std::string_view, 1> kLfm2MoeTypes = {"lfm2_moe"};

}  // namespace

const ModelFamily kLfm2Family{"lfm2", kLfm2Types,
                              [](const ConfigReader& c) { return configure_lfm2(c, false); }, kLfm2Fields};
const ModelFamily kLfm2MoeFamily{
    "lfm2_moe", kLfm2MoeTypes, [](const ConfigReader& c) { return configure_lfm2(c, true); }, kLfm2MoeFields};

}  // namespace swiftprune
