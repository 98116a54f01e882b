// The libraries of others that this program runs with, for --version and reports of faults.
#pragma once

#include <string>
#include <vector>

namespace swiftprune {

struct LinkedLibrary {
  std::string name, version;
};

// As they are loaded, which may be others than were built with; sentencepiece and what is in headers alone as built.
std::vector<LinkedLibrary> linked_libraries();

}  // namespace swiftprune
