#include "swiftprune/cuda/sparse/entry_buffers.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/cuda/runtime/early_launch.cuh"

namespace swiftprune::cuda {
namespace {

constexpr std::uint64_t kLanes = 32;

template <class V>
std::vector<V> to_host(const DeviceBuffer& buffer, cudaStream_t stream) {
  std::vector<V> values(buffer.bytes() / sizeof(V));
  check(cudaMemcpyAsync(values.data(), buffer.data(), buffer.bytes(), cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  return values;
}

}  // namespace

EntryBuffers::EntryBuffers(DeviceMemory& memory, const void* dense, std::int64_t rows, std::int64_t cols,
                           cudaStream_t stream) {
  expect(rows > 0 && cols > 0 && cols <= kMostEntryCols,
         "EntryBuffers: columns whose inputs shared memory holds");
  const DeviceBuffer counts(memory, static_cast<std::uint64_t>(rows) * 4, "entries");
  count_entries(dense, rows, cols, counts.as<std::uint32_t>(), stream);
  const auto count = to_host<std::uint32_t>(counts, stream);

  // Rows by their number of entries, panels of them to blocks of threads in turn, so that all have as much to do.
  const std::int64_t num_panels = ceil_div(rows, kPanelEntryRows);
  std::vector<std::uint32_t> order(static_cast<std::size_t>(rows));
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return count[a] > count[b]; });
  constexpr std::int64_t kMostPanels = 16;  // sums of more would take shared memory
  const std::int64_t multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount);
  std::int64_t blocks = std::min(num_panels, multiprocessors);
  while (ceil_div(num_panels, blocks) > kMostPanels) blocks += multiprocessors;
  std::vector<std::uint32_t> panel_rows(static_cast<std::size_t>(num_panels * kPanelEntryRows),
                                        EntryWeight::kNoRow);
  std::vector<EntryPlace> places(static_cast<std::size_t>(rows));
  std::vector<std::uint32_t> lengths, units{0}, tiles_before{0}, first_panels{0};
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (std::int64_t sorted = block; sorted < num_panels; sorted += blocks) {
      const auto panel = static_cast<std::uint32_t>(lengths.size());
      std::int64_t most = 1;
      for (std::int64_t r = 0; r < kPanelEntryRows && sorted * kPanelEntryRows + r < rows; ++r) {
        const std::uint32_t row = order[static_cast<std::size_t>(sorted * kPanelEntryRows + r)];
        panel_rows[static_cast<std::size_t>(std::int64_t{panel} * kPanelEntryRows + r)] = row;
        places[row] = {panel, static_cast<std::uint32_t>(r)};
        most = std::max<std::int64_t>(most, ceil_div(std::int64_t{count[row]}, kEntryPieces));
      }
      lengths.push_back(static_cast<std::uint32_t>(round_up(most, kGroupEntries)));
      units.push_back(units.back() + static_cast<std::uint32_t>(units_of(static_cast<int>(lengths.back()))));
      tiles_before.push_back(tiles_before.back() +
                             static_cast<std::uint32_t>(tiles_of(static_cast<int>(lengths.back()))));
    }
    first_panels.push_back(static_cast<std::uint32_t>(lengths.size()));
  }
  std::vector<uint4> ranges;
  std::vector<std::uint32_t> first_tiles;
  for (std::int64_t block = 0; block < blocks; ++block) {
    most_panels_ =
        std::max<int>(most_panels_, static_cast<int>(first_panels[block + 1] - first_panels[block]));
    std::uint32_t panel = first_panels[block];
    const std::uint64_t first = tiles_before[panel];
    const std::uint64_t tiles = tiles_before[first_panels[block + 1]] - first;
    for (std::uint64_t w = 0; w < kEntryWarps; ++w) {
      const auto begin = static_cast<std::uint32_t>(first + tiles * w / kEntryWarps);
      const auto end = static_cast<std::uint32_t>(first + tiles * (w + 1) / kEntryWarps);
      while (panel < first_panels[block + 1] && tiles_before[panel + 1] <= begin) ++panel;
      if (begin == end) {
        const std::uint32_t before = begin - tiles_before[panel];  // of its tiles
        ranges.push_back(make_uint4(units[panel] + before * kTileUnits, first_panels[block], 0, 0));
        first_tiles.push_back(EntryWeight::kNoRow);
        continue;
      }
      const std::uint32_t skipped = begin - tiles_before[panel];
      ranges.push_back(make_uint4(units[panel] + skipped * kTileUnits, panel, end - begin,
                                  lengths[panel] - skipped * kTileEntries));
      first_tiles.push_back(begin);
    }
  }
  ranges.push_back(make_uint4(units.back(), 0, 0, 0));
  blocks_ = static_cast<int>(blocks);
  const auto to_device = [&]<class V>(const std::vector<V>& values) {
    return upload(memory, std::span<const V>(values), "entries", stream);
  };
  const DeviceBuffer device_places = to_device(places), device_units = to_device(units),
                     device_before = to_device(tiles_before), device_first = to_device(first_tiles);
  ranges_ = to_device(ranges);
  first_panels_ = to_device(first_panels);
  lengths_ = to_device(lengths);
  rows_ = to_device(panel_rows);
  const auto zeroed = [&](std::uint64_t bytes) {
    DeviceBuffer buffer(memory, std::max<std::uint64_t>(bytes, 16), "entries");
    check(cudaMemsetAsync(buffer.data(), 0, buffer.bytes(), stream));
    return buffer;
  };
  tiles_ = zeroed(std::uint64_t{units.back()} * 16);
  panel_columns_ = zeroed(static_cast<std::uint64_t>(num_panels) * kLanes * 2);
  range_columns_ = zeroed(first_tiles.size() * kLanes * 2);
  const DeviceBuffer tile_columns = zeroed(std::uint64_t{tiles_before.back()} * kLanes * 2);
  const EntryFill fill{device_places.as<EntryPlace>(),
                       counts.as<std::uint32_t>(),
                       device_units.as<std::uint32_t>(),
                       device_before.as<std::uint32_t>(),
                       tiles_.data(),
                       panel_columns_.as<std::uint16_t>(),
                       tile_columns.as<std::uint16_t>()};
  fill_entries(dense, rows, cols, fill, stream);
  pick_columns(tile_columns.as<std::uint16_t>(), device_first.as<std::uint32_t>(), std::ssize(first_tiles),
               range_columns_.as<std::uint16_t>(), stream);
  check(cudaStreamSynchronize(stream));
}

EntryWeight EntryBuffers::weight() const {
  return {.tiles = tiles_.as<uint4>(),
          .ranges = ranges_.as<uint4>(),
          .first_panels = first_panels_.as<std::uint32_t>(),
          .range_columns = range_columns_.as<std::uint16_t>(),
          .panel_columns = panel_columns_.as<std::uint16_t>(),
          .lengths = lengths_.as<std::uint32_t>(),
          .rows = rows_.as<std::uint32_t>(),
          .blocks = blocks_,
          .most_panels = most_panels_};
}

std::uint64_t EntryBuffers::bytes() const {
  std::uint64_t bytes = 0;
  for (const DeviceBuffer* buffer :
       {&tiles_, &ranges_, &first_panels_, &range_columns_, &panel_columns_, &lengths_, &rows_})
    bytes += buffer->bytes();
  return bytes;
}

}  // namespace swiftprune::cuda
