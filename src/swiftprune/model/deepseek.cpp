// DeepSeek-V2 and -V2-Lite (arXiv 2405.04434), DeepSeek-V3 (arXiv 2412.19437), and what is built alike (Moonlight,
// Kimi-K2): latent attention, the first layers dense, then experts beside a shared one. V2 chooses by a softmax, V3 by
// a sigmoid with a correction bias.
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

LatentAttention read_latent(const ConfigReader& c) {
  LatentAttention l;
  l.query_rank = c.is_null("q_lora_rank") ? 0 : c.integer("q_lora_rank", 1536);
  l.rank = c.integer("kv_lora_rank", 512);
  l.plain_size = c.integer("qk_nope_head_dim", 128);
  l.rotary_size = c.integer("qk_rope_head_dim", 64);
  l.value_size = c.integer("v_head_dim", 128);
  constexpr std::int64_t kMost = 65536;  // a bound on what is computed before the tensors' shapes are known
  for (const std::string_view key : {"qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"}) {
    if (c.integer(key, 64) > kMost)
      bad_input("{}: found {}, expected at most {}", c.where(key), c.integer(key), kMost);
  }
  if (l.rotary_size % 2 != 0) {
    bad_input("{}: found {}, expected an even number", c.where("qk_rope_head_dim"), l.rotary_size);
  }
  if (l.value_size > l.plain_size + l.rotary_size) {
    bad_input("{}: found {}, expected at most qk_nope_head_dim + qk_rope_head_dim ({})",
              c.where("v_head_dim"), l.value_size, l.plain_size + l.rotary_size);
  }
  return l;
}

// YaRN's temperature, which DeepSeek puts into the attention's scale.
double attention_temperature(const ConfigReader& c) {
  for (const std::string_view key : {"rope_parameters", "rope_scaling"}) {
    if (!c.has(key)) continue;
    const ConfigReader rope = c.child(key);
    const double all = rope.number("mscale_all_dim", 0.0);
    if (rope.text("rope_type", rope.text("type", "default")) == "default" || all == 0.0) return 1.0;
    const double factor = rope.positive("factor");
    const double scale = factor <= 1.0 ? 1.0 : 0.1 * all * std::log(factor) + 1.0;
    return scale * scale;
  }
  return 1.0;
}

void set_latent_attention(const ModelConfig& m, LatentAttention latent, const std::string& prefix, bool bias,
                          BlockConfig& b) {
  const std::string attention = prefix + "self_attn.";
  const auto linear = [&](const char* name, std::int64_t outputs, std::int64_t inputs, bool with_bias) {
    return LinearTensors{attention + name, outputs, inputs, with_bias, LinearInput::kAttention};
  };
  const std::int64_t queries = m.num_heads * m.head_size;
  b.qkv.clear();
  if (latent.query_rank > 0) {
    b.qkv = {linear("q_a_proj", latent.query_rank, m.hidden_size, bias),
             linear("q_b_proj", queries, latent.query_rank, false)};
    latent.query_norm.gain = attention + "q_a_layernorm.weight";
  } else {
    b.qkv = {linear("q_proj", queries, m.hidden_size, false)};
  }
  b.qkv.push_back(linear("kv_a_proj_with_mqa", latent.rank + latent.rotary_size, m.hidden_size, bias));
  b.qkv.push_back(
      linear("kv_b_proj", m.num_heads * (latent.plain_size + latent.value_size), latent.rank, false));
  latent.norm.gain = attention + "kv_a_layernorm.weight";
  b.attention_output.inputs = m.num_heads * latent.value_size;
  b.attention_output.bias = bias;
  b.latent = std::move(latent);
}

// A field that may only say what is done anyway.
void expect_text(const ConfigReader& c, std::string_view key, const std::string& expected) {
  if (const std::string found = c.text(key, expected); found != expected)
    bad_input("{}: found '{}', expected '{}'", c.where(key), found, expected);
}

ExpertsConfig read_softmax_experts(const ConfigReader& c, const std::string& mlp) {
  ExpertsConfig experts =
      read_experts(c, {.count = "n_routed_experts", .default_count = 64, .default_width = 1407}, mlp);
  RouterConfig& router = experts.router;
  router.scale = static_cast<float>(c.positive("routed_scaling_factor", 1.0));
  expect_text(c, "scoring_func", "softmax");
  const std::string method = c.text("topk_method", "greedy");
  if (method == "group_limited_greedy") {
    router.num_groups = c.integer("n_group");
    router.top_groups = c.integer("topk_group");
    router.group_score = GroupScore::kBest;
  } else if (method != "greedy") {
    bad_input("{}: found '{}', expected greedy or group_limited_greedy", c.where("topk_method"), method);
  }
  if (c.boolean("norm_topk_prob", false)) {
    bad_input("{}: found true, expected false, as transformers computes this family",
              c.where("norm_topk_prob"));
  }
  check_experts(c, experts);
  return experts;
}

ModelConfig configure_deepseek(const ConfigReader& c, bool third) {
  const LatentAttention latent = read_latent(c);
  if (third) {
    expect_text(c, "scoring_func", "sigmoid");
    expect_text(c, "topk_method", "noaux_tc");
  }
  for (const std::string_view key : {"moe_layer_freq", "ep_size"}) {
    if (c.has(key) && c.integer(key) != 1)
      bad_input("{}: found {}, expected 1", c.where(key), c.integer(key));
  }
  if (c.has("head_dim")) c.integer("head_dim");  // transformers sets its own, which nothing is computed with
  if (c.boolean("mlp_bias", false)) bad_input("{}: found true, expected false", c.where("mlp_bias"));
  ModelConfig m;
  m.family = third ? "deepseek_v3" : "deepseek_v2";
  m.vocab_size = c.integer("vocab_size");
  m.hidden_size = c.integer("hidden_size");
  m.intermediate_size = c.integer("intermediate_size");
  m.num_heads = m.num_kv_heads = c.integer("num_attention_heads");
  m.max_positions = c.integer("max_position_embeddings", third ? 4096 : 2048);
  m.has_head_size_field = false;
  m.head_size = latent.plain_size + latent.rotary_size;
  m.attention_scale =
      static_cast<float>(attention_temperature(c) / std::sqrt(static_cast<double>(m.head_size)));
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-6));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.ropes = {read_rope(c, {.rotary_size = latent.rotary_size, .max_positions = m.max_positions})};
  set_llama_ends(c, false, m);
  const bool bias = c.boolean("attention_bias", false);
  const std::int64_t first_sparse = c.integer("first_k_dense_replace", third ? 3 : 0, 0);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    set_latent_attention(m, latent, prefix, bias, b);
    b.latent->rotates_neighbours = !third || c.boolean("rope_interleave", true);
    if (i >= first_sparse) {
      const std::string mlp = prefix + "mlp.";
      ExpertsConfig experts = third ? read_sigmoid_experts(c,
                                                           {.count = "n_routed_experts",
                                                            .default_count = 256,
                                                            .default_width = 2048,
                                                            .default_top_k = 8},
                                                           {.groups = 8, .top_groups = 4, .scale = 2.5}, mlp)
                                    : read_softmax_experts(c, mlp);
      const std::int64_t shared = experts.width * c.integer("n_shared_experts", third ? 1 : 2, 0);
      set_experts(m, std::move(experts), mlp, "shared_experts", shared, b);
    }
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kV2Fields =
    "intermediate_size head_dim rms_norm_eps hidden_act rope_theta rope_scaling rope_parameters "
    "num_experts num_local_experts n_routed_experts num_experts_per_tok norm_topk_prob "
    "moe_intermediate_size n_shared_experts n_group topk_group topk_method scoring_func "
    "routed_scaling_factor first_k_dense_replace moe_layer_freq attention_bias q_lora_rank "
    "kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim ep_size mlp_bias";
constexpr std::string_view kV3Fields =
    "intermediate_size head_dim rms_norm_eps hidden_act rope_theta rope_scaling rope_parameters "
    "num_experts num_local_experts n_routed_experts num_experts_per_tok norm_topk_prob "
    "moe_intermediate_size n_shared_experts n_group topk_group topk_method scoring_func "
    "routed_scaling_factor first_k_dense_replace moe_layer_freq attention_bias q_lora_rank "
    "kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim rope_interleave ep_size mlp_bias";

constexpr std::array<std::string_view, 1> kV2Types = {"deepseek_v2"};
constexpr std::array<std::string_view, 2> kV3Types = {"deepseek_v3", "kimi_k2"};

}  // namespace

const ModelFamily kDeepseekV2Family{
    "deepseek_v2", kV2Types, [](const ConfigReader& c) { return configure_deepseek(c, false); }, kV2Fields};
const ModelFamily kDeepseekV3Family{
    "deepseek_v3", kV3Types, [](const ConfigReader& c) { return configure_deepseek(c, true); }, kV3Fields};

}  // namespace swiftprune
