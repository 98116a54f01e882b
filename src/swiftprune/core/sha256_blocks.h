// Whole blocks of SHA-256 by the processor's own instructions. Raw pointers across this border.
#pragma once

#include <cstddef>
#include <cstdint>

namespace swiftprune {

// The round constants of FIPS 180-4, section 4.2.2.
alignas(16) extern const std::uint32_t kSha256Round[64];

// state [8], blocks [64·count] bytes. Null when this build has no such code.
using Sha256Blocks = void (*)(std::uint32_t* state, const std::uint8_t* blocks, std::size_t count);
Sha256Blocks sha256_blocks_shani();

}  // namespace swiftprune
