#include "swiftprune/cuda/sparse/packed_product.h"

#include <map>
#include <mutex>
#include <span>
#include <utility>

#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/cuda/sparse/packed_weight.h"

namespace swiftprune::cuda {
namespace {

// What the weights of one GPU share. It stays to the end of the process, as CUDA's own context does.
class Shared {
 public:
  static Shared& of(int index) {
    static std::mutex mutex;
    static auto* const all = new std::map<int, Shared>();
    const std::scoped_lock lock(mutex);
    return all->try_emplace(index).first->second;
  }

  struct OfStream {
    OfStream(DeviceMemory& memory, cudaStream_t stream) : products(memory, stream) {}
    Products products;
    DeviceBuffer scratch;
  };
  // With room for so many bytes; under the lock of mutex().
  OfStream& on(cudaStream_t stream, std::uint64_t scratch_bytes) {
    OfStream& found = streams_.try_emplace(stream, memory_, stream).first->second;
    if (found.scratch.bytes() < scratch_bytes) {
      found.scratch = {};  // what uses it still ends before it is freed
      found.scratch = DeviceBuffer(memory_, scratch_bytes, "a packed weight, expanded");
    }
    return found;
  }
  DeviceMemory& memory() { return memory_; }
  std::mutex& mutex() { return mutex_; }

 private:
  std::mutex mutex_;
  DeviceMemory memory_{0};
  std::map<cudaStream_t, OfStream> streams_;
};

// The thread's GPU is the caller's again at the end.
class OnGpu {
 public:
  explicit OnGpu(int index) {
    check(cudaGetDevice(&before_));
    check(cudaSetDevice(index));
  }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;
  ~OnGpu() { static_cast<void>(cudaSetDevice(before_)); }

 private:
  int before_ = 0;
};

class GpuPackedProduct final : public PackedProduct {
 public:
  GpuPackedProduct(Shared& shared, const PackedTensor& weight, int index, DType dtype)
      : shared_(shared), index_(index) {
    const std::scoped_lock lock(shared_.mutex());
    const Stream stream;
    weight_.emplace(shared_.memory(), std::span(&weight, 1), dtype, stream);
  }
  ~GpuPackedProduct() override {
    const std::scoped_lock lock(shared_.mutex());
    weight_.reset();
  }

  DType dtype() const override { return weight_->dtype(); }
  std::uint64_t bytes() const override { return weight_->bytes(); }

  void multiply(const void* x, std::int64_t tokens, const void* bias, void* y, DType y_dtype,
                void* stream) const override {
    const OnGpu gpu(index_);
    const std::scoped_lock lock(shared_.mutex());
    const auto given = static_cast<cudaStream_t>(stream);
    const bool expands = !weight_->is_dense() && tokens > kMaxDecodeTokens;
    const auto room = static_cast<std::uint64_t>(expands ? 2 * weight_->rows() * weight_->cols() : 0);
    Shared::OfStream& on = shared_.on(given, room);
    weight_->linear(on.products, view_of(const_cast<void*>(x), dtype(), tokens, weight_->cols()), bias,
                    view_of(y, y_dtype, tokens, weight_->rows()), false,
                    {on.scratch.data(), on.scratch.bytes()}, given);
  }

 private:
  Shared& shared_;
  const int index_;
  std::optional<DevicePacked> weight_;
};

}  // namespace

std::unique_ptr<PackedProduct> make_packed_product(const PackedTensor& weight, int index, DType grid_dtype) {
  const OnGpu gpu(index);
  const DType dtype = is_grid(weight.kind()) ? grid_dtype : weight.shape().dtype;
  return std::make_unique<GpuPackedProduct>(Shared::of(index), weight, index, dtype);
}

}  // namespace swiftprune::cuda
