// How a command shows its progress on standard error (--progress): a line that is redrawn on a terminal, a
// line now and then elsewhere (a night under nohup is not silent), or JSON lines for programs.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include "swiftprune/core/progress.h"

namespace swiftprune::cli {

enum class ProgressStyle { kNone, kBar, kLines, kJson };

// Declares --progress auto|bar|lines|json|none.
void add_progress_option(CLI::App& command, std::string& name);
// auto: a bar on a terminal, else lines.
ProgressStyle progress_style(const std::string& name);

// Of one command. json: {"stage": "prune", "done": 8, "total": 30, "seconds": 12.1, "seconds_left": 33.0},
// seconds of the stage; total and seconds_left only where they are known.
ProgressFn make_progress(ProgressStyle style);

// Takes a bar that still stands away, before something else is printed on standard error.
void clear_progress();

}  // namespace swiftprune::cli
