// Where the GGUF fixtures lie (tools/make_gguf_fixtures.py), and what their tests read of the folders that are made of them.
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint.h"

namespace swiftprune::test {

inline std::filesystem::path gguf_fixture(const std::string& name) {
  return std::filesystem::path(SWIFTPRUNE_TEST_DATA "/checkpoint/gguf") / name;
}

inline nlohmann::json read_json(const std::filesystem::path& path) {
  return nlohmann::json::parse(read_text(path));
}

inline std::string bytes_of(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  const auto bytes = checkpoint.bytes(tensor);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace swiftprune::test
