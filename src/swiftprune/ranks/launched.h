// Did somebody start this process as one of several ranks? Known from the environment that mpirun, srun and torchrun
// give, before anything of MPI is called.
#pragma once

#include <optional>
#include <string_view>

namespace swiftprune {

struct LaunchedRank {
  int rank = 0;
  int size = 1;
  int local_rank = 0;              // among those on this host; 0 where it is not told
  std::string_view launcher;       // "mpirun"
  std::string_view size_variable;  // of the environment, that tells so
};

// Nothing where there are no others. Throws Error{kUsage} naming the variable for one that is no number or contradicts
// another, and for torchrun, which starts processes that only PyTorch joins.
std::optional<LaunchedRank> launched_rank();

}  // namespace swiftprune
