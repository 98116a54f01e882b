// Another program, whose lines are read as they come.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace swiftprune {

// Runs arguments[0] (looked up in PATH) until it ends; gives on_line() each line of its standard output, at most
// 1 MiB of it. What it says on standard error goes to the file. Returns its exit code, 128 + signal when a signal
// ended it. The child has a process group of its own: when this run is stopped, or on_line() throws, it and its own
// children end first. Throws Error{kFailure} when the program cannot be started, Interrupted when the run is stopped.
int run_child(const std::vector<std::string>& arguments, const std::filesystem::path& error_file,
              const std::function<void(std::string_view)>& on_line);

// The last lines of a text file, at most `bytes`; "" when it cannot be read.
std::string end_of_file(const std::filesystem::path& file, std::size_t bytes);

}  // namespace swiftprune
