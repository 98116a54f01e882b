// One bit a weight: 1 = kept, 0 = pruned. Rows start at a 64-bit word; bits past the last column are 0.
#pragma once

#include <cstdint>
#include <vector>

namespace swiftprune {

class Mask {
 public:
  Mask() = default;
  Mask(std::int64_t rows, std::int64_t cols);  // nothing kept

  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  std::int64_t words_per_row() const { return words_per_row_; }
  // Bit c % 64 of word c / 64 is column c.
  std::uint64_t* row(std::int64_t r) { return words_.data() + r * words_per_row_; }
  const std::uint64_t* row(std::int64_t r) const { return words_.data() + r * words_per_row_; }
  bool kept(std::int64_t r, std::int64_t c) const { return (row(r)[c / 64] >> (c % 64)) & 1u; }
  void keep(std::int64_t r, std::int64_t c) { row(r)[c / 64] |= std::uint64_t{1} << (c % 64); }
  void prune(std::int64_t r, std::int64_t c) { row(r)[c / 64] &= ~(std::uint64_t{1} << (c % 64)); }
  std::int64_t num_kept() const;
  std::int64_t num_kept(std::int64_t r) const;
  bool operator==(const Mask&) const = default;

 private:
  std::int64_t rows_ = 0;
  std::int64_t cols_ = 0;
  std::int64_t words_per_row_ = 0;
  std::vector<std::uint64_t> words_;
};

}  // namespace swiftprune
