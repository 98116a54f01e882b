#include "swiftprune/export/gguf_ropes.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <utility>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

using Json = nlohmann::json;

// The rotary embedding's fields in either spelling of transformers.
struct RopeFields {
  double theta = 10000.0;
  std::optional<double> local_theta;  // of sliding layers, where they have their own
  std::string local_type = "default";
  Json scaling;  // an object or null
};

// Llama 3's factors of the wavelengths: transformers' rope type "llama3".
std::vector<float> llama3_factors(const ConfigReader& scaling, double theta, std::int64_t head_size) {
  const double factor = scaling.positive("factor");
  const double low = scaling.positive("low_freq_factor"), high = scaling.positive("high_freq_factor");
  const double original = scaling.positive("original_max_position_embeddings");
  std::vector<float> factors;
  for (std::int64_t i = 0; i < head_size / 2; ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head_size);
    const double turns = original / (2.0 * std::numbers::pi * std::pow(theta, exponent));
    const double smooth = (turns - low) / (high - low);
    factors.push_back(static_cast<float>(turns < low    ? factor
                                         : turns > high ? 1.0
                                                        : 1.0 / ((1.0 - smooth) / factor + smooth)));
  }
  return factors;
}

class RopeDescriber {
 public:
  RopeDescriber(const ModelConfig& model, const Json& config, std::string_view architecture,
                double default_theta, GgufMetadata& metadata, GgufHyperParameters& result)
      : m_(model),
        config_(config),
        name_(architecture),
        default_theta_(default_theta),
        metadata_(metadata),
        result_(result) {}

  void run() {
    if (m_.ropes.empty()) return;
    const RopeFields fields = read_fields();
    if (name_ == "gemma4") return gemma4_rope(fields);
    const double fraction = 2.0 * static_cast<double>(m_.ropes.back().inverse_frequency.size()) /
                            static_cast<double>(m_.head_size);
    metadata_.u32(key("rope.dimension_count"),
                  static_cast<std::int64_t>(std::lround(fraction * static_cast<double>(m_.head_size))));
    metadata_.f32(key("rope.freq_base"), fields.theta);
    if (m_.family == "granitemoehybrid") {
      const bool rotates = std::any_of(m_.blocks.begin(), m_.blocks.end(), [](const BlockConfig& block) {
        return !block.recurrent && block.rope >= 0;
      });
      metadata_.boolean(key("rope.scaling.finetuned"), rotates);  // llama.cpp's switch
    }
    if (name_ == "qwen35" || name_ == "qwen35moe") rope_sections(fields.scaling);
    if (fields.local_theta) local_theta(fields);
    if (name_ == "phi3") {
      const ConfigReader c(config_);
      metadata_.u32(key("rope.scaling.original_context_length"),
                    c.integer("original_max_position_embeddings", 4096));
    }
    if (name_ == "gpt-oss" && !fields.scaling.is_object() && !config_.contains("rope_parameters")) {
      const Json usual = {{"rope_type", "yarn"},
                          {"factor", 32.0},
                          {"original_max_position_embeddings", 4096},
                          {"truncate", false}};  // what an absent field means to transformers' class
      return scale(ConfigReader(usual, "rope_scaling."), "yarn", fields.theta);
    }
    if (name_ == "apertus" && !fields.scaling.is_object() && !config_.contains("rope_parameters")) {
      const Json usual = {{"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 8192}};  // likewise
      return scale(ConfigReader(usual, "rope_scaling."), "llama3", fields.theta);
    }
    if (!fields.scaling.is_object()) return;
    const ConfigReader scaling(fields.scaling, "rope_scaling.");
    scale(scaling, scaling.text("rope_type", scaling.text("type", "default")), fields.theta);
  }

 private:
  std::string key(std::string_view suffix) const { return fmt::format("{}.{}", name_, suffix); }

  [[noreturn]] void refuse(std::string_view found, std::string_view reason) const {
    refuse_gguf_field(ConfigReader(config_), "rope_parameters", found, name_, reason);
  }

  RopeFields read_fields() const {
    RopeFields rope;
    const ConfigReader c(config_);
    // Other names: GPT-NeoX, LFM2.
    rope.theta = c.positive("rope_theta", c.positive("rotary_emb_base", c.positive("theta", default_theta_)));
    const bool slides = std::any_of(m_.blocks.begin(), m_.blocks.end(),
                                    [](const BlockConfig& block) { return block.rope == kSlidingRope; });
    if (m_.ropes.size() > 1 && slides) {
      const double usual = name_.starts_with("gemma") ? 10000.0 : default_theta_;
      rope.local_theta = c.positive("rope_local_base_freq", usual);
    }
    if (c.has("rope_scaling")) rope.scaling = c.child("rope_scaling").object();
    if (!c.has("rope_parameters")) return rope;
    const ConfigReader parameters = c.child("rope_parameters");
    if (parameters.has("sliding_attention") || parameters.has("full_attention")) {
      rope.scaling = nullptr;
      if (parameters.has("full_attention")) rope.scaling = parameters.child("full_attention").object();
    } else {
      rope.scaling = parameters.object();
    }
    if (rope.scaling.is_object()) rope.theta = ConfigReader(rope.scaling).positive("rope_theta", rope.theta);
    if (rope.local_theta && parameters.has("sliding_attention")) {
      const ConfigReader sliding = parameters.child("sliding_attention");
      rope.local_theta = sliding.positive("rope_theta", rope.local_theta);
      rope.local_type = sliding.text("rope_type", rope.local_type);
    }
    return rope;
  }

  // Of sliding layers: gemma3 has a base of their own, of 10000 where the file says nothing; all others have one for all.
  void local_theta(const RopeFields& fields) {
    if (fields.local_type != "default")
      refuse(fmt::format("{} in sliding layers", fields.local_type), "it scales full ones");
    if (name_ != "gemma3") {
      if (*fields.local_theta == fields.theta) return;
      refuse(fmt::format("rope_theta {} of sliding layers", *fields.local_theta),
             fmt::format("they turn by the base of the others ({})", fields.theta));
    }
    if (*fields.local_theta != 10000.0) metadata_.f32(key("rope.freq_base_swa"), *fields.local_theta);
  }

  void gemma4_rope(const RopeFields& fields) {
    const BlockConfig& last = m_.blocks.back();  // a full layer
    const std::int64_t full = m_.head_size_in(last);
    const RopeConfig& rope = m_.ropes[static_cast<std::size_t>(last.rope)];
    metadata_.u32(key("rope.dimension_count"), full);
    metadata_.u32(key("rope.dimension_count_swa"), m_.head_size);
    metadata_.f32(key("rope.freq_base"), fields.theta);
    metadata_.f32(key("rope.freq_base_swa"), fields.local_theta.value_or(10000.0));
    const auto turns = [&](const RopeConfig& found, std::int64_t pair, double theta, std::int64_t size) {
      const double expected = std::pow(theta, -2.0 * static_cast<double>(pair) / static_cast<double>(size));
      return static_cast<std::size_t>(pair) < found.inverse_frequency.size() &&
             std::abs(double{found.inverse_frequency[static_cast<std::size_t>(pair)]} - expected) <=
                 1e-5 * expected;
    };
    for (const BlockConfig& block : m_.blocks) {
      const RopeConfig& own = m_.ropes[static_cast<std::size_t>(block.rope)];
      for (std::int64_t pair = 0; block.attention_window > 0 && pair < m_.head_size / 2; ++pair) {
        if (!turns(own, pair, fields.local_theta.value_or(10000.0), m_.head_size))
          refuse("a scaling of sliding layers", "they turn whole heads by one base");
      }
    }
    // Full layers turn the first pairs alone: the others' frequencies are divided by a number that leaves none.
    constexpr float kNone = 1e30f;
    std::vector<float> table;
    for (std::int64_t pair = 0; pair < full / 2; ++pair) {
      const bool still = static_cast<std::size_t>(pair) >= rope.inverse_frequency.size() ||
                         rope.inverse_frequency[static_cast<std::size_t>(pair)] == 0.0f;
      if (!still && (!turns(rope, pair, fields.theta, full) || (!table.empty() && table.back() == kNone)))
        refuse("another rope than proportional", "full layers turn the first pairs of a head");
      table.push_back(still ? kNone : 1.0f);
    }
    result_.tables.push_back({"rope_freqs.weight", std::move(table)});
  }

  // Which pairs turn by which coordinate of an image; text has one.
  void rope_sections(const Json& rope) {
    std::vector<std::int32_t> sections = {11, 11, 10};  // transformers' own
    if (rope.is_object() && rope.contains("mrope_section")) {
      sections.clear();
      for (const double n : ConfigReader(rope, "rope_parameters.").numbers("mrope_section"))
        sections.push_back(static_cast<std::int32_t>(n));
    }
    sections.resize(4);
    metadata_.i32s(key("rope.dimension_sections"), sections);
  }

  void scale(const ConfigReader& scaling, const std::string& type, double theta) {
    if (type == "default") return;
    if (type == "llama3" && (name_ == "llama" || name_ == "deci" || name_ == "exaone4" ||
                             name_ == "apertus" || name_.starts_with("granite"))) {
      result_.tables.push_back({"rope_freqs.weight", llama3_factors(scaling, theta, m_.head_size)});
    } else if (type == "longrope" && name_ == "phi3") {
      long_rope(scaling);
    } else if (type == "linear" || type == "yarn") {
      metadata_.text(key("rope.scaling.type"), type);
      metadata_.f32(key("rope.scaling.factor"), scaling.positive("factor"));
      if (type == "linear") return;
      const bool has_multiplier = name_ == "mistral3" || name_ == "deepseek2";
      if (has_multiplier && scaling.has("mscale_all_dim")) {
        // A tenth of it for deepseek2, as llama.cpp's converter has always written it.
        metadata_.f32(key("rope.scaling.yarn_log_multiplier"),
                      (name_ == "deepseek2" ? 0.1 : 1.0) * scaling.positive("mscale_all_dim"));
      }
      for (const char* field : {"attention_factor", "mscale", "mscale_all_dim"}) {
        const bool is_factor = std::string_view(field) == "attention_factor";
        if (scaling.has(field) && (!has_multiplier || is_factor)) {
          // What yarn computes anyway may be written out, as OLMo 3's folders do.
          const double usual = 0.1 * std::log(scaling.positive("factor")) + 1.0;
          if (is_factor && std::abs(scaling.positive(field) - usual) <= 1e-6) continue;
          bad_input("{}: GGUF has no place for it", scaling.where(field));
        }
      }
      metadata_.u32(key("rope.scaling.original_context_length"),
                    scaling.integer("original_max_position_embeddings", m_.max_positions));
      if (!scaling.boolean("truncate", true) && name_ == "gpt-oss") {
        result_.notes.push_back(
            "llama.cpp's gpt-oss rounds the bounds between yarn's frequencies, as its own converter lets it: "
            "config.json's truncate is false");
      } else if (!scaling.boolean("truncate", true)) {
        bad_input("{}: found false, expected true: llama.cpp's yarn always rounds",
                  scaling.where("truncate"));
      }
      for (const auto& [beta, usual] : {std::pair{"beta_fast", 32.0}, std::pair{"beta_slow", 1.0}}) {
        if (!scaling.has(beta)) continue;
        const double value = scaling.positive(beta);
        metadata_.f32(key(fmt::format("rope.scaling.yarn_{}", beta)), value);
        if (value == usual) continue;
        result_.notes.push_back(
            fmt::format("llama.cpp's {} may compute yarn with {} {} instead of the file's {}, as its own "
                        "converter drops it",
                        name_, beta, usual, value));
      }
    } else {
      bad_input("{}: found {}, which llama.cpp's {} cannot hold", scaling.where("rope_type"), type, name_);
    }
  }

  void long_rope(const ConfigReader& scaling) {
    const auto table = [&](const char* field, const char* name) {
      const std::vector<double> factors = scaling.numbers(field);
      result_.tables.push_back({name, {factors.begin(), factors.end()}});
    };
    table("long_factor", "rope_factors_long.weight");
    table("short_factor", "rope_factors_short.weight");
    metadata_.f32(key("rope.scaling.attn_factor"), m_.ropes.front().magnitude);
  }

  const ModelConfig& m_;
  const Json& config_;
  std::string_view name_;
  double default_theta_;
  GgufMetadata& metadata_;
  GgufHyperParameters& result_;
};

}  // namespace

void add_gguf_ropes(const ModelConfig& model, const Json& config, std::string_view architecture,
                    double default_theta, GgufMetadata& metadata, GgufHyperParameters& result) {
  RopeDescriber(model, config, architecture, default_theta, metadata, result).run();
}

}  // namespace swiftprune
