// The record of a job that a program asked for: the options of the command of its name, and the command line that does
// the same.
#pragma once

#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "swiftprune/api/job.h"

namespace swiftprune {

struct JobCommand {
  std::string name, model, out;
};

// What was not asked for is null.
template <class T>
nlohmann::ordered_json or_null(const std::optional<T>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

// Options by their names on the command line: as they were asked for, as they are by default, and as they became beside
// the model. A list is an option that is repeated, a list in it one that takes several arguments.
JobOrigin origin_of(const JobCommand& command, const nlohmann::ordered_json& asked,
                    const nlohmann::ordered_json& defaults, const nlohmann::ordered_json& options);

}  // namespace swiftprune
