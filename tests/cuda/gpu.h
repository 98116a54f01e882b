// A GPU for tests: cases skip visibly where there is none.
#pragma once

#include <gtest/gtest.h>

#include "support/devices.h"
#include "support/random_matrix.h"
#include "support/require.h"
#include "swiftprune/cuda/kernels.h"
#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/cuda/stages.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune::test {

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!have_gpu()) return;
    cuda::check(cudaSetDevice(0));
    memory_ = std::make_unique<cuda::DeviceMemory>(0);
    stream_ = std::make_unique<cuda::Stream>();
  }
  // Also what a kernel did wrong without being asked.
  void TearDown() override {
    if (stream_) {
      cuda::check(cudaDeviceSynchronize());
      cuda::check(cudaGetLastError());
    }
  }

  template <class T>
  cuda::DeviceBuffer upload(std::span<const T> values) {
    auto buffer = cuda::upload(*memory_, values, "test", *stream_);
    stream_->synchronize();
    return buffer;
  }
  template <class T>
  std::vector<T> download(const cuda::DeviceBuffer& buffer) {
    std::vector<T> values(buffer.bytes() / sizeof(T));
    cuda::check(
        cudaMemcpyAsync(values.data(), buffer.data(), buffer.bytes(), cudaMemcpyDeviceToHost, *stream_));
    stream_->synchronize();
    return values;
  }
  // A matrix on the device in `dtype`; values that dtype holds exactly stay as they are.
  cuda::DeviceBuffer upload_as(const Matrix& m, DType dtype) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(m.numel() * size_of(dtype)));
    convert_from_f32(m.values(), dtype, bytes);
    return upload(std::span<const std::byte>(bytes));
  }
  Matrix download_as(const cuda::DeviceBuffer& buffer, DType dtype, std::int64_t rows, std::int64_t cols) {
    const std::vector<std::byte> bytes = download<std::byte>(buffer);
    Matrix m(rows, cols);
    convert_to_f32(std::span(bytes).first(static_cast<std::size_t>(m.numel() * size_of(dtype))), dtype,
                   m.values());
    return m;
  }
  // Poisoned, so that what is not written shows.
  cuda::DeviceBuffer poisoned(std::int64_t bytes) {
    cuda::DeviceBuffer buffer(*memory_, static_cast<std::uint64_t>(bytes), "test");
    cuda::check(cudaMemsetAsync(buffer.data(), 0xff, buffer.bytes(), *stream_));
    return buffer;
  }

  std::unique_ptr<cuda::DeviceMemory> memory_;
  std::unique_ptr<cuda::Stream> stream_;
};

// Rounded to what dtype holds.
inline Matrix rounded(Matrix m, DType dtype) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(m.numel() * size_of(dtype)));
  convert_from_f32(m.values(), dtype, bytes);
  convert_to_f32(bytes, dtype, m.values());
  return m;
}

// |found - expected| / |expected|; NaN stays.
inline double relative_error(ConstMatrixView found, ConstMatrixView expected) {
  double difference = 0.0;
  double size = 0.0;
  for (std::int64_t r = 0; r < expected.rows; ++r) {
    for (std::int64_t c = 0; c < expected.cols; ++c) {
      const double d = double{found.at(r, c)} - double{expected.at(r, c)};
      difference += d * d;
      size += double{expected.at(r, c)} * double{expected.at(r, c)};
    }
  }
  return size == 0.0 ? difference : std::sqrt(difference / size);
}

}  // namespace swiftprune::test
