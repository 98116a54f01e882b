// Where a command writes, checked before the work, and what becomes of it when the run is interrupted.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace swiftprune::cli {

// Throws Error{kUsage} naming the flag when no file can be made there: a report must not fail after minutes
// of work. An empty name is none. Makes nothing.
void check_output_file(std::string_view flag, const std::string& file);

// Runs a command that writes `out` whole or not at all; an Interrupted then tells which. kept: what else is
// left when it is not there, or "".
void run_writing(
    const std::string& out, const std::function<void()>& work,
    const std::function<std::string()>& kept = [] { return std::string(); });

}  // namespace swiftprune::cli
