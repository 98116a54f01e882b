#include "swiftprune/checkpoint/config_file.h"

#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/core/python_json.h"

namespace swiftprune {

nlohmann::ordered_json read_config_file(const Checkpoint& checkpoint) {
  const MappedFile file(checkpoint.folder() / "config.json");
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  const auto spelled = with_spelled_floats(text);
  auto config = nlohmann::ordered_json::parse(spelled ? *spelled : text);
  restore_model_type(config);
  return config;
}

}  // namespace swiftprune
