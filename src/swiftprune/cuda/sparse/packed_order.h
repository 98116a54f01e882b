// A packed weight's bytes in the order in which the kernels read them (packed_kernels.h), put there by the processor when a
// model is loaded: a panel at a time, so that threads share the work.
#pragma once

#include <cstddef>
#include <cstdint>

#include "swiftprune/cuda/sparse/packed_kernels.h"
#include "swiftprune/sparse/packed_tensor.h"

namespace swiftprune::cuda {

inline constexpr std::int64_t kLanes = 32;
inline constexpr std::int64_t kChunkUnit = 16;                    // bytes: chunks of bitmaps are whole ones
inline constexpr std::int64_t kPanelValues = 2 * kLanes * 4;      // words of a panel's block of 2:4
inline constexpr std::int64_t kPanelCodes = kLanes * 4;           // the same of codes of 4 bits
inline constexpr std::int64_t kPanelByteCodes = 2 * kPanelCodes;  // and of 8
inline constexpr std::int64_t kPanelTwoFourCodes = kLanes * 4;    // words of a panel's unit of 2:4 of codes,
inline constexpr std::int64_t kPanelTwoFourIndices = kLanes * 2;  // and of its indices

Stored stored_of(const PackedTensor& part);

// Of a bitmap: bytes of a block's chunk, and one panel's chunks as in BitmapWeight. starts: in units
std::int64_t chunk_bytes(const PackedTensor& part, std::int64_t panel, std::int64_t block);
void fill_chunks(const PackedTensor& part, std::int64_t panel, const std::uint32_t* starts,
                 std::int64_t blocks, std::byte* chunks);

// One panel of a 2:4 weight in the order of TwoFourWeight.
void order_two_four(const PackedTensor& part, std::int64_t panel, std::int64_t blocks, std::uint32_t* values,
                    std::uint32_t* indices);

// One panel's codes in the order of GridWeight.
void order_codes(const QuantizedWeight& weight, std::int64_t panel, std::int64_t blocks,
                 std::uint32_t* words);
// The same of 8 bits.
void order_byte_codes(const QuantizedWeight& weight, std::int64_t panel, std::int64_t blocks,
                      std::uint32_t* words);
// Of a grid: does every four of a row keep two at most? Codes of 2:4 that are rounded to zero can make a bitmap the
// smaller file.
bool keeps_two_of_four(const PackedTensor& part);
// One panel's codes and indices in the order of TwoFourGridWeight; columns are a multiple of four.
void order_two_four_codes(const QuantizedWeight& weight, std::int64_t panel, std::int64_t units,
                          std::uint32_t* words, std::uint32_t* indices);

}  // namespace swiftprune::cuda
