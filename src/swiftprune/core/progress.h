// How long work tells where it is and learns that it is to stop. The library reports; only cli/ draws.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace swiftprune {

// done of total units of `stage` are finished; total 0: unknown.
using ProgressFn = std::function<void(std::string_view stage, std::int64_t done, std::int64_t total)>;

// Throws Interrupted when the run of this thread (core/run_context.h) was asked to stop; called between units
// of work, so that owners clean up.
void check_interrupt();

}  // namespace swiftprune
