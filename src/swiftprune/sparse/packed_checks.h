// The rules a packed tensor's content must keep (docs/formats.md): kernels index memory by these numbers, so
// every one is checked when a tensor is opened.
#pragma once

#include <string_view>

#include "swiftprune/sparse/packed_tensor.h"

namespace swiftprune {

// Throws Error{kBadInput} at the first broken rule. The header and the total size were checked before.
void check_packed(const PackedTensor& tensor, const PackedSections& sections, std::string_view name);

}  // namespace swiftprune
