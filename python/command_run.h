// A command of the program inside a Python process.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nanobind/nanobind.h>

namespace swiftprune::python {

// (result, page, notes, error): its JSON or None, the report's HTML or None, what it noted, and None or the exception that it ended with: a
// failed gate has a result, too. arguments: as on the command line, the command's name first. progress: None,
// or called with (stage, done, total) some times a second, total 0 where it is unknown. The work is done in a
// thread of its own without the GIL, so that Ctrl-C and other Python threads are heard; a progress that
// raises, and Ctrl-C, stop the work, which cleans up first.
nanobind::tuple run_command(const std::vector<std::string>& arguments, nanobind::object progress);

}  // namespace swiftprune::python
