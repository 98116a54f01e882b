// Tokens to the syntax tree: Jinja's grammar with the extensions that transformers adds (break, continue,
// generation). What cannot be rendered here (recursive loops, include, import, extends, block, autoescape) is
// refused by name.
#pragma once

#include <string_view>

#include "swiftprune/templates/syntax.h"

namespace swiftprune::templates {

// Throws TemplateError{kSyntax, kUnsupported}.
Body parse_template(std::string_view source);

}  // namespace swiftprune::templates
