// How long work tells where it is and learns that it is to stop. The library reports; only cli/ draws.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace swiftprune {

// done of total units of `stage` are finished; total 0: unknown.
using ProgressFn = std::function<void(std::string_view stage, std::int64_t done, std::int64_t total)>;

// Set by the signal handler of cli/ (async-signal-safe).
void request_interrupt();
// Throws Error{kFailure, "interrupted"} after request_interrupt(); called between units of work, so that
// owners clean up.
void check_interrupt();

}  // namespace swiftprune
