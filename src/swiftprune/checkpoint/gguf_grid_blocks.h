// Blocks of GGUF's IQ1, IQ2 and IQ3 types, 256 values each (gguf_dequantize.h): eight values, or four, are one entry of a
// grid (gguf_grids.h), with a scale and, but for IQ1, signs of their own.
#pragma once

#include <cstddef>

namespace swiftprune {

void iq1_s_block(const std::byte* block, float* values);
void iq1_m_block(const std::byte* block, float* values);
void iq2_xxs_block(const std::byte* block, float* values);
void iq2_xs_block(const std::byte* block, float* values);
void iq2_s_block(const std::byte* block, float* values);
void iq3_xxs_block(const std::byte* block, float* values);
void iq3_s_block(const std::byte* block, float* values);

}  // namespace swiftprune
