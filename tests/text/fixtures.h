// tests/data/text, made by tools/make_tokenizer_fixtures.py; SWIFTPRUNE_TEXT_FIXTURES names another folder
// made so.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "support/temp_dir.h"

namespace swiftprune::test {

inline std::filesystem::path text_fixtures() {
  const char* other = std::getenv("SWIFTPRUNE_TEXT_FIXTURES");
  return other != nullptr ? std::filesystem::path(other)
                          : std::filesystem::path(SWIFTPRUNE_TEST_DATA) / "text";
}

inline nlohmann::json text_fixture(const std::string& file) {
  return nlohmann::json::parse(read_text(text_fixtures() / file));
}

// Names of the fixtures of a folder: "NAME.cases.json" -> "NAME".
inline std::vector<std::string> fixture_names(const std::string& folder) {
  const std::string ending = ".cases.json";
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(text_fixtures() / folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(ending)) names.push_back(name.substr(0, name.size() - ending.size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace swiftprune::test
