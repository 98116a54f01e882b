// Rows keep what was written; released ones hold nothing, and their memory is the system's again.
#include "swiftprune/tensor/growing_matrix.h"

#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace swiftprune {
namespace {

// Pages of the matrix that take memory.
std::int64_t resident_pages(const GrowingMatrix& matrix, std::int64_t cols) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto bytes = static_cast<std::size_t>(matrix.rows() * cols) * sizeof(float);
  std::vector<unsigned char> resident((bytes + page - 1) / page);
  // NOLINTNEXTLINE: the system asks for a pointer that it does not write to
  EXPECT_EQ(::mincore(const_cast<float*>(matrix.view().data), bytes, resident.data()), 0);
  std::int64_t count = 0;
  for (const unsigned char state : resident) count += state & 1;
  return count;
}

TEST(GrowingMatrix, MemoryComesAndGoesWithRows) {
  constexpr std::int64_t kRows = 4096, kCols = 100;
  GrowingMatrix matrix(kRows, kCols);
  EXPECT_EQ(resident_pages(matrix, kCols), 0);
  for (std::int64_t r = 0; r < 1000; ++r) std::fill_n(matrix.row(r), kCols, static_cast<float>(r));
  const std::int64_t written = resident_pages(matrix, kCols);
  EXPECT_GT(written, 0);
  EXPECT_LE(written, 1000 * kCols * 4 / ::sysconf(_SC_PAGESIZE) + 1);
  matrix.release_from(333);
  EXPECT_LE(resident_pages(matrix, kCols), 333 * kCols * 4 / ::sysconf(_SC_PAGESIZE) + 1);
  for (std::int64_t r = 0; r < 333; ++r) {
    for (std::int64_t c = 0; c < kCols; ++c) ASSERT_EQ(matrix.view().at(r, c), static_cast<float>(r));
  }
  matrix.release_from(0);
  EXPECT_EQ(resident_pages(matrix, kCols), 0);
  matrix.release_from(kRows);
}

TEST(GrowingMatrix, TakesAnothersFirstRows) {
  GrowingMatrix from(50, 3), to(60, 3);
  for (std::int64_t r = 0; r < 50; ++r) std::fill_n(from.row(r), 3, static_cast<float>(r + 1));
  to.copy_rows(from, 20);
  for (std::int64_t r = 0; r < 60; ++r)
    EXPECT_EQ(to.view().at(r, 2), r < 20 ? static_cast<float>(r + 1) : 0.0f);
}

TEST(GrowingMatrix, MayHaveNoColumns) {
  GrowingMatrix none(10, 0);
  none.release_from(0);
  none.copy_rows(GrowingMatrix(10, 0), 5);
  EXPECT_EQ(none.rows(), 10);
}

}  // namespace
}  // namespace swiftprune
