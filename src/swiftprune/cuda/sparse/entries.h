// A pruned weight as lists of entries, for one to four tokens: every stored weight stands with the step from the column
// of the one before it, so that a product looks its input up in shared memory and nothing has to be placed.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "swiftprune/cuda/sparse/packed_kernels.h"

namespace swiftprune::cuda {

inline constexpr std::int64_t kMostEntryTokens = 4;  // of one launch

inline constexpr int kEntryPieces = 2;
inline constexpr int kEntryWarps = 12;

// Rows stand in panels of 32 / kEntryPieces, those with similar numbers of entries together; each row is cut into
// kEntryPieces pieces of as many entries, a lane each. A panel's lanes all have `lengths[panel]` entries, a multiple of
// eight and not none; what a row lacks are entries with value and step 0. They come in tiles of 32 a lane (the last one may be
// shorter): three words of steps, [3][32 lanes], then eight values a lane at a time, [entries / 8][32 lanes][8].
// Entry i's column is that of entry i - 1 of the lane plus its step, 0 .. 7; where columns are farther apart, entries
// with value 0 stand between. Step 4j + b is in byte b of the words: j = 2w + h < 6 bits 3h .. 3h + 2 of word w; of
// j = 6 and 7 the lower two bits are bits 6, 7 of words 0 and 1, the upper one is bit j of word 2.
struct EntryWeight {
  const uint4* tiles = nullptr;
  // What each warp of the launch does: {uint4 before its first tile, its panel, tiles, entries a lane of that panel from
  // that tile on}, where one ends the next begins; its block of threads has the panels first_panels[block] .. first_panels[block + 1].
  const uint4* ranges = nullptr;                // [blocks, kEntryWarps], and the end
  const std::uint32_t* first_panels = nullptr;  // [blocks + 1]
  // Of the entry before a lane's first one, of the row's last one before where there is none; 0 at the row's begin.
  const std::uint16_t* range_columns = nullptr;  // [blocks, kEntryWarps, 32]
  const std::uint16_t* panel_columns = nullptr;  // [panels, 32]
  const std::uint32_t* lengths = nullptr;        // [panels]
  const std::uint32_t* rows = nullptr;  // [panels, 32 / kEntryPieces]: of the weight; beyond the last: kNoRow
  int blocks = 0;                       // of threads
  int most_panels = 0;                  // of a block of threads
  static constexpr std::uint32_t kNoRow = 0xffffffffu;
};
inline constexpr std::int64_t kMostEntryCols = 40960;  // their inputs have to fit into shared memory

inline constexpr int kPanelEntryRows = 32 / kEntryPieces;
inline constexpr int kTileEntries = 32;   // of a lane
inline constexpr int kGroupEntries = 8;   // of a lane: 16 bytes
inline constexpr int kStepUnits = 3 * 8;  // uint4 of a tile's steps
inline constexpr int kTileUnits = kStepUnits + kTileEntries / kGroupEntries * 32;
constexpr int tiles_of(int entries) { return (entries + kTileEntries - 1) / kTileEntries; }
constexpr std::int64_t units_of(int entries) {  // uint4 of a panel
  return std::int64_t{tiles_of(entries)} * kStepUnits + entries / kGroupEntries * 32;
}

// Any number of tokens, kMostEntryTokens at a time; starts early, as multiply_bitmap().
void multiply_entries(const EntryWeight& weight, const CompactArgs& args, cudaStream_t stream);
// dense [rows, cols], contiguous
void expand_entries(const EntryWeight& weight, std::int64_t cols, void* dense, cudaStream_t stream);

// -- Entries of a dense matrix [rows, cols] of 16-bit numbers, contiguous: its weights whose bits are not all 0 --

// counts [rows]: entries of each row, those with value 0 between others among them
void count_entries(const void* dense, std::int64_t rows, std::int64_t cols, std::uint32_t* counts,
                   cudaStream_t stream);
struct EntryPlace {
  std::uint32_t panel, row;  // of the panel
};
// Memory that holds zeros where something is written.
struct EntryFill {
  const EntryPlace* places = nullptr;           // [rows]
  const std::uint32_t* counts = nullptr;        // [rows]
  const std::uint32_t* units = nullptr;         // [panels + 1]: uint4 before a panel
  const std::uint32_t* tiles_before = nullptr;  // [panels + 1]
  void* tiles = nullptr;
  std::uint16_t* panel_columns = nullptr;  // [panels, 32]
  std::uint16_t* tile_columns = nullptr;   // [all tiles, 32]: of the entry before a lane's first one
};
void fill_entries(const void* dense, std::int64_t rows, std::int64_t cols, const EntryFill& fill,
                  cudaStream_t stream);
// range_columns [ranges, 32]: the columns of each range's first tile; kNoRow: none
void pick_columns(const std::uint16_t* tile_columns, const std::uint32_t* first_tiles, std::int64_t ranges,
                  std::uint16_t* range_columns, cudaStream_t stream);

}  // namespace swiftprune::cuda
