// What the products of bf16 operands share.
#pragma once

#include <cstdint>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

#include "swiftprune/tensor/matrix.h"

namespace swiftprune::cpu {

dnnl::engine& engine();
// x [N, I] -> [N, I] without gaps, rounded to nearest even
std::vector<std::uint16_t> rounded(ConstMatrixView x);

}  // namespace swiftprune::cpu
