// Runs one command and maps errors to exit codes: 0 ok, 1 failure, 2 usage, 3 bad input, 4 device, 5 gate,
// 70 a bug, 128 + n stopped by signal n (130: Ctrl-C).
#pragma once

namespace swiftprune::cli {

// Prints what went wrong, and closes standard output: the process ends with what this returns.
int run_program(int argc, char** argv);

}  // namespace swiftprune::cli
