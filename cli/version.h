#pragma once

#include <string>

namespace swiftprune::cli {

// "swiftprune 0.1.0 (commit c942f05)", then a line each for the compiler, the processor's instruction sets in
// use and the GPU library that would be opened.
std::string version_text();

}  // namespace swiftprune::cli
