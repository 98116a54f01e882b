#include "swiftprune/checkpoint/text_tower.h"

#include <algorithm>
#include <array>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

constexpr std::string_view kBody = "model.", kHead = "lm_head.", kTextConfig = "text_config";
constexpr std::string_view kTied = "tie_word_embeddings";

// As the files on the hub name them.
constexpr std::string_view kLanguageBody = "language_model.model.", kLanguageHead = "language_model.lm_head.";
constexpr std::array kTowers = {
    TextTower{"gemma3", "gemma3_text", kLanguageBody, kLanguageHead, true},
    TextTower{"gemma4", "gemma4_text", "model.language_model.", kHead, true},
    TextTower{"mistral3", "mistral", kLanguageBody, kLanguageHead, true},
    TextTower{"llava", "llama", kLanguageBody, kLanguageHead},
    TextTower{"llava_next", "llama", kLanguageBody, kLanguageHead},
    TextTower{"internvl", "qwen2", kLanguageBody, kLanguageHead, true},
    TextTower{"aya_vision", "cohere2", kLanguageBody, kLanguageHead, true},
    TextTower{"qwen2_vl", "qwen2_vl_text", kBody, kHead},
    TextTower{"qwen2_5_vl", "qwen2_5_vl_text", kBody, kHead},
    TextTower{"qwen3_vl", "qwen3_vl_text", "model.language_model.", kHead},
    TextTower{"qwen3_5", "qwen3_5_text", "model.language_model.", kHead},
    TextTower{"qwen3_5_moe", "qwen3_5_moe_text", "model.language_model.", kHead},
    TextTower{"idefics3", "llama", "model.text_model.", kHead},
    TextTower{"smolvlm", "llama", "model.text_model.", kHead},
};

}  // namespace

std::span<const TextTower> text_towers() { return kTowers; }

const TextTower* text_tower_of(const nlohmann::json& config) {
  const auto type = config.find("model_type");
  if (type == config.end() || !type->is_string()) return nullptr;
  const auto tower = std::find_if(kTowers.begin(), kTowers.end(), [&](const TextTower& t) {
    return t.model_type == type->get_ref<const std::string&>();
  });
  // Gemma 3's own name has also been that of the text model alone.
  if (tower == kTowers.end() || (tower->model_type == "gemma3" && !has_text_config(config))) return nullptr;
  return &*tower;
}

bool has_text_config(const nlohmann::json& config) {
  const auto text = config.find(kTextConfig);
  return text != config.end() && !text->is_null();
}

nlohmann::json text_model_config(const nlohmann::json& config) {
  const TextTower* tower = text_tower_of(config);
  if (tower == nullptr) return config;
  nlohmann::json text = config;
  if (has_text_config(config)) {
    text = config.at(kTextConfig);
    if (!text.is_object()) {
      bad_input("config.json: field '{}': found {}, expected an object", kTextConfig, json_excerpt(text));
    }
    const auto outer = config.find(kTied);
    const nlohmann::json tied =
        outer == config.end() || outer->is_null() ? nlohmann::json(tower->tied) : *outer;
    if (!text.contains(kTied) || text.at(kTied) == false) text[kTied] = tied;
    if (!text.contains("model_type")) text["model_type"] = tower->text_type;
  } else {
    text["model_type"] = tower->text_type;
  }
  return text;
}

std::optional<std::string> text_tensor_name(const TextTower& tower, std::string_view name) {
  if (name.starts_with(tower.body)) return fmt::format("{}{}", kBody, name.substr(tower.body.size()));
  if (name.starts_with(tower.head)) return fmt::format("{}{}", kHead, name.substr(tower.head.size()));
  return std::nullopt;
}

std::string tower_tensor_name(const TextTower& tower, std::string_view name) {
  if (name.starts_with(kBody)) return fmt::format("{}{}", tower.body, name.substr(kBody.size()));
  if (name.starts_with(kHead)) return fmt::format("{}{}", tower.head, name.substr(kHead.size()));
  return std::string(name);
}

}  // namespace swiftprune
