// CUDA's handles as owners: streams, events, device and pinned memory; every status checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <cuda_runtime_api.h>

#include "swiftprune/core/error.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune::cuda {

// Throws Error{kDevice} with what CUDA says and what to do about it.
void check(cudaError_t status, std::source_location where = std::source_location::current());

// "NVIDIA H100 80GB HBM3"
std::string gpu_name(int index);

class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }
  void synchronize() const { check(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  explicit Event(bool timing = false);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) const { check(cudaEventRecord(event_, stream)); }
  // Work given to `stream` from now on waits for what was recorded.
  void hold(cudaStream_t stream) const { check(cudaStreamWaitEvent(stream, event_, 0)); }
  void synchronize() const { check(cudaEventSynchronize(event_)); }
  float ms_since(const Event& start) const;

 private:
  cudaEvent_t event_ = nullptr;
};

// A few streams in turn for kernels that do not depend on each other: the end of one overlaps the start of
// the next.
class Lanes {
 public:
  // The lanes wait for what `stream` has been given.
  void fork(cudaStream_t stream);
  cudaStream_t next();
  // `stream` waits for the lanes.
  void join(cudaStream_t stream);

 private:
  static constexpr int kNumLanes = 3;
  Stream lanes_[kNumLanes];
  Event forked_, joined_[kNumLanes];
  int turn_ = 0;
};

// The device memory of one run: everything is taken from here, so that a limit holds and the peak is known.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::uint64_t limit_bytes);  // 0: what is free now
  void* allocate(std::uint64_t bytes, std::string_view what);
  void release(void* data, std::uint64_t bytes);
  std::uint64_t limit() const { return limit_; }
  std::uint64_t used() const { return used_; }
  std::uint64_t peak() const { return peak_; }

 private:
  std::uint64_t limit_, used_ = 0, peak_ = 0;
};

// Uninitialised device memory, 256-byte aligned.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(DeviceMemory& memory, std::uint64_t bytes, std::string_view what);
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer() { free(); }
  std::uint64_t bytes() const { return bytes_; }
  std::byte* data() const { return data_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  void free();
  DeviceMemory* memory_ = nullptr;
  std::byte* data_ = nullptr;
  std::uint64_t bytes_ = 0;
};

// Page-locked host memory: copies to and from it run beside everything else.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(std::uint64_t bytes);
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~PinnedBuffer();
  std::byte* data() const { return data_; }
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::uint64_t bytes_ = 0;
};

// A row-major matrix on the device: F32, F16 or BF16. `stride`: elements from one row to the next.
struct DeviceView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  std::byte* row(std::int64_t r) const { return static_cast<std::byte*>(data) + r * stride * size_of(dtype); }
  DeviceView row_block(std::int64_t first, std::int64_t count) const {
    expect(first >= 0 && count >= 0 && first + count <= rows, "row_block: rows inside the matrix");
    return {row(first), dtype, count, cols, stride};
  }
  DeviceView col_block(std::int64_t first, std::int64_t count) const {
    expect(first >= 0 && count >= 0 && first + count <= cols, "col_block: columns inside the matrix");
    return {static_cast<std::byte*>(data) + first * size_of(dtype), dtype, rows, count, stride};
  }
  std::int64_t numel() const { return rows * cols; }
};

inline DeviceView view_of(void* data, DType dtype, std::int64_t rows, std::int64_t cols) {
  return {data, dtype, rows, cols, cols};
}

// A contiguous matrix that owns its memory.
class DeviceMatrix {
 public:
  DeviceMatrix() = default;
  DeviceMatrix(DeviceMemory& memory, DType dtype, std::int64_t rows, std::int64_t cols, std::string_view what)
      : buffer_(memory, static_cast<std::uint64_t>(rows * cols * size_of(dtype)), what),
        view_{buffer_.data(), dtype, rows, cols, cols} {}
  DeviceView view() const { return view_; }
  bool empty() const { return view_.numel() == 0; }
  void set_zero(cudaStream_t stream) const {
    check(cudaMemsetAsync(buffer_.data(), 0, buffer_.bytes(), stream));
  }

 private:
  DeviceBuffer buffer_;
  DeviceView view_;
};

// From memory of the host that is not pinned: CUDA has read the values when the call returns, so they may go then.
template <class Values>
void copy_to_device(const Values& values, void* to, cudaStream_t stream) {
  const auto bytes = std::as_bytes(std::span(values));
  if (bytes.empty()) return;
  check(cudaMemcpyAsync(to, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream));
}

template <class T>
DeviceBuffer upload(DeviceMemory& memory, std::span<const T> values, std::string_view what,
                    cudaStream_t stream) {
  DeviceBuffer buffer(memory, values.size_bytes(), what);
  copy_to_device(values, buffer.data(), stream);
  return buffer;
}

}  // namespace swiftprune::cuda
