#include "swiftprune/masking/zero_scan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <mutex>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kRowsPerChunk = 64;  // a multiple of every tile's height

// Reads one row: nonzero bits, and counts of what a zero scan reports besides.
template <class Bits, Bits kMagnitude, Bits kInfinity>
void read_row(const std::byte* row, std::int64_t cols, std::uint64_t* kept, ZeroScan& scan) {
  constexpr std::int64_t kWord = 64;
  for (std::int64_t first = 0; first < cols; first += kWord) {
    const std::int64_t count = std::min(kWord, cols - first);
    alignas(64) Bits bits[kWord] = {};
    std::memcpy(bits, row + first * static_cast<std::int64_t>(sizeof(Bits)),
                static_cast<std::size_t>(count) * sizeof(Bits));
    std::uint8_t nonzero[kWord];
    Bits bad = 0, negative_zeros = 0;
    for (std::int64_t i = 0; i < kWord; ++i) {
      nonzero[i] = (bits[i] & kMagnitude) != 0;
      bad = static_cast<Bits>(bad + ((bits[i] & kInfinity) == kInfinity));
      negative_zeros = static_cast<Bits>(negative_zeros + (bits[i] == static_cast<Bits>(~kMagnitude)));
    }
    std::uint64_t word = 0;
    for (int i = 0; i < 8; ++i) {
      std::uint64_t eight = 0;
      std::memcpy(&eight, nonzero + 8 * i, 8);
      // Gathers the lowest bits of eight bytes in the top byte.
      word |= (eight * 0x0102040810204080u >> 56) << (8 * i);
    }
    kept[first / kWord] = word;
    scan.num_not_finite += bad;
    scan.num_negative_zeros += negative_zeros;
    scan.num_zeros += count - std::popcount(word);
  }
}

void read_row(const WeightView& weight, std::int64_t r, std::uint64_t* kept, ZeroScan& scan) {
  switch (weight.dtype) {
    case DType::kF32:
      return read_row<std::uint32_t, 0x7fffffffu, 0x7f800000u>(weight.row(r), weight.cols, kept, scan);
    case DType::kF16:
      return read_row<std::uint16_t, 0x7fff, 0x7c00>(weight.row(r), weight.cols, kept, scan);
    case DType::kBF16:
      return read_row<std::uint16_t, 0x7fff, 0x7f80>(weight.row(r), weight.cols, kept, scan);
    default:
      expect(false, "scan_zeros: F32, F16 or BF16");
  }
}

// kMasks[i]: the lowest bit of every group of 2^i.
constexpr std::uint64_t kMasks[7] = {~std::uint64_t{0},
                                     0x5555555555555555u,
                                     0x1111111111111111u,
                                     0x0101010101010101u,
                                     0x0001000100010001u,
                                     0x0000000100000001u,
                                     1u};

// Bits of every group of 2, 4, ... 32, added up in place of the group.
void update_max_kept(std::uint64_t word, std::array<std::int64_t, ZeroScan::kNumGroups>& max_kept) {
  constexpr std::uint64_t kFields[] = {0x5555555555555555u, 0x3333333333333333u, 0x0f0f0f0f0f0f0f0fu,
                                       0x00ff00ff00ff00ffu, 0x0000ffff0000ffffu};
  std::uint64_t sums = word;
  for (std::size_t g = 0; g < max_kept.size(); ++g) {
    const int size = 2 << g;
    sums = (sums & kFields[g]) + ((sums >> (size / 2)) & kFields[g]);
    if (max_kept[g] >= size) continue;
    const std::uint64_t field = (std::uint64_t{1} << size) - 1;
    for (std::uint64_t rest = sums; rest != 0; rest >>= size) {
      max_kept[g] = std::max(max_kept[g], static_cast<std::int64_t>(rest & field));
    }
  }
}

// Groups of 1, 2, ... 64 bits of `row` that are all zero.
void count_zero_tiles(const std::uint64_t* row, std::int64_t cols,
                      std::array<std::int64_t, ZeroScan::kNumTileSizes>& num_zero_tiles) {
  for (std::int64_t w = 0; w * 64 < cols; ++w) {
    const std::int64_t count = std::min<std::int64_t>(64, cols - w * 64);
    std::uint64_t any = row[w];
    for (std::size_t c = 0; c < num_zero_tiles.size(); ++c) {
      if (c > 0) any |= any >> (std::uint64_t{1} << (c - 1));
      num_zero_tiles[c] += (count >> c) - std::popcount(any & kMasks[c]);
    }
  }
}

void scan_chunk(const WeightView& weight, std::int64_t first, std::int64_t last, ZeroScan& scan,
                std::vector<std::uint64_t>& any_row) {
  const std::int64_t words = (weight.cols + 63) / 64;
  std::int64_t height = last - first;
  std::vector<std::uint64_t> kept(static_cast<std::size_t>(height * words));
  const auto row = [&](std::int64_t r) { return kept.data() + r * words; };
  for (std::int64_t r = 0; r < height; ++r) {
    read_row(weight, first + r, row(r), scan);
    bool any = false;
    for (std::int64_t w = 0; w < words; ++w) {
      update_max_kept(row(r)[w], scan.max_kept);
      any_row[static_cast<std::size_t>(w)] |= row(r)[w];
      any = any || row(r)[w] != 0;
    }
    scan.num_zero_rows += any ? 0 : 1;
  }
  // Rows are joined in pairs: 64, 32, ... 1 of them, each as tall as a tile.
  for (std::size_t level = 0; level < scan.num_zero_tiles.size(); ++level) {
    for (std::int64_t r = 0; r < height; ++r)
      count_zero_tiles(row(r), weight.cols, scan.num_zero_tiles[level]);
    height /= 2;
    for (std::int64_t r = 0; r < height; ++r) {
      for (std::int64_t w = 0; w < words; ++w) row(r)[w] = row(2 * r)[w] | row(2 * r + 1)[w];
    }
  }
}

void add(const ZeroScan& part, ZeroScan& total) {
  total.num_zeros += part.num_zeros;
  total.num_negative_zeros += part.num_negative_zeros;
  total.num_not_finite += part.num_not_finite;
  total.num_zero_rows += part.num_zero_rows;
  for (std::size_t g = 0; g < total.max_kept.size(); ++g) {
    total.max_kept[g] = std::max(total.max_kept[g], part.max_kept[g]);
  }
  for (std::size_t r = 0; r < total.num_zero_tiles.size(); ++r) {
    for (std::size_t c = 0; c < total.num_zero_tiles.size(); ++c) {
      total.num_zero_tiles[r][c] += part.num_zero_tiles[r][c];
    }
  }
}

// Where groups or tiles do not divide the matrix the counts above mean nothing.
void drop_uneven(ZeroScan& scan) {
  for (std::size_t g = 0; g < scan.max_kept.size(); ++g) {
    if (scan.cols % (2 << g) != 0) scan.max_kept[g] = 2 << g;
  }
  for (std::size_t r = 0; r < scan.num_zero_tiles.size(); ++r) {
    for (std::size_t c = 0; c < scan.num_zero_tiles.size(); ++c) {
      if (scan.rows % (1 << r) != 0 || scan.cols % (1 << c) != 0) scan.num_zero_tiles[r][c] = 0;
    }
  }
}

}  // namespace

ZeroScan scan_zeros(WeightView weight) {
  ZeroScan total;
  total.rows = weight.rows;
  total.cols = weight.cols;
  std::vector<std::uint64_t> any_row(static_cast<std::size_t>((weight.cols + 63) / 64));
  std::mutex mutex;
  parallel_for(weight.rows, kRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    ZeroScan part;
    std::vector<std::uint64_t> any(any_row.size());
    scan_chunk(weight, first, last, part, any);
    const std::lock_guard lock(mutex);  // sums of integers: the order does not matter
    add(part, total);
    for (std::size_t w = 0; w < any.size(); ++w) any_row[w] |= any[w];
  });
  total.num_zero_cols = weight.cols;
  for (const std::uint64_t word : any_row) total.num_zero_cols -= std::popcount(word);
  drop_uneven(total);
  return total;
}

namespace {

constexpr double kMinSurprise = 10.0;  // groups or tiles that chance would have had otherwise

// How many of the groups of m would keep more than n if the zeros lay at random.
double expected_violations(const ZeroScan& scan, std::int64_t n, std::int64_t m) {
  const double kept = 1.0 - scan.sparsity();
  double more = 0.0;
  for (std::int64_t k = n + 1; k <= m; ++k) {
    const double ways =
        std::exp(std::lgamma(static_cast<double>(m + 1)) - std::lgamma(static_cast<double>(k + 1)) -
                 std::lgamma(static_cast<double>(m - k + 1)));
    more += ways * std::pow(kept, static_cast<double>(k)) * std::pow(1.0 - kept, static_cast<double>(m - k));
  }
  return more * static_cast<double>(scan.numel()) / static_cast<double>(m);
}

std::optional<Pattern> find_tiles(const ZeroScan& scan) {
  std::optional<Pattern> best;
  for (std::size_t r = 0; r < scan.num_zero_tiles.size(); ++r) {
    for (std::size_t c = 0; c < scan.num_zero_tiles.size(); ++c) {
      const std::int64_t area = std::int64_t{1} << (r + c);
      const std::int64_t inside = scan.num_zero_tiles[r][c] * area;
      // A kept tile may hold a few zeros of its own.
      if (area < 4 || inside * 1000 < scan.num_zeros * 999) continue;
      const double by_chance = static_cast<double>(scan.numel()) / static_cast<double>(area) *
                               std::pow(scan.sparsity(), static_cast<double>(area));
      if (static_cast<double>(scan.num_zero_tiles[r][c]) < by_chance + kMinSurprise) continue;
      if (!best || area > best->block_rows * best->block_cols) {
        best = Pattern{.kind = Pattern::Kind::kBlock, .block_rows = 1 << r, .block_cols = 1 << c};
      }
    }
  }
  return best;
}

}  // namespace

std::optional<Pattern> find_pattern(const ZeroScan& scan) {
  if (scan.num_zeros == 0 || scan.num_zeros == scan.numel()) return std::nullopt;
  if (const auto tiles = find_tiles(scan)) return tiles;
  std::optional<Pattern> best;
  for (std::size_t g = 0; g < scan.max_kept.size(); ++g) {
    const std::int64_t m = 2 << g, n = scan.max_kept[g];
    if (n >= m || expected_violations(scan, n, m) < kMinSurprise) continue;
    if (!best || n * best->m < best->n * m) best = Pattern{.kind = Pattern::Kind::kNofM, .n = n, .m = m};
  }
  return best;
}

}  // namespace swiftprune
