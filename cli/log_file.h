// A log of what a command said and did (--log-file), beside what it shows: for runs that nobody watches.
#pragma once

#include <string>
#include <string_view>

#include "swiftprune/core/progress.h"

namespace swiftprune::cli {

// From now on the program's lines go to this file, too, behind what it has. Throws Error{kUsage} naming --log-file when it
// cannot be opened.
void open_log(const std::string& file);
// One line with date and time (UTC), at once; nothing where there is no log.
void log_line(std::string_view text);
// Tells the log the stages of the work: each one's begin, and where it stands every 30 seconds.
ProgressFn logged(ProgressFn progress);

}  // namespace swiftprune::cli
