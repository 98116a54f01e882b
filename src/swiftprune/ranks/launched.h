// Did somebody start this process as one of several ranks? Known from the environment that mpirun, srun, torchrun and
// --gpus give, before anything of MPI or NCCL is called.
#pragma once

#include <optional>
#include <string_view>

namespace swiftprune {

struct LaunchedRank {
  int rank = 0;
  int size = 1;
  int local_rank = 0;              // among those on this host; 0 where it is not told
  int gpu = 0;                     // that it takes: the local rank's, or the only one that it is shown
  bool has_mpi = true;             // the launcher starts processes that MPI joins
  std::string_view launcher;       // "mpirun"
  std::string_view size_variable;  // of the environment, that tells so
};

// What --gpus gives the processes that it starts.
inline constexpr const char* kOwnRankVariables[] = {"SWIFTPRUNE_RANK", "SWIFTPRUNE_RANKS",
                                                    "SWIFTPRUNE_LOCAL_RANK"};

// Nothing where there are no others. Throws Error{kUsage} naming the variable for one that is no number or contradicts
// another.
std::optional<LaunchedRank> launched_rank();

}  // namespace swiftprune
