#include "swiftprune/api/job_options.h"

#include <vector>

namespace swiftprune {
namespace {

using nlohmann::ordered_json;

std::string text_of(const ordered_json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

void append(const std::string& name, const ordered_json& value, std::vector<std::string>& arguments) {
  if (!value.is_array()) {
    arguments.push_back("--" + name);
    if (!value.is_boolean()) arguments.push_back(text_of(value));
    return;
  }
  for (const ordered_json& one : value) {
    if (!one.is_array()) {
      append(name, one, arguments);
      continue;
    }
    arguments.push_back("--" + name);
    for (const ordered_json& part : one) arguments.push_back(text_of(part));
  }
}

}  // namespace

JobOrigin origin_of(const JobCommand& command, const ordered_json& asked, const ordered_json& defaults,
                    const ordered_json& options) {
  std::vector<std::string> arguments = {"swiftprune", command.name, command.model, "--out", command.out};
  for (const auto& [name, value] : asked.items()) {
    if (value != defaults.at(name)) append(name, value, arguments);
  }
  return {.command = {{"arguments", arguments}, {"options", options}}, .options = options};
}

}  // namespace swiftprune
