// The shape that the pruned weights form, and how many of them there are.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/tensor/mask.h"

namespace swiftprune {

struct Pattern {
  enum class Kind {
    kRow,    // unstructured, the same share of every row (output)
    kLayer,  // unstructured, one threshold for the whole matrix
    kNofM,   // keeps n of every m consecutive inputs
    kBlock,  // whole tiles of block_rows outputs × block_cols inputs
  };
  Kind kind = Kind::kRow;
  std::int64_t n = 0;
  std::int64_t m = 0;
  std::int64_t block_rows = 0;
  std::int64_t block_cols = 0;

  bool operator==(const Pattern&) const = default;
};

inline constexpr std::int64_t kMaxGroup = 32;  // largest m of n:m

// "row" (also "unstructured"), "layer", "2:4" (keeps 2 of every 4), "block:16x16". Throws Error{kUsage}.
Pattern parse_pattern(std::string_view text);
std::string format(const Pattern& pattern);

// What is asked of one linear.
struct PruneTarget {
  // How I·sparsity becomes a number of weights. kFloor: rounded down in each row, as in the published
  // methods. kExactTotal: rounded once for the whole matrix; rows differ by at most one weight.
  enum class Rounding { kFloor, kExactTotal };

  Pattern pattern{};
  double sparsity = 0.0;  // share that is pruned, 0 <= s < 1; n:m fixes its own and reads none
  Rounding rounding = Rounding::kFloor;
  std::span<const std::int64_t> row_counts{};  // [O] weights to prune in each row (Kind::kRow only) or empty
  std::string_view tensor{};                   // the name for messages
};

// Throws Error{kUsage} for a sparsity out of range, Error{kBadInput} for a pattern that does not divide
// [rows, cols] (with the tensor's name).
void check_target(const PruneTarget& target, std::int64_t rows, std::int64_t cols);

// Weights to prune in each row, [rows]; Kind::kRow and kNofM.
std::vector<std::int64_t> row_prune_counts(const PruneTarget& target, std::int64_t rows, std::int64_t cols);
// Units (weights, or tiles of Kind::kBlock) to prune in the whole matrix.
std::int64_t total_prune_count(const PruneTarget& target, std::int64_t rows, std::int64_t cols);
// The share that the target asks for: 1 - n/m for n:m.
double target_sparsity(const PruneTarget& target);

}  // namespace swiftprune
