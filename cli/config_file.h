// Options from a file (--config), put among the arguments before they are parsed, so that a command knows no difference:
// its echoes and its record name every option, and the option --from-config which of them came from the file.
#pragma once

#include <string>
#include <vector>

namespace swiftprune::cli {

// arguments: the command and what follows it. Where --config is among them, they come back with the file's options that
// they do not have themselves. The file is TOML (as far as the option parser reads it: KEY = VALUE a line, lists in
// one line, sections [COMMAND]) or the record of a run, swiftprune.json. Throws Error{kBadInput} for a file that cannot
// be read, Error{kUsage} naming file and key for an option that the command does not have.
std::vector<std::string> with_config(const std::vector<std::string>& arguments);

}  // namespace swiftprune::cli
