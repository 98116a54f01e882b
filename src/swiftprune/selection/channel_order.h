// An order of a linear's inputs for N:M patterns: which inputs stand together in a group of M decides what can be kept,
// and the inputs of an output projection can change places for nothing (model/channel_fold.h). Idea: RIA (Zhang et al.,
// ICLR 2024): inputs are dealt out to the groups, then exchanged between groups by linear assignment.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/selection/pattern.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

// Sum over rows and groups of the n highest scores of each group, position p holding input order[p]. scores [O, I], >= 0;
// Kind::kNofM, m divides I.
double kept_score(ConstMatrixView scores, std::span<const std::int64_t> order, const Pattern& pattern);

// An order [I] that keeps at least as much as the given one does: position p holds input order[p]. The same with any
// number of threads.
std::vector<std::int64_t> grouped_order(ConstMatrixView scores, const Pattern& pattern);

// A permutation of 0 .. n-1 (row r gets column result[r]) with the highest sum of gains[r, result[r]]; gains [n, n].
std::vector<std::int64_t> best_assignment(ConstMatrixView gains);

}  // namespace swiftprune
