// What blocks have in device memory beside BlockWeights: of the block that ran last, or of all.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "swiftprune/cuda/runtime/runtime.h"

namespace swiftprune::cuda {

template <class OfLayer>
class PerLayer {
 public:
  // From now on nothing is forgotten.
  void keep_all() { keeps_all_ = true; }
  // The layer's, of make() where it is not there; others' are forgotten before.
  template <class Make>
  const OfLayer& get(std::int64_t layer, cudaStream_t stream, const Make& make) {
    const auto found = layers_.find(layer);
    if (found != layers_.end()) return found->second;
    if (!keeps_all_) {
      check(cudaStreamSynchronize(stream));  // nothing reads the last one's any more
      layers_.clear();
    }
    return layers_.emplace(layer, make()).first->second;
  }

 private:
  bool keeps_all_ = false;
  std::map<std::int64_t, OfLayer> layers_;
};

}  // namespace swiftprune::cuda
