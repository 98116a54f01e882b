// Arbitrary bytes as a config.json; the first byte chooses the family that it is of.
#include "fuzz_folder.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/rope.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftprune;
  if (size == 0) return 0;
  try {
    nlohmann::json config = parse_json(fuzz::text(data + 1, size - 1), "config.json");
    if (!config.is_object()) return 0;
    const auto families = all_families();
    config["model_type"] = families[data[0] % families.size()].model_types[0];
    std::vector<std::string> notes;
    const ModelConfig model = model_config(config, &notes);
    for (const RopeConfig& rope : model.ropes) make_rope_table(rope, 4);
  } catch (const Error&) {
  }
  return 0;
}
