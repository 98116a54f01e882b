// Whole files as bytes, for what is read once and then parsed.
#pragma once

#include <filesystem>
#include <string>

namespace swiftprune {

// Error{kBadInput} when it cannot be read, and when it is the stand-in that git leaves of a large file.
std::string file_bytes(const std::filesystem::path& file);

}  // namespace swiftprune
