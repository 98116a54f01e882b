// Whole blocks of SHA-256 by the processor's own instructions. Raw pointers across this border.
#pragma once

#include <cstddef>
#include <cstdint>

namespace swiftprune {

// state [8], blocks [64·count] bytes. Null when this build has no such code.
using Sha256Blocks = void (*)(std::uint32_t* state, const std::uint8_t* blocks, std::size_t count);
Sha256Blocks sha256_blocks_shani();

}  // namespace swiftprune
