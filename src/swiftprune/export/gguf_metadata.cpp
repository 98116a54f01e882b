#include "swiftprune/export/gguf_metadata.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <variant>

#include "swiftprune/checkpoint/gguf_fields.h"
#include "swiftprune/core/error.h"
#include "swiftprune/export/gguf_expert_metadata.h"
#include "swiftprune/export/gguf_ropes.h"
#include "swiftprune/model/config_reader.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/layer_sizes.h"

namespace swiftprune {
namespace {

using Json = nlohmann::json;

// family, GGUF's architecture, its fixed activation, one full-attention layer in so many (0: all layers attend alike;
// kListed: the file has a list), the number of layers for which queries are scaled by hidden / heads instead of the
// head size, and rope's base where config.json does not say it
constexpr std::int64_t kListed = -1;
struct ArchitectureRules {
  std::string_view family;
  std::string_view architecture;
  Activation activation;
  std::int64_t sliding_period = 0;
  std::int64_t layers_of_27b = 0;
  double theta = 10000.0;
};
constexpr ArchitectureRules kRules[] = {
    {"llama", "llama", Activation::kSilu},
    {"mistral", "llama", Activation::kSilu},
    {"ministral3", "mistral3", Activation::kSilu, 0, 0, 1e6},
    {"qwen2", "qwen2", Activation::kSilu},
    {"qwen3", "qwen3", Activation::kSilu},
    {"gemma", "gemma", Activation::kGeluTanh},
    {"gemma2", "gemma2", Activation::kGeluTanh, 2, 46},
    {"gemma3", "gemma3", Activation::kGeluTanh, 6, 62},
    {"phi3", "phi3", Activation::kSilu},
    {"phi", "phi2", Activation::kGeluTanh},
    {"smollm3", "smollm3", Activation::kSilu, 0, 0, 2e6},
    {"olmo", "olmo", Activation::kSilu},
    {"olmo2", "olmo2", Activation::kSilu},
    {"olmo3", "olmo2", Activation::kSilu, kListed, 0, 500000.0},
    {"granite", "granite", Activation::kSilu},
    {"exaone4", "exaone4", Activation::kSilu, kListed},
    {"arcee", "arcee", Activation::kReluSquared},
    {"apertus", "apertus", Activation::kSilu, 0, 0, 12e6},  // it has xIELU, which is no Activation
    {"nemotron", "nemotron", Activation::kReluSquared},
    {"glm4", "glm4", Activation::kSilu},
    {"stablelm", "stablelm", Activation::kSilu},
    {"starcoder2", "starcoder2", Activation::kGeluTanh},
    {"cohere", "command-r", Activation::kSilu, 0, 0, 500000.0},
    {"cohere2", "cohere2", Activation::kSilu, kListed, 0, 500000.0},
    {"gpt2", "gpt2", Activation::kGeluTanh},
    {"gpt_neox", "gptneox", Activation::kGelu},
    {"lfm2", "lfm2", Activation::kSilu, 0, 0, 1e6},
    {"lfm2_moe", "lfm2moe", Activation::kSilu, 0, 0, 1e6},
    {"bloom", "bloom", Activation::kGeluTanh},
    {"mpt", "mpt", Activation::kGelu},
    {"glm", "chatglm", Activation::kSilu},
    {"gemma4", "gemma4", Activation::kGeluTanh, kListed, 0, 1e6},
    {"falcon_h1", "falcon-h1", Activation::kSilu},
    {"granitemoe", "granitemoe", Activation::kSilu},
    {"granitemoehybrid", "granitehybrid", Activation::kSilu},
    {"nemotron_h", "nemotron_h", Activation::kReluSquared},
    {"qwen3_5", "qwen35", Activation::kSilu},
    {"qwen3_5_moe", "qwen35moe", Activation::kSilu},
    {"qwen3_next", "qwen3next", Activation::kSilu},
    {"mixtral", "llama", Activation::kSilu, 0, 0, 1e6},
    {"qwen2_moe", "qwen2moe", Activation::kSilu},
    {"qwen3_moe", "qwen3moe", Activation::kSilu},
    {"olmoe", "olmoe", Activation::kSilu},
    {"gpt_oss", "gpt-oss", Activation::kSilu, kListed, 0, 150000.0},
    {"glm4_moe", "glm4moe", Activation::kSilu},
    {"deepseek_v2", "deepseek2", Activation::kSilu},
    {"deepseek_v3", "deepseek2", Activation::kSilu},
};

const ArchitectureRules& rules_of(const ModelConfig& model) {
  std::set<std::string_view> known;
  for (const ArchitectureRules& rules : kRules) {
    if (rules.family == model.family) return rules;
    known.insert(rules.family);
  }
  bad_input("config.json: found the family {}, which GGUF export does not know; expected one of {}",
            model.family, fmt::join(known, ", "));
}

// Granite 4 without Mamba is Granite 3 to llama.cpp, and Nemotron-H with experts an architecture of its own.
struct OtherArchitecture {
  std::string_view of, architecture;
  bool recurrent, experts;
};
constexpr OtherArchitecture kOthers[] = {{"granitehybrid", "granite", false, false},
                                         {"granitehybrid", "granitemoe", false, true},
                                         {"nemotron_h", "nemotron_h_moe", true, true}};

std::string_view architecture_name_of(const ModelConfig& model) {
  const std::string_view name = rules_of(model).architecture;
  for (const OtherArchitecture& other : kOthers) {
    if (other.of == name && other.recurrent == model.has_recurrent_blocks() &&
        other.experts == model.has_experts())
      return other.architecture;
  }
  return name;
}

class Describer {
 public:
  Describer(const Model& model, const GgufArchitecture& architecture, GgufMetadata& metadata)
      : m_(model.config()),
        checkpoint_(model.checkpoint()),
        config_(text_config(model.checkpoint())),
        rules_(rules_of(model.config())),
        name_(architecture.name),
        has_experts_(architecture.has_experts),
        metadata_(metadata) {}

  GgufHyperParameters run() {
    check();
    sizes();
    if (has_experts_) add_gguf_experts(m_, ConfigReader(config_), name_, metadata_, result_.notes);
    attention();
    if (name_ == "apertus") activation_numbers();
    const bool qwen = m_.family == "qwen2" || m_.family == "qwen3";
    add_gguf_ropes(m_, config_, name_, qwen ? qwen_default_theta(config_) : rules_.theta, metadata_, result_);
    return std::move(result_);
  }

 private:
  std::string key(std::string_view suffix) const { return fmt::format("{}.{}", name_, suffix); }
  bool is_granite() const { return name_.starts_with("granite"); }
  bool is_nemotron_h() const { return name_.starts_with("nemotron_h"); }

  void check() const {
    check_biases();
    check_mixers();
    if (m_.activation != rules_.activation) {
      bad_input("config.json: found the activation {}, expected {}: llama.cpp's {} knows no other",
                name_of(m_.activation), name_of(rules_.activation), name_);
    }
    check_layout();
    if (rules_.sliding_period <= 0) return;
    for (std::size_t i = 0; i < m_.blocks.size(); ++i) {
      const bool slides = (static_cast<std::int64_t>(i) + 1) % rules_.sliding_period != 0;
      if ((m_.blocks[i].attention_window > 0) != slides) {
        bad_input(
            "config.json: field 'layer_types': found {} attention in layer {}, expected full attention in "
            "every {}th layer and no other: llama.cpp's {} knows no other order",
            slides ? "full" : "sliding", i, rules_.sliding_period, name_);
      }
    }
    if (rules_.layers_of_27b == 0) return;
    const auto scaled_by = static_cast<double>(
        m_.num_layers() == rules_.layers_of_27b ? m_.hidden_size / m_.num_heads : m_.head_size);
    const ConfigReader c(config_);
    if (const double found = c.positive("query_pre_attn_scalar", 256.0); found != scaled_by) {
      bad_input("{}: found {}, expected {}: llama.cpp's {} with {} layers knows no other",
                c.where("query_pre_attn_scalar"), found, scaled_by, name_, m_.num_layers());
    }
  }

  [[noreturn]] void refuse(std::string_view field, std::string_view found, std::string_view reason) const {
    refuse_gguf_field(ConfigReader(config_), field, found, name_, reason);
  }

  // What llama.cpp knows of these architectures without being told.
  void check_layout() const {
    for (std::size_t i = 0; i < m_.blocks.size(); ++i) {
      const bool rotates = m_.blocks[i].rope >= 0;
      if (name_ == "smollm3" && rotates != ((i + 1) % 4 != 0)) {
        refuse("no_rope_layers", fmt::format("{} in layer {}", rotates ? 1 : 0, i),
               "every fourth layer has none");
      }
      const bool slides = m_.blocks[i].attention_window > 0;
      constexpr std::size_t kLayersOfExaone = 64;  // only so many layers may slide
      if (name_ == "exaone4" && slides && m_.blocks.size() != kLayersOfExaone) {
        refuse("layer_types", fmt::format("sliding_attention in layer {}", i),
               "only the 32B model of 64 layers slides");
      }
    }
    if (name_ == "mpt") check_mpt();
    if (name_ == "stablelm" && m_.parallel_residual)
      refuse("use_parallel_residual", "true", "the 12B model's layout");
    const bool needs_head = name_ == "olmo2" || name_ == "stablelm" || name_ == "phi2" || name_ == "olmoe" ||
                            name_ == "qwen2moe" || name_ == "gpt-oss";
    const bool needs_tied = name_ == "command-r" || name_ == "cohere2" || name_ == "gemma";
    if (const bool tied = m_.head == m_.embedding; (tied && needs_head) || (!tied && needs_tied)) {
      refuse("tie_word_embeddings", tied ? "true" : "false", "it has no other head");
    }
    const bool convolves = name_ == "lfm2" || name_ == "lfm2moe";
    if (convolves && config_.value("conv_bias", false)) refuse("conv_bias", "true", "it has none");
    if (convolves && !m_.has_recurrent_blocks())
      refuse("layer_types", "full_attention alone", "some of its layers are convolutions");
    const bool wide_heads = m_.num_heads * m_.head_size != m_.hidden_size;
    const bool needs_equal = name_ == "olmo" || name_ == "olmo2" || name_ == "exaone4" ||
                             name_ == "starcoder2" || name_ == "phi2" || name_ == "command-r" ||
                             name_ == "cohere2" || name_ == "olmoe" || name_ == "chatglm" ||
                             name_ == "qwen2moe" || convolves;
    if (wide_heads && needs_equal) {
      refuse("head_dim", std::to_string(m_.head_size), "its heads make up the hidden size");
    }
    if (m_.query_scaling && m_.ropes.front().magnitude != 1.0) {
      refuse("rope_parameters", "other mscale than mscale_all_dim", "it has one number for both");
    }
  }

  void check_mpt() const {
    if (std::abs(m_.attention_scale * std::sqrt(static_cast<float>(m_.head_size)) - 1.0f) > 1e-6f) {
      refuse("attn_config", fmt::format("softmax_scale {}", m_.attention_scale),
             "it scales by 1/sqrt(head size)");
    }
    if ((m_.num_heads & (m_.num_heads - 1)) != 0) {
      refuse("n_heads", std::to_string(m_.num_heads),
             "ALiBi's slopes of heads that are no power of two come in another order");
    }
  }

  void check_mixers() const {
    for (const BlockConfig& block : m_.blocks) {
      if (!block.has_state()) continue;
      if (const auto* mamba = std::get_if<Mamba2>(&block.mixer())) check_mamba(*mamba);
      const auto* net = std::get_if<GatedDeltaNet>(&block.mixer());
      if (net != nullptr && net->key_size != net->value_size) {
        refuse("linear_value_head_dim", std::to_string(net->value_size),
               fmt::format("it is linear_key_head_dim ({})", net->key_size));
      }
    }
    const auto rotates = [](const BlockConfig& block) { return block.rope >= 0; };
    if (name_ == "granitemoe" && !std::all_of(m_.blocks.begin(), m_.blocks.end(), rotates))
      refuse("position_embedding_type", "null", "it always rotates queries and keys");
  }

  void check_mamba(const Mamba2& mamba) const {
    if (mamba.convolution.bias.empty())
      refuse(is_nemotron_h() ? "use_conv_bias" : "mamba_conv_bias", "false", "its convolutions have biases");
    if (!mamba.norm.empty() && mamba.norm_before_gate)
      refuse("mamba_norm_before_gate", "true", "it norms behind the gate");
  }

  // llama.cpp's architectures have fixed biases, but for llama's, which may have any.
  void check_biases() const {
    const ConfigReader c(config_);
    for (const BlockConfig& block : m_.blocks) {
      const bool has_bias = block.attention_output.bias;
      if ((name_ == "qwen3" || name_ == "qwen3moe" || name_ == "olmoe") && has_bias) {
        bad_input("{}: found true, expected false: llama.cpp's {} has no biases", c.where("attention_bias"),
                  name_);
      }
      const bool plain = name_ == "olmo" || name_ == "olmo2" || name_ == "command-r" || name_ == "cohere2" ||
                         name_ == "gemma" || name_ == "smollm3" || name_ == "arcee";
      if (plain && (has_bias || block.down.bias)) {
        bad_input("{}: found true, expected false: llama.cpp's {} has no biases",
                  c.where(has_bias ? "attention_bias" : "mlp_bias"), name_);
      }
      if (name_ == "starcoder2" && !has_bias) {
        bad_input("{}: found false, expected true: llama.cpp's {} always has biases", c.where("use_bias"),
                  name_);
      }
      if ((name_ == "gptneox" || name_ == "gpt-oss") && !has_bias) {
        bad_input("{}: found false, expected true: llama.cpp's {} always has biases",
                  c.where("attention_bias"), name_);
      }
    }
  }

  void sizes() {
    metadata_.u32(key("vocab_size"), m_.vocab_size);
    metadata_.u32(key("context_length"), m_.max_positions);
    metadata_.u32(key("embedding_length"), m_.hidden_size);
    metadata_.u32(key("block_count"), m_.num_layers());
    const ExpertsConfig* experts = experts_of(m_);
    if (is_nemotron_h()) {  // 0: a mixer or attention
      return each_layer("feed_forward_length", [](const BlockConfig& block) {
        return block.experts ? block.experts->width : block.down.inputs;
      });
    }
    if (name_ == "gemma4" && widths_differ())
      return each_layer("feed_forward_length", [](const BlockConfig& block) { return block.down.inputs; });
    const std::int64_t width = is_granite() && experts != nullptr ? experts->width : m_.intermediate_size;
    by_layer("feed_forward_length", width, [](const BlockConfig& block) { return block.down.inputs; });
  }

  // One number, or one a layer where layers differ.
  template <class OfBlock>
  void by_layer(std::string_view suffix, std::int64_t number, const OfBlock& of_block) {
    if (!m_.has_layer_sizes) return metadata_.u32(key(suffix), number);
    each_layer(suffix, of_block);
  }
  template <class OfBlock>
  void each_layer(std::string_view suffix, const OfBlock& of_block) {
    std::vector<std::int32_t> numbers;
    for (const BlockConfig& block : m_.blocks) numbers.push_back(static_cast<std::int32_t>(of_block(block)));
    metadata_.i32s(key(suffix), numbers);
  }

  void attention() {
    by_layer("attention.head_count", m_.num_heads,
             [&](const BlockConfig& block) { return m_.heads_in(block); });
    const bool layer_norm = m_.norm == NormKind::kLayer;
    metadata_.f32(key(layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"),
                  double{m_.norm_eps});
    if (is_nemotron_h())
      metadata_.f32(key("attention.layer_norm_epsilon"), double{m_.norm_eps});  // read, too
    if (name_ == "gptneox" || name_ == "stablelm") {
      metadata_.boolean(key("use_parallel_residual"), m_.parallel_residual);
    }
    if (m_.blocks.front().latent) {
      add_gguf_latent_attention(m_, ConfigReader(config_), name_, metadata_);
    } else if (name_ != "gptneox" && name_ != "gpt2") {
      const auto kv_heads = [&](const BlockConfig& block) { return m_.kv_heads_in(block); };
      const bool lists_mixers = std::any_of(m_.blocks.begin(), m_.blocks.end(), [](const BlockConfig& block) {
        return block.recurrent && !std::holds_alternative<GatedDeltaNet>(*block.recurrent);
      });
      if (lists_mixers || is_nemotron_h() || (name_ == "gemma4" && key_heads_differ())) {
        each_layer("attention.head_count_kv", kv_heads);  // 0: another mixer
      } else {
        by_layer("attention.head_count_kv", m_.num_kv_heads, kv_heads);
      }
      if (name_ == "gemma4") {
        gemma4_attention();
      } else if (config_.contains("head_dim") || m_.has_layer_sizes || is_nemotron_h() ||
                 m_.num_heads * m_.head_size != m_.hidden_size) {
        metadata_.u32(key("attention.key_length"), m_.head_size);
        metadata_.u32(key("attention.value_length"), m_.head_size);
      }
    }
    scales();
    mixers();
    if (m_.attention_softcap > 0.0f) metadata_.f32(key("attn_logit_softcapping"), m_.attention_softcap);
    if (m_.final_softcap > 0.0f) metadata_.f32(key("final_logit_softcapping"), m_.final_softcap);
    std::int64_t window = 0;
    for (const BlockConfig& block : m_.blocks) window = std::max(window, block.attention_window);
    // gpt-oss has a window always; without layers that slide any will do.
    if (name_ == "gpt-oss" && window == 0) window = m_.max_positions;
    if (name_ == "gemma4" && window == 0) window = m_.max_positions;
    const bool listed = rules_.sliding_period == kListed && window > 0;
    if (rules_.sliding_period > 0 || name_ == "phi3" || listed) {
      metadata_.u32(key("attention.sliding_window"), window);
    }
    if (listed) {
      std::vector<std::uint8_t> slides;
      for (const BlockConfig& block : m_.blocks) slides.push_back(block.attention_window > 0 ? 1 : 0);
      metadata_.booleans(key("attention.sliding_window_pattern"), slides);
    }
    // What llama.cpp's own converter drops too; a window as long as the context changes nothing.
    if (rules_.sliding_period == 0 && window > 0 && window < m_.max_positions) {
      if (name_ == "smollm3")
        refuse("sliding_window", std::to_string(window),
               fmt::format("its layers see all positions (max_position_embeddings {})", m_.max_positions));
      result_.notes.push_back(
          fmt::format("llama.cpp's {} attends to all positions: the sliding window of {} tokens is not kept",
                      name_, window));
    }
  }

  void mixers() {
    const auto block =
        std::find_if(m_.blocks.begin(), m_.blocks.end(), [](const BlockConfig& b) { return b.has_state(); });
    if (block == m_.blocks.end()) return;
    const RecurrentMixer& mixer = block->mixer();
    const std::int64_t taps = convolution_of(mixer).taps;
    if (std::holds_alternative<ShortConvolution>(mixer)) return metadata_.u32(key("shortconv.l_cache"), taps);
    metadata_.u32(key("ssm.conv_kernel"), taps);
    if (const auto* mamba = std::get_if<Mamba2>(&mixer)) {
      ssm_sizes(mamba->heads, mamba->head_size, mamba->groups, mamba->state_size);
      constexpr float kUsual = 0.001f;
      if (mamba->least_step == 0.0f || mamba->least_step == kUsual) return;
      result_.notes.push_back(
          fmt::format("llama.cpp's {} keeps no time_step_min: found {}", name_, mamba->least_step));
    } else if (const auto* net = std::get_if<GatedDeltaNet>(&mixer)) {
      ssm_sizes(net->value_heads, net->value_size, net->key_heads, net->key_size);
      metadata_.u32(key("full_attention_interval"), attention_interval());
    }
  }

  void ssm_sizes(std::int64_t heads, std::int64_t head_size, std::int64_t groups, std::int64_t state) {
    metadata_.u32(key("ssm.inner_size"), heads * head_size);
    metadata_.u32(key("ssm.state_size"), state);
    metadata_.u32(key("ssm.time_step_rank"), heads);
    metadata_.u32(key("ssm.group_count"), groups);
  }

  // Every so manieth layer has attention; more than there are layers: none has.
  std::int64_t attention_interval() const {
    const auto first = std::find_if(m_.blocks.begin(), m_.blocks.end(),
                                    [](const BlockConfig& block) { return !block.recurrent; });
    const std::int64_t interval = first - m_.blocks.begin() + 1;
    for (std::int64_t i = 0; i < m_.num_layers(); ++i) {
      const bool attends = !m_.blocks[static_cast<std::size_t>(i)].recurrent;
      if (attends == ((i + 1) % interval == 0)) continue;
      refuse("layer_types", fmt::format("{} in layer {}", attends ? "full_attention" : "linear_attention", i),
             fmt::format("every {}th layer has attention, as the first one, and no other", interval));
    }
    return interval;
  }

  void scales() {
    if (is_granite()) {
      metadata_.f32(key("attention.scale"), double{m_.attention_scale});
      metadata_.f32(key("embedding_scale"), double{m_.embedding_scale});
      metadata_.f32(key("residual_scale"), double{m_.residual_scale});
      metadata_.f32(key("logit_scale"), ConfigReader(config_).positive("logits_scaling", 1.0));
    }
    if (name_ == "command-r" || name_ == "cohere2") metadata_.f32(key("logit_scale"), double{m_.logit_scale});
    if (name_ == "mpt") metadata_.f32(key("attention.max_alibi_bias"), 8.0);
    if ((name_ == "olmo" || name_ == "mpt") && m_.qkv_clip > 0.0f)
      metadata_.f32(key("attention.clamp_kqv"), double{m_.qkv_clip});
    if (m_.query_scaling) metadata_.f32(key("attention.temperature_scale"), double{m_.query_scaling->beta});
  }

  void activation_numbers() {
    std::vector<float> numbers[4];
    for (const BlockConfig& block : m_.blocks) {
      if (!block.xielu) refuse("hidden_act", name_of(m_.activation), "it knows xielu alone");
      const auto& x = *block.xielu;
      std::size_t next = 0;
      for (const std::string* name : {&x.alpha_n, &x.alpha_p, &x.beta, &x.eps})
        numbers[next++].push_back(checkpoint_.load_tensor(*name, checkpoint_.at(*name).shape).front());
    }
    std::size_t next = 0;
    for (const char* name : {"alpha_n", "alpha_p", "beta", "eps"})
      metadata_.f32s(gguf_fields::activation_key(name), numbers[next++]);
  }

  // ---- gemma4

  static bool slides(const BlockConfig& block) { return block.attention_window > 0; }
  bool widths_differ() const { return m_.blocks.front().down.inputs != m_.blocks.back().down.inputs; }
  bool key_heads_differ() const {
    return std::any_of(m_.blocks.begin(), m_.blocks.end(), [&](const BlockConfig& block) {
      return m_.kv_heads_in(block) != m_.kv_heads_in(m_.blocks.front());
    });
  }
  // The last layer is one.
  const BlockConfig& full_block() const { return m_.blocks.back(); }

  void gemma4_attention() {
    const std::int64_t full = m_.head_size_in(full_block());
    for (const char* part : {"key", "value"}) {
      metadata_.u32(key(fmt::format("attention.{}_length", part)), full);
      metadata_.u32(key(fmt::format("attention.{}_length_swa", part)), m_.head_size);
    }
    const auto takes = [](const BlockConfig& block) { return block.takes_keys(); };
    const auto shared = std::count_if(m_.blocks.begin(), m_.blocks.end(), takes);
    metadata_.u32(key("attention.shared_kv_layers"), shared);
    metadata_.u32(key("embedding_length_per_layer_input"),
                  m_.layer_embeddings ? m_.layer_embeddings->size : 0);
    if (shared == 0) return;
    // llama.cpp takes them from the last two layers that have their own: one that slides, and a full one behind it.
    const std::int64_t own = m_.num_layers() - shared;
    for (std::int64_t i = own; i < m_.num_layers(); ++i) {
      const bool sliding = slides(m_.blocks[static_cast<std::size_t>(i)]);
      const std::int64_t source = own - (sliding ? 2 : 1);
      if (source >= 0 && slides(m_.blocks[static_cast<std::size_t>(source)]) == sliding) continue;
      refuse(
          "num_kv_shared_layers", std::to_string(shared),
          fmt::format("layer {} would take its keys from layer {}, which is of the other kind", i, source));
    }
  }

  const ModelConfig& m_;
  const Checkpoint& checkpoint_;
  const Json& config_;
  const ArchitectureRules& rules_;
  std::string_view name_;
  bool has_experts_;
  GgufMetadata& metadata_;
  GgufHyperParameters result_;
};

}  // namespace

const GgufArchitecture& gguf_architecture_for(const ModelConfig& model) {
  // llama.cpp's deci is its llama with numbers of heads and channels for each layer.
  constexpr std::string_view kLayered = "llama", kLayeredArchitecture = "deci";
  std::string_view name = architecture_name_of(model);
  const bool with_experts = model.has_experts();
  if (model.has_layer_sizes) {
    if (name != kLayered || with_experts) {
      bad_input(
          "config.json: field '{}': found the family {}, all of whose layers have one size in llama.cpp; "
          "export takes layers of different sizes of llama and mistral, else shrink without --non-uniform",
          kLayerSizesField, model.family);
    }
    name = kLayeredArchitecture;
  }
  // Its architecture of experts may be all that there is; a family may have its own names in one of others.
  const auto fits = [&](const GgufArchitecture& architecture) {
    return 2 * (architecture.has_experts == with_experts) + (architecture.model_type == model.family);
  };
  const GgufArchitecture* found = nullptr;
  for (const GgufArchitecture& architecture : gguf_architectures()) {
    if (architecture.name == name && (found == nullptr || fits(architecture) > fits(*found))) {
      found = &architecture;
    }
  }
  if (found != nullptr) return *found;
  expect(false, "kRules: architectures of gguf_architectures()");
  return gguf_architectures().front();
}

std::vector<std::string_view> gguf_architecture_names(std::string_view family) {
  std::vector<std::string_view> names;
  for (const ArchitectureRules& rules : kRules) {
    if (rules.family != family) continue;
    names.push_back(rules.architecture);
    for (const OtherArchitecture& other : kOthers) {
      if (other.of == rules.architecture) names.push_back(other.architecture);
    }
  }
  return names;
}

const nlohmann::json& text_config(const Checkpoint& checkpoint) {
  const auto text = checkpoint.config().find("text_config");
  return text == checkpoint.config().end() ? checkpoint.config() : *text;
}

void refuse_gguf_field(const ConfigReader& config, std::string_view field, std::string_view found,
                       std::string_view architecture, std::string_view reason) {
  bad_input("{}: found {}, which llama.cpp's {} cannot hold: {}", config.where(field), found, architecture,
            reason);
}

GgufHyperParameters add_gguf_hyper_parameters(const Model& model, const GgufArchitecture& architecture,
                                              GgufMetadata& metadata) {
  return Describer(model, architecture, metadata).run();
}

}  // namespace swiftprune
