#include "swiftprune/model/family_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/router.h"

namespace swiftprune {

Activation read_activation(const ConfigReader& c, std::string_view key, std::string_view fallback) {
  const std::string name = c.text(key, std::string(fallback));
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu" || name == "gelu_python") return Activation::kGelu;
  for (const std::string_view tanh :
       {"gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"}) {
    if (name == tanh) return Activation::kGeluTanh;
  }
  if (name == "relu") return Activation::kRelu;
  if (name == "relu2") return Activation::kReluSquared;
  if (name == "quick_gelu") return Activation::kQuickGelu;
  if (name == "gelu_10") return Activation::kClippedGelu;
  if (name == "mish") return Activation::kMish;
  bad_input(
      "{}: found '{}', expected silu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, gelu_10, quick_gelu, "
      "relu, relu2 "
      "or mish",
      c.where(key), name);
}

namespace {

void read_heads(const ConfigReader& c, const CommonDefaults& defaults, ModelConfig& m) {
  const std::string_view kv_key = "num_key_value_heads";
  m.num_kv_heads = m.num_heads;
  m.has_head_size_field = defaults.reads_heads && defaults.reads_head_size;
  if (defaults.reads_heads && !c.is_null(kv_key)) {
    m.num_kv_heads = c.integer(kv_key, defaults.num_kv_heads.value_or(m.num_heads));
  }
  if (m.num_heads % m.num_kv_heads != 0) {
    bad_input("{}: found {}, expected a divisor of num_attention_heads ({})", c.where(kv_key), m.num_kv_heads,
              m.num_heads);
  }
  if (m.has_head_size_field && (c.has("head_dim") || defaults.head_size)) {
    m.head_size = c.integer("head_dim", defaults.head_size);
  } else {
    if (m.hidden_size % m.num_heads != 0) {
      bad_input("{}: found {}, expected a multiple of num_attention_heads ({})",
                c.where(defaults.names.hidden_size), m.hidden_size, m.num_heads);
    }
    m.head_size = m.hidden_size / m.num_heads;
  }
  // A bound on what is computed before the tensors' shapes are known.
  constexpr std::int64_t kMostHeadSize = 65536;
  if (m.head_size > kMostHeadSize) {
    bad_input("{}: found a head size of {}, expected at most {}",
              c.where(c.has("head_dim") ? "head_dim" : defaults.names.hidden_size), m.head_size,
              kMostHeadSize);
  }
  m.attention_scale = 1.0f / std::sqrt(static_cast<float>(m.head_size));
}

// transformers takes the usual names for a family's own, and then leaves these aside.
void check_usual_names(const ConfigReader& c, const SizeNames& names) {
  const SizeNames usual;
  for (const auto name : {&SizeNames::hidden_size, &SizeNames::num_layers, &SizeNames::num_heads}) {
    const std::string_view own = names.*name, other = usual.*name;
    if (own == other || !c.has(other)) continue;
    if (c.has(own) && c.integer(own) == c.integer(other)) continue;
    bad_input("{}: found {}, expected it as {}, as this family calls it", c.where(other), c.integer(other),
              own);
  }
}

}  // namespace

void read_common(const ConfigReader& c, const CommonDefaults& defaults, ModelConfig& m) {
  check_usual_names(c, defaults.names);
  m.vocab_size = c.integer("vocab_size", defaults.vocab_size);
  m.hidden_size = c.integer(defaults.names.hidden_size, defaults.hidden_size);
  m.intermediate_field = defaults.intermediate_field;
  m.intermediate_size = c.integer(m.intermediate_field, defaults.intermediate_size);
  m.num_heads = c.integer(defaults.names.num_heads, defaults.num_heads);
  m.max_positions = c.integer(defaults.names.max_positions, defaults.max_positions);
  m.layers_field = defaults.names.num_layers;
  read_heads(c, defaults, m);
}

std::int64_t read_num_layers(const ConfigReader& c, std::optional<std::int64_t> fallback,
                             std::string_view key) {
  constexpr std::int64_t kMost = 4096;  // a bound on what a hostile file can make us allocate
  const std::int64_t layers = c.integer(key, fallback);
  if (layers > kMost) bad_input("{}: found {}, expected at most {}", c.where(key), layers, kMost);
  return layers;
}

std::int64_t read_sliding_window(const ConfigReader& c, std::int64_t absent) {
  return c.is_null("sliding_window") ? 0 : c.integer("sliding_window", absent);
}

std::int64_t read_needed_window(const ConfigReader& c, std::int64_t absent) {
  if (c.is_null("sliding_window"))
    bad_input("{}: found null, expected an integer, as transformers does", c.where("sliding_window"));
  return read_sliding_window(c, absent);
}

double qwen_default_theta(const ConfigReader& c) {
  const std::string type = c.text("model_type", "");
  if (type.starts_with("qwen2_vl") || type.starts_with("qwen2_5_vl")) return 1e6;
  return type.starts_with("qwen3_vl") ? 500000.0 : 10000.0;
}

float read_optional_number(const ConfigReader& c, std::string_view key, double absent) {
  if (!c.has(key)) return c.is_null(key) ? 0.0f : static_cast<float>(absent);
  const double number = c.number(key);
  if (static_cast<float>(number) > 0.0f) return static_cast<float>(number);
  bad_input("{}: found {}, expected a positive number, or null for none", c.where(key), number);
}

std::vector<std::string> read_layer_types(const ConfigReader& c, std::int64_t num_layers,
                                          std::span<const std::string_view> known,
                                          const std::function<std::string(std::int64_t)>& otherwise) {
  std::vector<std::string> types;
  if (!c.has("layer_types")) {
    for (std::int64_t i = 0; i < num_layers; ++i) types.push_back(otherwise(i));
    return types;
  }
  types = c.texts("layer_types");
  for (std::size_t i = 0; i < types.size(); ++i) {
    if (std::find(known.begin(), known.end(), types[i]) != known.end()) continue;
    bad_input("{}: found '{}' at {}, expected {}", c.where("layer_types"), types[i], i,
              fmt::join(known, " or "));
  }
  if (std::ssize(types) != num_layers) {
    bad_input("{}: found {} layers, expected num_hidden_layers ({})", c.where("layer_types"), types.size(),
              num_layers);
  }
  return types;
}

std::vector<bool> read_sliding_layers(const ConfigReader& c, std::int64_t num_layers,
                                      const std::function<bool(std::int64_t)>& otherwise) {
  constexpr std::string_view kSliding = "sliding_attention", kFull = "full_attention";
  std::vector<bool> sliding;
  for (const std::string& type :
       read_layer_types(c, num_layers, std::array{kSliding, kFull},
                        [&](std::int64_t i) { return std::string(otherwise(i) ? kSliding : kFull); })) {
    sliding.push_back(type == kSliding);
  }
  return sliding;
}

std::int64_t read_mixer_size(const ConfigReader& c, std::string_view key, std::int64_t fallback) {
  constexpr std::int64_t kMost = std::int64_t{1} << 24;
  const std::int64_t size = c.integer(key, fallback);
  if (size > kMost) bad_input("{}: found {}, expected at most {}", c.where(key), size, kMost);
  return size;
}

BlockConfig llama_block(const ModelConfig& m, const std::string& prefix) {
  const std::string attention = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  const std::int64_t q_size = m.num_heads * m.head_size;
  const std::int64_t kv_size = m.num_kv_heads * m.head_size;
  BlockConfig b;
  b.qkv = {{attention + "q_proj", q_size, m.hidden_size, false, LinearInput::kAttention},
           {attention + "k_proj", kv_size, m.hidden_size, false, LinearInput::kAttention},
           {attention + "v_proj", kv_size, m.hidden_size, false, LinearInput::kAttention}};
  b.attention_output = {attention + "o_proj", m.hidden_size, q_size, false, LinearInput::kAttentionOutput};
  b.up = {{mlp + "gate_proj", m.intermediate_size, m.hidden_size, false, LinearInput::kMlp},
          {mlp + "up_proj", m.intermediate_size, m.hidden_size, false, LinearInput::kMlp}};
  b.down = {mlp + "down_proj", m.hidden_size, m.intermediate_size, false, LinearInput::kMlpOutput};
  b.attention_norm = NormTensors{prefix + "input_layernorm.weight", ""};
  b.mlp_norm = NormTensors{prefix + "post_attention_layernorm.weight", ""};
  return b;
}

void set_attention_bias(bool qkv, bool output, BlockConfig& b) {
  for (LinearTensors& linear : b.qkv) linear.bias = qkv;
  b.attention_output.bias = output;
}

void set_mlp_bias(bool bias, BlockConfig& b) {
  for (LinearTensors& linear : b.up) linear.bias = bias;
  b.down.bias = bias;
}

void fuse_gate_and_up(const std::string& name, BlockConfig& b) {
  LinearTensors fused = b.up.front();
  fused.name = name;
  fused.outputs *= 2;
  b.up = {std::move(fused)};
}

void set_plain_mlp(const ModelConfig& m, const std::string& up, const std::string& down, BlockConfig& b) {
  b.up = {{up, m.intermediate_size, m.hidden_size, false, LinearInput::kMlp}};
  b.down = {down, m.hidden_size, m.intermediate_size, false, LinearInput::kMlpOutput};
}

void move_norms_behind(const std::string& prefix, BlockConfig& b) {
  b.attention_norm.reset();
  b.mlp_norm.reset();
  b.post_attention_norm = NormTensors{prefix + "post_attention_layernorm.weight", ""};
  b.post_mlp_norm = NormTensors{prefix + "post_feedforward_layernorm.weight", ""};
}

NormTensors norm_with_bias(const std::string& module) { return {module + ".weight", module + ".bias"}; }

void set_head(const ConfigReader& c, bool tied_by_default, std::string name, ModelConfig& m) {
  m.own_head = std::move(name);
  m.head = c.boolean("tie_word_embeddings", tied_by_default) ? m.embedding : m.own_head;
}

void set_llama_ends(const ConfigReader& c, bool tied_by_default, ModelConfig& m) {
  m.embedding = "model.embed_tokens.weight";
  m.final_norm = NormTensors{"model.norm.weight", ""};
  set_head(c, tied_by_default, "lm_head.weight", m);
}

ExpertsConfig read_experts(const ConfigReader& c, const ExpertFields& fields, const std::string& prefix) {
  constexpr std::int64_t kMost = 65536;  // a bound on what a hostile file can make us allocate
  ExpertsConfig experts;
  // transformers takes each of these for the others and writes what its version likes.
  for (const std::string_view alias :
       {fields.count, std::string_view("num_experts"), std::string_view("num_local_experts"),
        std::string_view("n_routed_experts")}) {
    if (!c.has(alias)) continue;
    const std::int64_t count = c.integer(alias);
    if (experts.count > 0 && count != experts.count) {
      bad_input("{}: found {}, expected {} as '{}' says", c.where(alias), count, experts.count,
                experts.count_field);
    }
    if (experts.count == 0) experts.count_field = alias;
    experts.count = count;
  }
  if (experts.count == 0) {
    experts.count_field = fields.count;
    experts.count = c.integer(fields.count, fields.default_count);
  }
  experts.width_field = fields.width;
  if (experts.count > kMost) {
    bad_input("{}: found {}, expected at most {}", c.where(experts.count_field), experts.count, kMost);
  }
  experts.width = c.integer(fields.width, fields.default_width);
  experts.router.top_k = c.integer("num_experts_per_tok", fields.default_top_k);
  experts.router.weight = prefix + "gate.weight";
  experts.prefix = prefix + "experts.";
  return experts;
}

void check_experts(const ConfigReader& c, const ExpertsConfig& experts) {
  if (const auto problem = router_problem(experts.router, experts.count)) {
    bad_input("{}: found {}",
              c.where(experts.router.num_groups > 1 ? "n_group' and 'topk_group" : "num_experts_per_tok"),
              *problem);
  }
}

ExpertsConfig read_sigmoid_experts(const ConfigReader& c, const ExpertFields& fields,
                                   const SigmoidDefaults& defaults, const std::string& prefix) {
  ExpertsConfig experts = read_experts(c, fields, prefix);
  RouterConfig& router = experts.router;
  router.score = RouterScore::kSigmoid;
  router.correction_bias = prefix + "gate.e_score_correction_bias";
  router.num_groups = c.integer("n_group", defaults.groups);
  router.top_groups = c.integer("topk_group", defaults.top_groups);
  router.renormalised = c.boolean("norm_topk_prob", true);
  router.scale = static_cast<float>(c.positive("routed_scaling_factor", defaults.scale));
  check_experts(c, experts);
  return experts;
}

void set_experts(const ModelConfig& m, ExpertsConfig experts, const std::string& prefix,
                 std::string_view shared, std::int64_t shared_width, BlockConfig& b) {
  b.experts = std::move(experts);
  b.up.clear();
  b.down = {};
  if (shared_width == 0) return;
  const std::string name = fmt::format("{}{}.", prefix, shared);
  b.up = {{name + "gate_proj", shared_width, m.hidden_size, false, LinearInput::kMlp},
          {name + "up_proj", shared_width, m.hidden_size, false, LinearInput::kMlp}};
  b.down = {name + "down_proj", m.hidden_size, shared_width, false, LinearInput::kMlpOutput};
}

std::vector<bool> read_sparse_layers(const ConfigReader& c, std::int64_t num_layers) {
  const std::int64_t step = c.integer("decoder_sparse_step", 1);
  std::vector<std::int64_t> dense;
  if (c.has("mlp_only_layers")) dense = c.integers("mlp_only_layers");
  std::vector<bool> sparse;
  for (std::int64_t i = 0; i < num_layers; ++i) {
    sparse.push_back((i + 1) % step == 0 && std::find(dense.begin(), dense.end(), i) == dense.end());
  }
  return sparse;
}

void set_qwen_experts(const ConfigReader& c, const ModelConfig& m, const ExpertFields& fields,
                      bool renormalised_by_default, std::optional<std::int64_t> shared_width,
                      const std::string& prefix, BlockConfig& b) {
  ExpertsConfig experts = read_experts(c, fields, prefix);
  experts.router.renormalised = c.boolean("norm_topk_prob", renormalised_by_default);
  if (shared_width) experts.shared_gate = prefix + "shared_expert_gate.weight";
  check_experts(c, experts);
  const std::int64_t width = shared_width ? c.integer("shared_expert_intermediate_size", shared_width) : 0;
  set_experts(m, std::move(experts), prefix, "shared_expert", width, b);
}

}  // namespace swiftprune
