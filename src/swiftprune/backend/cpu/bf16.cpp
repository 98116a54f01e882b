#include "swiftprune/backend/cpu/bf16.h"

#include "swiftprune/backend/cpu/kernels.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune::cpu {

dnnl::engine& engine() {
  static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

std::vector<std::uint16_t> rounded(ConstMatrixView x) {
  constexpr std::int64_t kRowChunk = 256;
  std::vector<std::uint16_t> values(static_cast<std::size_t>(x.numel()));
  parallel_for(x.rows, kRowChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r)
      kernels().to_bf16(x.row(r), values.data() + r * x.cols, x.cols);
  });
  return values;
}

}  // namespace swiftprune::cpu
