// Whether all ranks of a run have the same program, command, model and text.
#pragma once

#include <nlohmann/json.hpp>

#include "swiftprune/ranks/communicator.h"

namespace swiftprune {

// Throws Error{kUsage} on a rank whose values differ from the first one's, naming the first key that does.
void check_same_on_ranks(Communicator& ranks, const nlohmann::ordered_json& values);

}  // namespace swiftprune
