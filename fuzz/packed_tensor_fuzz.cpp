// Arbitrary bytes as a packed tensor. The size and the checksum are made right, so that the rules behind them
// are reached; what is accepted is multiplied and unpacked, and must stay inside its bytes.
#include <xxhash.h>

#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/sparse/linear.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace {

constexpr std::size_t kHeader = 64, kNumBytes = 40, kChecksum = 48;
constexpr std::int64_t kMaxWeights = 1 << 12;  // a round of fuzzing stays short

struct Free {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace swiftprune;
  const std::unique_ptr<std::byte[], Free> memory(
      static_cast<std::byte*>(::operator new[](size + 1, std::align_val_t{64})));
  std::memcpy(memory.get(), data, size);
  if (size >= kHeader) {
    const std::uint64_t bytes = size;
    const std::uint64_t zero = 0;
    std::memcpy(memory.get() + kNumBytes, &bytes, sizeof bytes);
    std::memcpy(memory.get() + kChecksum, &zero, sizeof zero);
    const std::uint64_t checksum = XXH3_64bits(memory.get(), size);
    std::memcpy(memory.get() + kChecksum, &checksum, sizeof checksum);
  }
  try {
    const PackedTensor tensor = PackedTensor::parse({memory.get(), size}, "fuzz", nullptr);
    if (tensor.rows() * tensor.cols() > kMaxWeights) return 0;
    const Linear linear(tensor);
    const Matrix x = Matrix::zeros(20, tensor.cols());
    Matrix y(20, tensor.rows());
    for (const std::int64_t tokens : {1, 3, 20}) {
      linear.forward(x.view().row_block(0, tokens), {}, y.view().row_block(0, tokens));
    }
    unpack_f32(tensor);
    if (is_grid(tensor.kind())) {
      unpack_quantized(tensor);
      std::vector<float> row(static_cast<std::size_t>(tensor.cols()));
      unpack_row(tensor, tensor.rows() - 1, row);
    } else {
      unpack(tensor);
    }
  } catch (const Error&) {
  }
  return 0;
}
