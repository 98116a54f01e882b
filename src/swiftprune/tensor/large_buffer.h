// Memory of large matrices: whole huge pages where the system has them (a hundredth of the page faults), and
// given back at once, so that a process holds what it uses. A few buffers are kept for the next request of
// their size: a forward pass asks for the same ones again and again, and clean pages from the system cost a
// pass over them.
#pragma once

#include <cstddef>

namespace swiftprune {

inline constexpr std::size_t kLargeBytes = std::size_t{1} << 20;  // from here on a buffer counts as large

// bytes: at least kLargeBytes. Aligned to a huge page, uninitialised. Throws std::bad_alloc.
void* allocate_large(std::size_t bytes);
void free_large(void* buffer, std::size_t bytes);

}  // namespace swiftprune
