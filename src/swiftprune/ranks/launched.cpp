#include "swiftprune/ranks/launched.h"

#include <charconv>
#include <cstdlib>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

struct Launcher {
  std::string_view name;
  const char *rank, *size, *local_rank;
};

// The first whose size is there tells. srun comes last: it may have started mpirun. SLURM's variables of a step, not of
// the job: inside a job every process has those.
constexpr Launcher kLaunchers[] = {
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
    {"mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"},
    {"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"}};

std::optional<int> number_of(const char* variable) {
  const char* found = std::getenv(variable);
  if (found == nullptr || *found == '\0') return std::nullopt;
  const std::string_view text(found);
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0)
    bad_usage("{}: found '{}' in the environment, expected a number", variable, text);
  return value;
}

}  // namespace

std::optional<LaunchedRank> launched_rank() {
  for (const Launcher& launcher : kLaunchers) {
    const std::optional<int> size = number_of(launcher.size);
    if (!size) continue;
    if (*size < 2) return std::nullopt;
    const std::optional<int> rank = number_of(launcher.rank);
    if (!rank || *rank >= *size) {
      bad_usage("{}: found {} in the environment beside {}={}, expected a number below it", launcher.rank,
                rank ? fmt::format("{}", *rank) : "nothing", launcher.size, *size);
    }
    return LaunchedRank{*rank, *size, number_of(launcher.local_rank).value_or(0), launcher.name,
                        launcher.size};
  }
  if (std::getenv("TORCHELASTIC_RUN_ID") != nullptr && number_of("WORLD_SIZE").value_or(1) > 1) {
    bad_usage(
        "WORLD_SIZE: found processes that torchrun started, which only PyTorch can join; use --ranks, mpirun "
        "or "
        "srun");
  }
  return std::nullopt;
}

}  // namespace swiftprune
