#include "swiftprune/checkpoint/config_file.h"

#include "swiftprune/checkpoint/mapped_file.h"

namespace swiftprune {

nlohmann::ordered_json read_config_file(const Checkpoint& checkpoint) {
  const MappedFile file(checkpoint.folder() / "config.json");
  return nlohmann::ordered_json::parse(
      std::string_view(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()));
}

}  // namespace swiftprune
