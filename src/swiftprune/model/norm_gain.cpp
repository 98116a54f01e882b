#include "swiftprune/model/norm_gain.h"

#include <algorithm>

namespace swiftprune {

std::vector<float> load_gain(const Checkpoint& checkpoint, const NormTensors& tensors, std::int64_t size) {
  std::vector<float> gain;
  for (const std::string& name : NormTensors{tensors.gain, "", tensors.parts}.names()) {
    const std::vector<std::int64_t>& shape = checkpoint.at(name).shape;
    if (shape.size() == 2) {
      const Matrix rows = checkpoint.load_matrix(name, shape[0], shape[1]);
      gain.insert(gain.end(), rows.values().begin(), rows.values().end());
    } else {
      const std::vector<float> part =
          checkpoint.load_vector(name, size / std::max<std::int64_t>(1, tensors.parts));
      gain.insert(gain.end(), part.begin(), part.end());
    }
  }
  return gain;
}

}  // namespace swiftprune
