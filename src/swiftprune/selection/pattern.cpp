#include "swiftprune/selection/pattern.h"

#include <charconv>
#include <cmath>
#include <numeric>
#include <optional>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kMaxTile = 1 << 20;  // above any matrix side; keeps products small

std::optional<std::int64_t> parse_count(std::string_view text, std::int64_t max) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 1 || value > max)
    return std::nullopt;
  return value;
}

// "AxB" or "A:B"
std::optional<std::pair<std::int64_t, std::int64_t>> parse_pair(std::string_view text, char separator,
                                                                std::int64_t max) {
  const std::size_t at = text.find(separator);
  if (at == std::string_view::npos) return std::nullopt;
  const auto first = parse_count(text.substr(0, at), max);
  const auto second = parse_count(text.substr(at + 1), max);
  if (!first || !second) return std::nullopt;
  return std::pair{*first, *second};
}

// A product such as 100 · 0.29 lies just below the whole number that is meant.
std::int64_t floor_count(double x) { return static_cast<std::int64_t>(std::floor(x + 1e-9)); }

std::int64_t rounded_count(double units, double sparsity, PruneTarget::Rounding rounding) {
  return rounding == PruneTarget::Rounding::kFloor ? floor_count(units * sparsity)
                                                   : std::llround(units * sparsity);
}

}  // namespace

Pattern parse_pattern(std::string_view text) {
  if (text == "row" || text == "unstructured") return {.kind = Pattern::Kind::kRow};
  if (text == "layer") return {.kind = Pattern::Kind::kLayer};
  constexpr std::string_view kBlockPrefix = "block:";
  if (text.starts_with(kBlockPrefix)) {
    if (const auto tile = parse_pair(text.substr(kBlockPrefix.size()), 'x', kMaxTile)) {
      return {.kind = Pattern::Kind::kBlock, .block_rows = tile->first, .block_cols = tile->second};
    }
  } else if (const auto group = parse_pair(text, ':', kMaxGroup); group && group->first < group->second) {
    return {.kind = Pattern::Kind::kNofM, .n = group->first, .m = group->second};
  }
  bad_usage(
      "pattern: found '{}', expected row, layer, N:M with N < M <= {} (2:4 keeps 2 of every 4), or block:RxC",
      text, kMaxGroup);
}

std::string format(const Pattern& pattern) {
  switch (pattern.kind) {
    case Pattern::Kind::kRow:
      return "row";
    case Pattern::Kind::kLayer:
      return "layer";
    case Pattern::Kind::kNofM:
      return fmt::format("{}:{}", pattern.n, pattern.m);
    case Pattern::Kind::kBlock:
      return fmt::format("block:{}x{}", pattern.block_rows, pattern.block_cols);
  }
  return "?";
}

void check_target(const PruneTarget& target, std::int64_t rows, std::int64_t cols) {
  const Pattern& p = target.pattern;
  if (p.kind == Pattern::Kind::kNofM) {
    expect(p.n >= 1 && p.n < p.m && p.m <= kMaxGroup, "check_target: n < m <= 32");
    if (cols % p.m != 0) {
      bad_input(
          "{}: found {} inputs, expected a multiple of {} for the pattern {}; leave it dense with --skip",
          target.tensor, cols, p.m, format(p));
    }
    return;
  }
  if (!(target.sparsity >= 0.0 && target.sparsity < 1.0)) {
    bad_usage("{}: sparsity: found {}, expected 0 <= sparsity < 1", target.tensor, target.sparsity);
  }
  if (p.kind == Pattern::Kind::kBlock) {
    expect(p.block_rows >= 1 && p.block_cols >= 1, "check_target: positive tiles");
    if (rows % p.block_rows != 0 || cols % p.block_cols != 0) {
      bad_input("{}: found [{}, {}], expected whole tiles of the pattern {}; leave it dense with --skip",
                target.tensor, rows, cols, format(p));
    }
  }
  if (target.row_counts.empty()) return;
  expect(p.kind == Pattern::Kind::kRow && static_cast<std::int64_t>(target.row_counts.size()) == rows,
         "check_target: one count a row, for the row pattern");
  for (std::int64_t count : target.row_counts) {
    expect(count >= 0 && count <= cols, "check_target: counts within the row");
  }
}

std::vector<std::int64_t> row_prune_counts(const PruneTarget& target, std::int64_t rows, std::int64_t cols) {
  if (!target.row_counts.empty()) return {target.row_counts.begin(), target.row_counts.end()};
  const Pattern& p = target.pattern;
  std::vector<std::int64_t> counts(static_cast<std::size_t>(rows));
  if (p.kind == Pattern::Kind::kNofM) {
    std::fill(counts.begin(), counts.end(), cols / p.m * (p.m - p.n));
    return counts;
  }
  expect(p.kind == Pattern::Kind::kRow, "row_prune_counts: a pattern with a count a row");
  if (target.rounding == PruneTarget::Rounding::kFloor) {
    std::fill(counts.begin(), counts.end(), floor_count(static_cast<double>(cols) * target.sparsity));
    return counts;
  }
  // Row r gets the whole numbers that total/rows · [r, r + 1) covers.
  const std::int64_t total = total_prune_count(target, rows, cols);
  const std::int64_t base = rows == 0 ? 0 : total / rows;
  const std::int64_t extra = rows == 0 ? 0 : total % rows;
  for (std::int64_t r = 0; r < rows; ++r) {
    counts[static_cast<std::size_t>(r)] = base + (r + 1) * extra / rows - r * extra / rows;
  }
  return counts;
}

std::int64_t total_prune_count(const PruneTarget& target, std::int64_t rows, std::int64_t cols) {
  const Pattern& p = target.pattern;
  const auto numel = static_cast<double>(rows * cols);
  switch (p.kind) {
    case Pattern::Kind::kNofM:
      return rows * (cols / p.m * (p.m - p.n));
    case Pattern::Kind::kBlock:
      return rounded_count(numel / static_cast<double>(p.block_rows * p.block_cols), target.sparsity,
                           target.rounding);
    case Pattern::Kind::kLayer:
      return rounded_count(numel, target.sparsity, target.rounding);
    case Pattern::Kind::kRow:
      break;
  }
  if (!target.row_counts.empty()) {
    return std::accumulate(target.row_counts.begin(), target.row_counts.end(), std::int64_t{0});
  }
  return target.rounding == PruneTarget::Rounding::kFloor
             ? rows * floor_count(static_cast<double>(cols) * target.sparsity)
             : std::llround(numel * target.sparsity);
}

double target_sparsity(const PruneTarget& target) {
  const Pattern& p = target.pattern;
  if (p.kind == Pattern::Kind::kNofM) return 1.0 - static_cast<double>(p.n) / static_cast<double>(p.m);
  return target.sparsity;
}

}  // namespace swiftprune
