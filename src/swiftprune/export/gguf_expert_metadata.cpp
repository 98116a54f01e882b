#include "swiftprune/export/gguf_expert_metadata.h"

#include <algorithm>

#include "swiftprune/core/error.h"
#include "swiftprune/export/gguf_metadata.h"
#include "swiftprune/model/experts_config.h"

namespace swiftprune {
namespace {

// What each of llama.cpp's architectures computes, whatever the file says.
struct RouterRules {
  std::string_view architecture;
  bool renormalised = true;  // where it is fixed
  bool has_router_fields =
      false;  // expert_gating_func, _weights_norm, _weights_scale, groups, dense blocks in front
  bool has_dense_blocks = false;  // in front, where it has none of the other fields
  bool width_is_mlps = false;     // the experts' is feed_forward_length
  bool names_shared_width = false;
};
constexpr RouterRules kRouters[] = {
    {.architecture = "llama", .width_is_mlps = true},
    {.architecture = "qwen2moe", .renormalised = false, .names_shared_width = true},
    {.architecture = "qwen3moe"},
    {.architecture = "olmoe", .renormalised = false, .width_is_mlps = true},
    {.architecture = "gpt-oss"},
    {.architecture = "glm4moe", .has_router_fields = true},
    {.architecture = "deepseek2", .has_router_fields = true},
    {.architecture = "lfm2moe", .has_dense_blocks = true},
    {.architecture = "granitemoe", .width_is_mlps = true, .names_shared_width = true},
    {.architecture = "granitehybrid", .width_is_mlps = true, .names_shared_width = true},
    {.architecture = "qwen35moe", .names_shared_width = true},
    {.architecture = "qwen3next", .names_shared_width = true},
    {.architecture = "nemotron_h_moe", .names_shared_width = true},
};

class ExpertDescriber {
 public:
  ExpertDescriber(const ModelConfig& model, const ConfigReader& config, std::string_view architecture,
                  GgufMetadata& metadata, std::vector<std::string>& notes)
      : m_(model),
        config_(config),
        name_(architecture),
        experts_(*experts_of(model)),
        rules_(*std::find_if(std::begin(kRouters), std::end(kRouters),
                             [&](const RouterRules& rules) { return rules.architecture == architecture; })),
        metadata_(metadata),
        notes_(notes) {}

  void run() {
    check_blocks();
    check_router();
    if (name_ == "gpt-oss") check_gpt_oss();
    if (name_ == "olmoe" && m_.qkv_clip > 0.0f) {
      refuse("clip_qkv", fmt::format("{}", m_.qkv_clip), "it keeps no clip of queries, keys and values");
    }
    if (name_ == "olmoe" && m_.num_kv_heads != m_.num_heads) {
      refuse("num_key_value_heads", std::to_string(m_.num_kv_heads), "it has as many as num_attention_heads");
    }
    numbers();
    if (rules_.has_router_fields) router_fields();
    if (name_ == "lfm2moe") lfm2_fields();
    if (name_ == "nemotron_h_moe") nemotron_fields();
  }

 private:
  std::string key(std::string_view suffix) const { return fmt::format("{}.{}", name_, suffix); }
  [[noreturn]] void refuse(std::string_view field, std::string_view found, std::string_view reason) const {
    refuse_gguf_field(config_, field, found, name_, reason);
  }

  void lfm2_fields() {
    const RouterConfig& router = experts_.router;
    if (router.scale != 1.0f) {
      refuse("routed_scaling_factor", fmt::format("{}", router.scale),
             "its weights of experts are not scaled");
    }
    if (router.correction_bias.empty()) refuse("use_expert_bias", "false", "it always has the bias");
    metadata_.u32(key("leading_dense_block_count"), dense_blocks());
    metadata_.u32(key("expert_gating_func"), 2);  // sigmoid
  }

  void nemotron_fields() {
    const RouterConfig& router = experts_.router;
    if (router.num_groups > 1) refuse("n_group", std::to_string(router.num_groups), "it ranks no groups");
    metadata_.u32(key("expert_shared_count"), 1);
    metadata_.u32(key("expert_group_count"), 1);
    metadata_.f32(key("expert_weights_scale"), double{router.scale});
    metadata_.boolean(key("expert_weights_norm"), router.renormalised);
  }

  // Of the expert that every token uses; 0: there is none.
  std::int64_t shared_width() const {
    return m_.blocks[static_cast<std::size_t>(dense_blocks())].down.inputs;
  }

  // The dense blocks in front.
  std::int64_t dense_blocks() const {
    const auto first = std::find_if(m_.blocks.begin(), m_.blocks.end(),
                                    [](const BlockConfig& b) { return b.experts.has_value(); });
    return first - m_.blocks.begin();
  }

  void check_blocks() const {
    for (std::int64_t i = 0; i < m_.num_layers(); ++i) {
      const BlockConfig& block = m_.blocks[static_cast<std::size_t>(i)];
      const bool may_be_dense = rules_.has_router_fields || rules_.has_dense_blocks;
      const bool in_front = may_be_dense && i < dense_blocks();
      if (!block.has_mlp()) continue;
      if (!block.experts && !in_front) {
        const char* field = name_.starts_with("qwen")       ? "decoder_sparse_step"
                            : name_.starts_with("nemotron") ? "layers_block_type"
                                                            : "first_k_dense_replace";
        refuse(field, fmt::format("no experts in layer {}", i),
               may_be_dense ? "only the first layers are dense" : "all its layers have experts");
      }
      if (block.experts && block.experts->count != experts_.count) {
        refuse(
            experts_.count_field,
            fmt::format("{} experts in layer {} and {} in another", block.experts->count, i, experts_.count),
            "it has one number for all layers");
      }
      if (block.experts && rules_.has_router_fields) check_shared(block);
    }
  }

  void check_shared(const BlockConfig& block) const {
    if (block.up.empty()) refuse("n_shared_experts", "0", "it always has a shared expert");
    if (block.down.inputs % experts_.width != 0) {
      refuse("moe_intermediate_size", std::to_string(experts_.width),
             fmt::format("the shared expert's {} channels are no multiple of it", block.down.inputs));
    }
  }

  void check_router() const {
    const RouterConfig& router = experts_.router;
    if (rules_.has_router_fields) {
      if (router.num_groups > 1 && router.top_groups >= router.num_groups) {
        refuse("topk_group", std::to_string(router.top_groups),
               fmt::format("it is to be fewer than the {} groups", router.num_groups));
      }
      return;
    }
    if (name_ == "nemotron_h_moe") return;
    if (router.renormalised != rules_.renormalised) {
      refuse("norm_topk_prob", router.renormalised ? "true" : "false",
             fmt::format("its weights of experts are {}renormalised", rules_.renormalised ? "" : "not "));
    }
  }

  void check_gpt_oss() const {
    const ClampedSwiglu usual;
    if (experts_.clamped->alpha != usual.alpha) {
      refuse("swiglu_alpha", fmt::format("{}", experts_.clamped->alpha),
             fmt::format("it is {}", usual.alpha));
    }
    if (experts_.clamped->limit != usual.limit) {
      refuse("swiglu_limit", fmt::format("{}", experts_.clamped->limit),
             fmt::format("it is {}", usual.limit));
    }
  }

  void numbers() {
    metadata_.u32(key("expert_count"), experts_.count);
    metadata_.u32(key("expert_used_count"), experts_.router.top_k);
    if (!rules_.width_is_mlps) metadata_.u32(key("expert_feed_forward_length"), experts_.width);
    if (rules_.names_shared_width && shared_width() > 0)
      metadata_.u32(key("expert_shared_feed_forward_length"), shared_width());
  }

  void router_fields() {
    const RouterConfig& router = experts_.router;
    metadata_.u32(key("leading_dense_block_count"), dense_blocks());
    metadata_.u32(key("expert_shared_count"), shared_width() / experts_.width);
    metadata_.u32(key("expert_gating_func"), router.score == RouterScore::kSigmoid ? 2 : 1);
    metadata_.f32(key("expert_weights_scale"), double{router.scale});
    metadata_.boolean(key("expert_weights_norm"), router.renormalised);
    if (router.num_groups <= 1) return;
    metadata_.u32(key("expert_group_count"), router.num_groups);
    metadata_.u32(key("expert_group_used_count"), router.top_groups);
    if (router.group_score == GroupScore::kBestTwo) return;
    notes_.push_back(
        fmt::format("llama.cpp's {} ranks groups of experts by the sum of their best two scores instead "
                    "of the best one: some tokens will use other experts",
                    name_));
  }

  const ModelConfig& m_;
  const ConfigReader& config_;
  std::string_view name_;
  const ExpertsConfig& experts_;
  const RouterRules& rules_;
  GgufMetadata& metadata_;
  std::vector<std::string>& notes_;
};

}  // namespace

void add_gguf_experts(const ModelConfig& model, const ConfigReader& config, std::string_view architecture,
                      GgufMetadata& metadata, std::vector<std::string>& notes) {
  if (!model.has_experts()) {
    bad_input("{}: found no layer with experts, which llama.cpp's {} cannot hold",
              config.where("first_k_dense_replace"), architecture);
  }
  ExpertDescriber(model, config, architecture, metadata, notes).run();
}

void add_gguf_latent_attention(const ModelConfig& m, const ConfigReader& config, std::string_view name,
                               GgufMetadata& metadata) {
  const BlockConfig& block = m.blocks.front();
  const LatentAttention& latent = *block.latent;
  const auto key = [&](std::string_view suffix) { return fmt::format("{}.attention.{}", name, suffix); };
  const auto refuse = [&](std::string_view field, std::string_view found, std::string_view reason) {
    bad_input("{}: found {}, which llama.cpp's {} cannot hold: {}", config.where(field), found, name, reason);
  };
  if (!latent.rotates_neighbours) refuse("rope_interleave", "false", "it rotates neighbours");
  if (block.attention_output.bias) refuse("attention_bias", "true", "it has no biases");
  if (m.ropes.front().magnitude != 1.0) {
    refuse("rope_parameters", "yarn with another mscale than mscale_all_dim", "it has one number for both");
  }
  // It knows models whose queries are one linear by their number of layers, and reads no rank for those.
  constexpr std::int64_t kKanana = 48, kVocabularyOfKanana = 128256;
  const bool lite = m.num_layers() == 26 || m.num_layers() == 27 ||
                    (m.num_layers() == kKanana && m.vocab_size == kVocabularyOfKanana);
  if (lite && latent.query_rank > 0) {
    refuse("q_lora_rank", std::to_string(latent.query_rank),
           fmt::format("in models of {} layers queries are one linear", m.num_layers()));
  }
  metadata.u32(key("head_count_kv"), 1);
  metadata.u32(key("q_lora_rank"),
               latent.query_rank);  // 0: read so where the number of layers does not say it
  metadata.u32(key("kv_lora_rank"), latent.rank);
  metadata.u32(key("key_length"), latent.rank + latent.rotary_size);
  metadata.u32(key("value_length"), latent.rank);
  metadata.u32(key("key_length_mla"), latent.plain_size + latent.rotary_size);
  metadata.u32(key("value_length_mla"), latent.value_size);
}

}  // namespace swiftprune
