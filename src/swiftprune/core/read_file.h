// Whole files as bytes, for what is read once and then parsed.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace swiftprune {

// Error{kBadInput} when it cannot be read, and when it is the stand-in that git leaves of a large file.
std::string file_bytes(const std::filesystem::path& file);

// Error{kBadInput} that starts with `name` when the bytes are a git-lfs pointer instead of a file's content.
void refuse_lfs_pointer(std::string_view bytes, const std::string& name);

}  // namespace swiftprune
