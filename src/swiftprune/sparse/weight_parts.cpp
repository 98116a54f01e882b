#include "swiftprune/sparse/weight_parts.h"

#include "swiftprune/core/error.h"

namespace swiftprune {

WeightParts::Info WeightParts::info(const std::string& name) const {
  const TensorInfo& tensor = checkpoint_.at(name);
  if (tensor.shape.size() != 2 || tensor.numel() == 0) {
    bad_input("{}: tensor {}: found rank {}, expected a matrix",
              (checkpoint_.folder() / tensor.file).string(), name, tensor.shape.size());
  }
  return {tensor.dtype, tensor.shape[0], tensor.shape[1], tensor.file};
}

std::vector<std::byte> WeightParts::bytes(const std::string& name) const {
  const auto bytes = checkpoint_.bytes(checkpoint_.at(name));
  return {bytes.begin(), bytes.end()};
}

}  // namespace swiftprune
