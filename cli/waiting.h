// How long a thread that waits for the others of a loop spins before it sleeps.
#pragma once

#include <string_view>

namespace swiftprune::cli {

// At the end of every parallel loop OpenMP's threads spin, by default for some milliseconds. Where other jobs hold
// the cores, the thread that they wait for is not even running, and all of that time is lost: the whole program then
// ran up to a hundred times slower. The library reads the bound before main() begins, so the program starts itself
// once more with it set, unless the user set GOMP_SPINCOUNT or OMP_WAIT_POLICY. Does nothing where that fails.
void bound_spinning(char** argv);

// Do other processes hold all cores? load: /proc/loadavg, whose fourth field counts what can run now, with us.
bool is_busy(std::string_view load, int cores);

}  // namespace swiftprune::cli
