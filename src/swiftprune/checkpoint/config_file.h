// config.json as it stands in the file, for those who write it again with a change.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/checkpoint.h"

namespace swiftprune {

// Fields in the file's own order. The file has been checked when the checkpoint was opened.
nlohmann::ordered_json read_config_file(const Checkpoint& checkpoint);

// A packed model's config.json names a type that no other program knows, so that each refuses the folder instead of making
// up the weights that it does not find; the model's own type stands in kPackedModelType. What reads a config.json here sees
// the model's own type again.
inline constexpr const char* kPackedType = "swiftprune_packed";
inline constexpr const char* kPackedModelType = "packed_model_type";

template <class Json>
void name_packed_type(Json& config) {
  config[kPackedModelType] = config.value("model_type", "");
  config["model_type"] = kPackedType;
}
// Whether it was one.
template <class Json>
bool restore_model_type(Json& config) {
  const auto type = config.find("model_type");
  if (type == config.end() || *type != kPackedType) return false;
  const auto own = config.find(kPackedModelType);
  if (own == config.end() || !own->is_string()) return false;  // no family has that name
  *type = own->template get<std::string>();
  config.erase(kPackedModelType);
  return true;
}

}  // namespace swiftprune
