#include "swiftprune/cuda/sparse/packed_order.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/sparse/grid_codes.h"

namespace swiftprune::cuda {
namespace {

constexpr std::int64_t kWords = kCompactBlock / 2;    // mask words of a block
constexpr std::int64_t kValuesAt = kWords * (4 + 2);  // bytes into a chunk

// The mask words of one block of a panel, one a pair of columns: those of 8-bit kinds are quads' halves.
std::array<std::uint32_t, kWords> words_of(const PackedTensor& part, std::int64_t panel, std::int64_t block) {
  std::array<std::uint32_t, kWords> words{};
  if (!is_8bit(part.kind())) {
    const std::int64_t pairs = part.shape().num_pairs();
    const std::int64_t first = block * kWords;
    std::copy_n(static_cast<const std::uint32_t*>(part.masks()) + panel * pairs + first,
                std::min(kWords, pairs - first), words.begin());
    return words;
  }
  const std::int64_t quads = part.shape().num_quads();
  const std::int64_t first = block * kWords / 2;
  const auto* masks = static_cast<const std::uint64_t*>(part.masks()) + panel * quads + first;
  for (std::int64_t q = 0; q < std::min(kWords / 2, quads - first); ++q) {
    for (int row = 0; row < kPanelRows; ++row) {
      const auto four = static_cast<std::uint32_t>(masks[q] >> (4 * row) & 15u);
      words[static_cast<std::size_t>(2 * q)] |= (four & 3u) << (2 * row);
      words[static_cast<std::size_t>(2 * q + 1)] |= (four >> 2) << (2 * row);
    }
  }
  return words;
}

// As the kernels read them.
std::uint8_t stored_value(std::uint8_t bits, Stored stored) {
  const auto value = static_cast<std::int8_t>(bits);
  if (stored != Stored::kInt8 || value >= 0) return bits;
  return static_cast<std::uint8_t>(0x80 | -value);
}

template <class Value>
void fill_chunks_of(const PackedTensor& part, std::int64_t panel, const std::uint32_t* starts,
                    std::int64_t blocks, std::byte* chunks) {
  constexpr std::size_t kPairs = sizeof(Value) == 1 ? 2 : 1;  // of a step of the packed tensor
  const Stored stored = stored_of(part);
  const auto* source = static_cast<const Value*>(part.values()) + part.offsets()[panel];
  for (std::int64_t b = 0; b < blocks; ++b) {
    std::byte* chunk = chunks + starts[b] * kChunkUnit;
    const auto words = words_of(part, panel, b);
    std::memcpy(chunk, words.data(), sizeof words);
    std::array<std::byte*, kWords> targets{};  // of each pair's next value
    std::int64_t end = kValuesAt;
    for (std::size_t i = 0; i < kWords; ++i) {
      const std::size_t pair = i % 4 * 8 + i / 4;
      const auto start = static_cast<std::uint16_t>(end - kValuesAt);
      std::memcpy(chunk + 4 * kWords + 2 * pair, &start, sizeof start);
      targets[pair] = chunk + end;
      end += static_cast<std::int64_t>(sizeof(Value)) * std::popcount(words[pair]);
    }
    std::memset(chunk + end, 0, static_cast<std::size_t>(round_up(end, kChunkUnit) - end));
    for (std::size_t pair = 0; pair < kWords; pair += kPairs) {
      if constexpr (kPairs == 1) {
        const auto count = static_cast<std::size_t>(std::popcount(words[pair]));
        std::memcpy(targets[pair], source, count * sizeof(Value));
        source += count;
      } else {
        for (int row = 0; row < kPanelRows; ++row) {  // a step's lanes: rows, then columns
          for (std::size_t p = pair; p < pair + kPairs; ++p) {
            for (int n = std::popcount(words[p] >> (2 * row) & 3u); n > 0; --n)
              *targets[p]++ = static_cast<std::byte>(stored_value(*source++, stored));
          }
        }
      }
    }
  }
}

// What a group of four keeps: places of the two, and their codes 16 bits apart.
struct TwoOfFour {
  std::uint32_t places = 0b0100;  // 0 and 1, where there is nothing
  std::uint32_t codes = 0;
};
// Places of two by which of four are not zero; what is lacking are the lowest others.
constexpr std::array<std::uint8_t, 16> kTwoPlaces = [] {
  std::array<std::uint8_t, 16> all{};
  for (unsigned mask = 0; mask < 16; ++mask) {
    unsigned kept = mask;
    for (unsigned bit = 1; std::popcount(kept) < 2; bit <<= 1) kept |= bit;
    const auto first = static_cast<unsigned>(std::countr_zero(kept));
    const auto second = static_cast<unsigned>(std::countr_zero(kept & (kept - 1)));
    all[mask] = static_cast<std::uint8_t>(first | second << 2);
  }
  return all;
}();

// Of one row, group after group.
void find_two_of_four(const QuantizedWeight& weight, std::int64_t row, TwoOfFour* twos) {
  const std::uint8_t* codes = weight.codes.data() + row * weight.cols;
  const std::int64_t groups = weight.grid.groups_of(weight.cols);
  const std::int64_t fours = weight.cols / groups / 4;  // of a group of the grid
  for (std::int64_t g = 0; g < groups; ++g) {
    const int zero = weight.zero_of(row, g);
    for (std::int64_t i = 0; i < fours; ++i, codes += 4, ++twos) {
      const std::size_t mask = (codes[0] != zero ? 1u : 0u) | (codes[1] != zero ? 2u : 0u) |
                               (codes[2] != zero ? 4u : 0u) | (codes[3] != zero ? 8u : 0u);
      twos->places = kTwoPlaces[mask];
      twos->codes = codes[twos->places & 3u] | static_cast<std::uint32_t>(codes[twos->places >> 2]) << 16;
    }
  }
}

}  // namespace

Stored stored_of(const PackedTensor& part) {
  return is_int8(part.kind()) ? Stored::kInt8 : is_fp8(part.kind()) ? Stored::kE4M3 : Stored::kHalf;
}

std::int64_t chunk_bytes(const PackedTensor& part, std::int64_t panel, std::int64_t block) {
  std::int64_t count = 0;
  for (const std::uint32_t word : words_of(part, panel, block)) count += std::popcount(word);
  return round_up(kValuesAt + (stored_of(part) == Stored::kHalf ? 2 : 1) * count, kChunkUnit);
}

void fill_chunks(const PackedTensor& part, std::int64_t panel, const std::uint32_t* starts,
                 std::int64_t blocks, std::byte* chunks) {
  stored_of(part) == Stored::kHalf ? fill_chunks_of<std::uint16_t>(part, panel, starts, blocks, chunks)
                                   : fill_chunks_of<std::uint8_t>(part, panel, starts, blocks, chunks);
}

void order_two_four(const PackedTensor& part, std::int64_t panel, std::int64_t blocks, std::uint32_t* values,
                    std::uint32_t* indices) {
  constexpr std::uint32_t kNothing = 0b0100;  // indices 0 and 1, beyond the last group
  const std::int64_t groups = part.cols() / 4;
  const std::int64_t num_slots = part.shape().num_slots();
  const auto* pairs =
      static_cast<const std::uint32_t*>(part.values()) + panel * num_slots / 2 * kPanelRows;  // [groups, 16]
  const auto* words = static_cast<const std::uint32_t*>(part.indices()) + panel * num_slots;  // [2·groups]
  const auto four = [&](std::int64_t group, std::int64_t row) {
    if (group >= groups) return kNothing;
    return (words[2 * group] >> (2 * row) & 3u) | (words[2 * group + 1] >> (2 * row) & 3u) << 2;
  };
  std::fill_n(values, blocks * kPanelValues, 0u);
  std::fill_n(indices, blocks * kLanes, 0u);
  for (std::int64_t s = 0; s < 2 * blocks; ++s) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      for (std::int64_t i = 0; i < 4; ++i) {
        const std::int64_t group = 8 * s + lane % 4 + i / 2 * 4;
        const std::int64_t row = lane / 4 + i % 2 * 8;
        if (group < groups) values[(s * kLanes + lane) * 4 + i] = pairs[group * kPanelRows + row];
      }
    }
  }
  for (std::int64_t b = 0; b < blocks; ++b) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      for (std::int64_t i = 0; i < 4; ++i) {  // of the 16 columns that lane % 4 stands for
        const std::int64_t group = 16 * b + lane % 4 * 4 + i;
        indices[b * kLanes + lane] |= four(group, lane / 4) << (4 * i) | four(group, lane / 4 + 8)
                                                                             << (16 + 4 * i);
      }
    }
  }
}

void order_codes(const QuantizedWeight& weight, std::int64_t panel, std::int64_t blocks,
                 std::uint32_t* words) {
  const auto eight = [&](std::int64_t row, std::int64_t column) {
    std::uint8_t codes[8] = {};  // nothing reads rows that do not exist, and x is zero beyond the last column
    if (row < weight.rows && column < weight.cols) {
      std::memcpy(codes, weight.codes.data() + row * weight.cols + column,
                  static_cast<std::size_t>(std::min<std::int64_t>(8, weight.cols - column)));
    }
    std::uint32_t word = 0;
    for (std::uint32_t c = 0; c < 8; ++c) word |= std::uint32_t{codes[c]} << (4 * (c / 2 + c % 2 * 4));
    return word;
  };
  for (std::int64_t b = 0; b < blocks; ++b) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      for (std::int64_t i = 0; i < 4; ++i, ++words) {
        const std::int64_t row = panel * kPanelRows + lane / 4 * 2 + i / 2;
        *words = eight(row, b * kCompactBlock + i % 2 * 32 + lane % 4 * 8);
      }
    }
  }
}

void order_byte_codes(const QuantizedWeight& weight, std::int64_t panel, std::int64_t blocks,
                      std::uint32_t* words) {
  std::fill_n(words, blocks * kPanelByteCodes, 0u);  // nothing reads rows or columns that do not exist
  for (std::int64_t half = 0; half < 2 * blocks; ++half) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane, words += 4) {
      const std::int64_t column = half * 32 + lane % 4 * 8;
      for (std::int64_t i = 0; i < 2; ++i) {
        const std::int64_t row = panel * kPanelRows + lane / 4 * 2 + i;
        if (row >= weight.rows || column >= weight.cols) continue;
        std::memcpy(words + 2 * i, weight.codes.data() + row * weight.cols + column,
                    static_cast<std::size_t>(std::min<std::int64_t>(8, weight.cols - column)));
      }
    }
  }
}

bool keeps_two_of_four(const PackedTensor& part) {
  if (part.kind() == PackedKind::kNmGrid) return part.shape().group_n <= 2;
  if (part.kind() != PackedKind::kBitmapGrid || part.cols() % 4 != 0) return false;
  const auto* masks = static_cast<const std::uint64_t*>(part.masks());
  const std::int64_t steps = part.shape().num_panels() * part.shape().num_chunks() * kChunkSteps;
  return std::none_of(masks, masks + steps, [](std::uint64_t mask) { return keeps_more(mask, 2); });
}

void order_two_four_codes(const QuantizedWeight& weight, std::int64_t panel, std::int64_t units,
                          std::uint32_t* words, std::uint32_t* indices) {
  constexpr std::int64_t kUnitFours = TwoFourGridWeight::kUnitCols / 4;
  const std::int64_t fours = units * kUnitFours;
  std::vector<TwoOfFour> twos(static_cast<std::size_t>(kPanelRows * fours));
  for (std::int64_t r = 0; r < std::min(kPanelRows, weight.rows - panel * kPanelRows); ++r)
    find_two_of_four(weight, panel * kPanelRows + r, twos.data() + r * fours);
  for (std::int64_t u = 0; u < units; ++u) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane, words += 4, indices += 2) {
      // Of rows 2g and 2g + 1.
      const TwoOfFour* rows[2] = {twos.data() + lane / 4 * 2 * fours + u * kUnitFours,
                                  twos.data() + (lane / 4 * 2 + 1) * fours + u * kUnitFours};
      for (std::int64_t s = 0; s < 4; ++s) {
        words[s] = 0;
        for (std::int64_t q = 0; q < 4; ++q)
          words[s] |= rows[q % 2][8 * s + lane % 4 + q / 2 * 4].codes << (4 * q);
      }
      for (std::int64_t b = 0; b < 2; ++b) {
        indices[b] = 0;
        for (std::int64_t i = 0; i < 8; ++i)
          indices[b] |= rows[i / 4][16 * b + lane % 4 * 4 + i % 4].places << (4 * i);
      }
    }
  }
}

}  // namespace swiftprune::cuda
