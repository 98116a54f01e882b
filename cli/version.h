#pragma once

#include <string>

namespace swiftprune::cli {

// "swiftprune 0.1.0 (commit c942f05)", then a line each for the program's and the library's file, which tell one
// installation from another, the compiler, the processor's instruction sets in use and the GPU library that would be
// opened.
std::string version_text();

// Throws Error where the library that was loaded is of another version than the program.
void check_library();

// What a user of a processor without AVX2 should know; empty on others.
std::string slow_processor_note();

}  // namespace swiftprune::cli
