// JSON files of a model folder, read with the rules that a file of unknown origin needs: a size limit, a
// depth limit and no key twice in one object (readers differ in which of the two they take).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace swiftprune {

inline constexpr std::uint64_t kMaxJsonBytes = 256'000'000;
inline constexpr int kMaxJsonDepth = 64;

// Throws Error{kBadInput}; `file` is the name used in the message.
nlohmann::json parse_json(std::string_view text, const std::string& file);
nlohmann::json read_json_file(const std::filesystem::path& path, std::uint64_t max_bytes = kMaxJsonBytes);

// Names from files go into messages, so that they must not move a terminal's cursor.
bool has_control_characters(std::string_view name);

// The library's message without its "[json.exception...] " prefix.
std::string json_error_text(const std::exception& error);

}  // namespace swiftprune
