#include "swiftprune/pipeline/tensor_output.h"

#include <vector>

#include "swiftprune/core/parallel.h"

namespace swiftprune {

void write_tensor(TensorOutput& output, const std::string& name, DType dtype, std::span<const float> values) {
  if (!output.takes(name)) return;
  constexpr std::int64_t kChunk = std::int64_t{1} << 20;  // values
  parallel_for(std::ssize(values), kChunk, [&](std::int64_t first, std::int64_t last) {
    const auto part = values.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
    std::vector<std::byte> bytes(part.size() * static_cast<std::size_t>(size_of(dtype)));
    convert_from_f32(part, dtype, bytes);
    output.write_part(name, first, bytes);
  });
}

}  // namespace swiftprune
