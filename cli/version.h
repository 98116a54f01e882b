#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace swiftprune::cli {

// "swiftprune 0.1.0 (commit c942f05)", then a line each for the program's and the library's file, which tell one
// installation from another, the compiler, the processor's instruction sets in use, the GPU library with its CUDA, and the
// libraries of others.
std::string version_text();
// The same, of `swiftprune --version --json`.
nlohmann::ordered_json version_json();

// Throws Error where the library that was loaded is of another version than the program.
void check_library();

// What a user of a processor without AVX2 should know; empty on others.
std::string slow_processor_note();

}  // namespace swiftprune::cli
