// Which tensors of a checkpoint are the linears of its blocks: those that pruning works on.
#pragma once

#include <set>
#include <string>
#include <string_view>

#include "swiftprune/checkpoint/checkpoint.h"

namespace swiftprune {

// The family's own; for an unknown family every weight matrix of a numbered block.
std::set<std::string> block_linear_names(const Checkpoint& checkpoint);

// "a.12.b" -> "a.*.b": the first component that is a number is the block. A name without one stays.
std::string with_block_star(std::string_view tensor);

}  // namespace swiftprune
