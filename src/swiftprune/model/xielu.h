// The numbers of an activation that learns two of them (Xielu in model/model_config.h).
#pragma once

#include <array>

namespace swiftprune {

class Checkpoint;
struct Xielu;

using XieluNumbers = std::array<float, 4>;  // alpha_p and alpha_n behind their softplus, beta, eps
// Throws Error{kBadInput} naming the tensor.
XieluNumbers load_xielu(const Checkpoint& checkpoint, const Xielu& xielu);

}  // namespace swiftprune
