// The text model of folders that also see or hear: config.json holds it in "text_config" (or, before transformers 4.52,
// among its own fields), and its tensors stand under a name of their own beside those of the other parts.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace swiftprune {

struct TextTower {
  std::string_view model_type;  // of the whole
  std::string_view text_type;   // of the text model, where text_config does not say it
  std::string_view body, head;  // what stands for "model." and "lm_head." of a text model alone
  bool tied = false;  // what the whole's class says of tied embeddings where its config.json does not
};
std::span<const TextTower> text_towers();
// Null for a text model alone.
const TextTower* text_tower_of(const nlohmann::json& config);

// The text model's own configuration: config itself for one alone. Embeddings are tied where the whole or the text says
// so. Throws Error{kBadInput} where text_config is no object.
nlohmann::json text_model_config(const nlohmann::json& config);
// Is it in an object of its own?
bool has_text_config(const nlohmann::json& config);

// "language_model.model.norm.weight" as the text model alone has it, "model.norm.weight"; nothing for a tensor of
// another part. And back.
std::optional<std::string> text_tensor_name(const TextTower& tower, std::string_view name);
std::string tower_tensor_name(const TextTower& tower, std::string_view text_name);

}  // namespace swiftprune
