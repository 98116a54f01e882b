// Sizes and positions are std::int64_t throughout; the standard library counts with std::size_t.
#pragma once

#include <cstddef>
#include <cstdint>

namespace swiftprune {

constexpr std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace swiftprune
