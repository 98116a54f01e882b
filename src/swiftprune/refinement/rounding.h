// The usual ways onto a grid of few bits, for comparison. Both keep the zeros of the mask that they get.
// rtn: every weight to the nearest value; scales from each group's range.
// gptq(damping, order): column by column, what rounding changes is made up for in the columns that follow
// (arXiv 2210.17323). order 0: columns as they are, a group's scales from the range of its weights when its
// turn comes; 1: by falling diagonal of the Gram matrix ("act order"), scales from the weights at the start.
#pragma once

#include <memory>

#include "swiftprune/refinement/refiner.h"

namespace swiftprune {

std::unique_ptr<Refiner> make_rtn(const RtnOptions& options);
std::unique_ptr<Refiner> make_gptq(const GptqOptions& options);

}  // namespace swiftprune
