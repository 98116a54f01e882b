#include "swiftprune/tensor/growing_matrix.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>

#include "swiftprune/core/checked_math.h"

namespace swiftprune {

void GrowingMatrix::Unmap::operator()(float* data) const { ::munmap(data, bytes); }

GrowingMatrix::GrowingMatrix(std::int64_t rows, std::int64_t cols) : rows_(rows), cols_(cols) {
  const std::int64_t shape[] = {rows, cols};
  expect(checked_numel(shape).has_value(), "GrowingMatrix: a size that fits");
  const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(1, rows * cols)) * sizeof(float);
  void* const mapped =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  ::madvise(mapped, bytes, MADV_NOHUGEPAGE);  // a huge page is thousands of rows
  data_ = {static_cast<float*>(mapped), Unmap{bytes}};
}

void GrowingMatrix::copy_rows(const GrowingMatrix& other, std::int64_t count) {
  expect(other.cols_ == cols_ && count <= std::min(rows_, other.rows_), "copy_rows: rows of this width");
  std::copy_n(other.data_.get(), count * cols_, data_.get());
}

void GrowingMatrix::release_from(std::int64_t row) {
  expect(row >= 0 && row <= rows_, "release_from: a row of the matrix");
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t begin = static_cast<std::size_t>(row * cols_) * sizeof(float);
  const std::size_t first = (begin + page - 1) / page * page;  // the row before may reach into a page
  const std::size_t end = data_.get_deleter().bytes;
  if (data_ != nullptr && first < end)
    ::madvise(reinterpret_cast<std::byte*>(data_.get()) + first, end - first, MADV_DONTNEED);
}

}  // namespace swiftprune
