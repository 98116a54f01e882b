// Runs one command and maps errors to exit codes: 0 ok, 1 failure, 2 usage, 3 bad input, 4 device, 5 gate,
// 70 a bug, 128 + n stopped by signal n (130: Ctrl-C).
#pragma once

#include <exception>
#include <string>

namespace swiftprune::cli {

// Prints what went wrong, behind the prefix, and returns its exit code. tells_interrupt: also that the run was stopped.
int exit_code_of(const std::exception_ptr& error, const std::string& prefix, bool tells_interrupt = true);

// Prints what went wrong, and closes standard output: the process ends with what this returns.
int run_program(int argc, char** argv);

}  // namespace swiftprune::cli
