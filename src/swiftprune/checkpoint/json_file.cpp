#include "swiftprune/checkpoint/json_file.h"

#include <algorithm>
#include <unordered_set>
#include <vector>

#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/core/error.h"

namespace swiftprune {

bool has_control_characters(std::string_view name) {
  return std::any_of(name.begin(), name.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; });
}

std::string json_error_text(const std::exception& error) {
  const std::string text = error.what();
  const auto prefix_end = text.find("] ");
  return text.starts_with("[json.") && prefix_end != std::string::npos ? text.substr(prefix_end + 2) : text;
}

nlohmann::json parse_json(std::string_view text, const std::string& file) {
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  const auto callback = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= kMaxJsonDepth)
        bad_input("{}: found JSON nested deeper than {} levels", file, kMaxJsonDepth);
      if (event == Event::object_start) keys.emplace_back();
    } else if (event == Event::object_end) {
      keys.pop_back();
    } else if (event == Event::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys.back().insert(key).second) {
        bad_input("{}: found the key {} twice in one object", file, nlohmann::json(key).dump());
      }
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, callback);
  } catch (const nlohmann::json::exception& error) {
    bad_input("{}: not valid JSON: {}", file, json_error_text(error));
  }
}

nlohmann::json read_json_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  if (bytes.size() > max_bytes) {
    bad_input("{}: found {} bytes, expected at most {}", path.string(), bytes.size(), max_bytes);
  }
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string());
}

}  // namespace swiftprune
