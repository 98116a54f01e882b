// Which variable a name means. Jinja decides that when it compiles: a name is bound to the innermost scope
// that assigns it anywhere, or to the context. The same rules (jinja2's idtracking) are applied here, since
// templates that read a variable before or beside its assignment depend on them.
#pragma once

#include "swiftprune/templates/syntax.h"

namespace swiftprune::templates {

// Fills in all slots and scopes of the tree; unknown filters and tests are refused as jinja2 refuses them: at
// once, but where an `if` stands around them. Returns the template as a function without parameters. Throws
// TemplateError{kSyntax}.
Function resolve_names(Body body);

}  // namespace swiftprune::templates
