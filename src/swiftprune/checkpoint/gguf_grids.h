// The grids of GGUF's IQ types: each entry is 8 values of 2 bits (4 of 4 bits for IQ3), the lowest first, positions in a
// short list of values.
#pragma once

#include <array>
#include <cstdint>

namespace swiftprune {

extern const std::array<std::uint16_t, 256> kGridIq2Xxs;
extern const std::array<std::uint16_t, 512> kGridIq2Xs;
extern const std::array<std::uint16_t, 1024> kGridIq2S;
extern const std::array<std::uint16_t, 256> kGridIq3Xxs;
extern const std::array<std::uint16_t, 512> kGridIq3S;
extern const std::array<std::uint16_t, 2048> kGridIq1;

}  // namespace swiftprune
