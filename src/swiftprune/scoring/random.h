// The random score's numbers: splitmix64 at state + (i + 1)·0x9e3779b97f4a7c15 for weight i.
#pragma once

#include <cstdint>
#include <string_view>

namespace swiftprune {

// The seed of the score's parameter.
inline std::uint64_t random_seed(double parameter) { return static_cast<std::uint64_t>(parameter); }
// Each tensor has its own state.
std::uint64_t random_stream(std::uint64_t seed, std::string_view tensor);

}  // namespace swiftprune
