#include "command.h"
#include "swiftprune/core/error.h"

namespace swiftprune::cli {

void declare_import(CLI::App&) {}

}  // namespace swiftprune::cli
