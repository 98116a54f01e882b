// Starts this program several times on this host: through mpirun, or a process for each GPU.
#pragma once

#include <string>
#include <vector>

namespace swiftprune::cli {

// The arguments of this process, its program's file first.
std::vector<std::string> own_arguments();
// The program with these arguments in `ranks` processes; returns mpirun's exit code. A rank that a signal ended is told
// on standard error; every other one tells its own fault. Passes on that the program is to stop. Throws Error{kDevice}
// where there is no mpirun.
int launch_ranks(int ranks, const std::vector<std::string>& arguments);
// The same without mpirun: the processes know from kOwnRankVariables (ranks/launched.h) which they are. When one ends
// badly all others are asked to, and ended a while later.
int launch_gpu_ranks(int ranks, const std::vector<std::string>& arguments);

}  // namespace swiftprune::cli
