// A block's forward over whole windows, for the choices of widths, and what its units are worth there.
#pragma once

#include <string>
#include <vector>

#include "swiftprune/model/decoder_block.h"

namespace swiftprune {

// hidden [windows·seqlen, hidden] passes through the block in place.
void forward_windows(const DecoderBlock& block, const Backend& backend, const std::vector<RopeTable>& ropes,
                     std::int64_t seqlen, MatrixView hidden, const InputObserver* observer = nullptr);

// The same; returns the scores (structure/unit_scores.h) of the columns of both output projections, by
// LinearInput.
std::vector<std::vector<double>> forward_scored(const DecoderBlock& block, const Backend& backend,
                                                const std::vector<RopeTable>& ropes, std::int64_t seqlen,
                                                const std::string& score, MatrixView hidden);

}  // namespace swiftprune
