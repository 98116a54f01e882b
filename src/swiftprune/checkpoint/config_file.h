// config.json as it stands in the file, for those who write it again with a change.
#pragma once

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/checkpoint.h"

namespace swiftprune {

// Fields in the file's own order. The file has been checked when the checkpoint was opened.
nlohmann::ordered_json read_config_file(const Checkpoint& checkpoint);

}  // namespace swiftprune
