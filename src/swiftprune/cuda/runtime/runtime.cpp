#include "swiftprune/cuda/runtime/runtime.h"

#include <algorithm>

#include "swiftprune/cuda/runtime/launch.h"

namespace swiftprune::cuda {

void check(cudaError_t status, std::source_location where) {
  if (status == cudaSuccess) return;
  const char* text = cudaGetErrorString(status);
  switch (status) {
    case cudaErrorMemoryAllocation:
      fail(ErrorKind::kDevice,
           "cuda: out of memory ({}); use fewer --windows, a shorter --seqlen or --device cpu", text);
    case cudaErrorInsufficientDriver:
      fail(ErrorKind::kDevice,
           "cuda: the driver is missing or older than this program needs ({}); update it or "
           "use --device cpu",
           text);
    case cudaErrorNoDevice:
      fail(ErrorKind::kDevice, "cuda: no GPU was found ({}); use --device cpu", text);
    case cudaErrorNoKernelImageForDevice:
      fail(ErrorKind::kDevice,
           "cuda: this program holds no code for this GPU ({}); build with its "
           "-DSWIFTPRUNE_CUDA_ARCHITECTURES or use --device cpu",
           text);
    default:
      fail(ErrorKind::kDevice, "cuda: {} ({}:{}); the device may be lost, nothing was written", text,
           where.file_name(), where.line());
  }
}

void check_launch(const char* kernel) {
  const cudaError_t status = cudaGetLastError();
  if (status == cudaSuccess) return;
  fail(ErrorKind::kDevice, "cuda: {}: {}; the device may be lost, nothing was written", kernel,
       cudaGetErrorString(status));
}

std::string gpu_name(int index) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index));
  return properties.name;
}

// Blocking streams would serialise with the default stream; nothing here uses that one.
Stream::Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
Stream::~Stream() { cudaStreamDestroy(stream_); }

Event::Event(bool timing) {
  check(cudaEventCreateWithFlags(&event_, timing ? cudaEventDefault : cudaEventDisableTiming));
}
Event::~Event() { cudaEventDestroy(event_); }
float Event::ms_since(const Event& start) const {
  float ms = 0.0f;
  check(cudaEventElapsedTime(&ms, start.event_, event_));
  return ms;
}

void Lanes::fork(cudaStream_t stream) {
  forked_.record(stream);
  for (const Stream& lane : lanes_) forked_.hold(lane);
}
cudaStream_t Lanes::next() {
  turn_ = (turn_ + 1) % kNumLanes;
  return lanes_[turn_];
}
void Lanes::join(cudaStream_t stream) {
  for (int i = 0; i < kNumLanes; ++i) {
    joined_[i].record(lanes_[i]);
    joined_[i].hold(stream);
  }
}

DeviceMemory::DeviceMemory(std::uint64_t limit_bytes) : limit_(limit_bytes) {
  if (limit_ != 0) return;
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total));
  limit_ = free;
}

void* DeviceMemory::allocate(std::uint64_t bytes, std::string_view what) {
  if (bytes > limit_ || used_ > limit_ - bytes) {
    fail(ErrorKind::kDevice,
         "cuda: {} needs {:.2f} GB beside {:.2f} GB in use, expected at most {:.2f} GB in all; use fewer "
         "--windows, "
         "a shorter --seqlen or a larger --gpu-memory",
         what, static_cast<double>(bytes) * 1e-9, static_cast<double>(used_) * 1e-9,
         static_cast<double>(limit_) * 1e-9);
  }
  void* data = nullptr;
  check(cudaMalloc(&data, std::max<std::uint64_t>(bytes, 1)));
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return data;
}

void DeviceMemory::release(void* data, std::uint64_t bytes) {
  cudaFree(data);  // an error here is an older one, and was or will be reported by check()
  used_ -= bytes;
}

DeviceBuffer::DeviceBuffer(DeviceMemory& memory, std::uint64_t bytes, std::string_view what)
    : memory_(&memory), data_(static_cast<std::byte*>(memory.allocate(bytes, what))), bytes_(bytes) {}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : memory_(other.memory_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  if (this == &other) return *this;
  free();
  memory_ = other.memory_;
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

void DeviceBuffer::free() {
  if (data_ != nullptr) memory_->release(data_, bytes_);
  data_ = nullptr;
}

PinnedBuffer::PinnedBuffer(std::uint64_t bytes) : bytes_(bytes) {
  void* data = nullptr;
  check(cudaHostAlloc(&data, std::max<std::uint64_t>(bytes, 1), cudaHostAllocDefault));
  data_ = static_cast<std::byte*>(data);
}
PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) cudaFreeHost(data_);
}

}  // namespace swiftprune::cuda
