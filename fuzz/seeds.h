// What the fuzzers begin with: inputs of each target, made of the files that the tests have. `make fuzz` writes them as
// libFuzzer's corpora (write_seeds.cpp), the tests replay them (tests/fuzz).
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace swiftprune::fuzz {

// By target. data: tests/data.
std::map<std::string, std::vector<std::string>> seeds(const std::filesystem::path& data);

}  // namespace swiftprune::fuzz
