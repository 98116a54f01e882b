#pragma once

#include <string>
#include <string_view>

namespace swiftprune {

// Error{kBadInput} that starts with `name` when the bytes are a git-lfs pointer, which git leaves in place of a large file,
// instead of a file's content.
void refuse_lfs_pointer(std::string_view bytes, const std::string& name);

}  // namespace swiftprune
