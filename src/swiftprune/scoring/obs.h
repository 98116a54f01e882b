// What obs shares with a device that computes it in its own way.
#pragma once

namespace swiftprune {

inline constexpr double kObsDamping = 0.01;  // of the Gram matrix's mean diagonal

}  // namespace swiftprune
