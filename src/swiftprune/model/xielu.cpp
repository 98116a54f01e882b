#include "swiftprune/model/xielu.h"

#include <cmath>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/model/model_config.h"

namespace swiftprune {

XieluNumbers load_xielu(const Checkpoint& checkpoint, const Xielu& xielu) {
  const auto softplus = [](float x) { return std::log1p(std::exp(x)); };
  return {softplus(checkpoint.load_vector(xielu.alpha_p, 1).front()),
          softplus(checkpoint.load_vector(xielu.alpha_n, 1).front()),
          checkpoint.load_tensor(xielu.beta, {}).front(), checkpoint.load_tensor(xielu.eps, {}).front()};
}

}  // namespace swiftprune
