// JSON text as a template's value: keys in the order of the text (tools are printed in it), numbers as Python
// reads them.
#pragma once

#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "swiftprune/templates/value.h"

namespace swiftprune::templates {

// Throws TemplateError{kRuntime} naming `name`: not JSON, nested too deep, an integer beyond 64 bits.
Value parse_json_value(std::string_view text, std::string_view name);

}  // namespace swiftprune::templates
