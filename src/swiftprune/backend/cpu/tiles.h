// How the products of the CPU backend are cut for the threads: by the sizes alone, so that results are the
// same bits with any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune::cpu {

struct Split {
  std::int64_t parts;
  std::int64_t size;  // of a part, a multiple of 16; the last ones may be shorter or empty
};

// About `tile` a part, but at least `least_parts`.
inline Split split(std::int64_t n, std::int64_t tile, std::int64_t least_parts = 1) {
  const std::int64_t parts = std::max(least_parts, ceil_div(n, tile));
  return {parts, round_up(ceil_div(n, parts), 16)};
}

// Calls body(r0, rows, c0, cols) for every tile of [rows, cols], a task each.
template <class Body>
void for_tiles(std::int64_t rows, std::int64_t cols, Split r, Split c, const Body& body) {
  parallel_for(r.parts * c.parts, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      const std::int64_t r0 = (t / c.parts) * r.size;
      const std::int64_t c0 = (t % c.parts) * c.size;
      if (r0 < rows && c0 < cols) body(r0, std::min(r.size, rows - r0), c0, std::min(c.size, cols - c0));
    }
  });
}

// The same for the tiles in rows [first, first + count), which begin and end where tiles of `r` do.
template <class Body>
void for_tile_rows(std::int64_t first, std::int64_t count, std::int64_t cols, Split r, Split c,
                   const Body& body) {
  for_tiles(count, cols, {ceil_div(count, r.size), r.size}, c,
            [&](std::int64_t r0, std::int64_t rows, std::int64_t c0, std::int64_t width) {
              body(first + r0, rows, c0, width);
            });
}

}  // namespace swiftprune::cpu
