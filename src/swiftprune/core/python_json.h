// What Python's json module writes and JSON has not.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace swiftprune {

// Bare Infinity, -Infinity and NaN become {"__float__": "Infinity"} and so on, as transformers 5 writes them into
// config.json; transformers 4 wrote them bare ("time_step_limit": [0.0, Infinity]). Nothing where there are none.
std::optional<std::string> with_spelled_floats(std::string_view text);

}  // namespace swiftprune
