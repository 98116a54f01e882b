#include "swiftprune/ranks/same_on_ranks.h"

#include <string>

#include "swiftprune/core/error.h"

namespace swiftprune {

void check_same_on_ranks(Communicator& ranks, const nlohmann::ordered_json& values) {
  std::string text = values.dump();
  broadcast_text(ranks, 0, text);
  const auto first = nlohmann::ordered_json::parse(text);
  for (const auto& [key, value] : values.items()) {
    if (first.contains(key) && first[key] == value) continue;
    bad_usage("found another {} than the first rank has; all need the same program, command, model and text",
              key);
  }
}

}  // namespace swiftprune
