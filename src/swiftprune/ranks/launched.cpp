#include "swiftprune/ranks/launched.h"

#include <charconv>
#include <cstdlib>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

struct Launcher {
  std::string_view name;
  const char *rank, *size, *local_rank;
  bool has_mpi = true;
  const char* beside = nullptr;  // a variable that must be there, too
};

// The first whose size is there tells. srun comes last: it may have started each of the others. SLURM's variables of a
// step, not of the job: inside a job every process has those.
constexpr Launcher kLaunchers[] = {
    {"--gpus", kOwnRankVariables[0], kOwnRankVariables[1], kOwnRankVariables[2], false},
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", false, "MASTER_ADDR"},
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

// srun may show each process the GPU that is meant for it alone.
bool sees_one_gpu() {
  const char* shown = std::getenv("CUDA_VISIBLE_DEVICES");
  return shown != nullptr && *shown != '\0' && std::string_view(shown).find(',') == std::string_view::npos;
}

}  // namespace

std::optional<LaunchedRank> launched_rank() {
  for (const Launcher& launcher : kLaunchers) {
    if (launcher.beside != nullptr && std::getenv(launcher.beside) == nullptr) continue;
    const std::optional<int> size = number_of(launcher.size);
    if (!size) continue;
    if (*size < 2) return std::nullopt;
    const std::optional<int> rank = number_of(launcher.rank);
    if (!rank || *rank >= *size) {
      bad_usage("{}: found {} in the environment beside {}={}, expected a number below it", launcher.rank,
                rank ? fmt::format("{}", *rank) : "nothing", launcher.size, *size);
    }
    const int local_rank = number_of(launcher.local_rank).value_or(0);
    return LaunchedRank{.rank = *rank,
                        .size = *size,
                        .local_rank = local_rank,
                        .gpu = sees_one_gpu() ? 0 : local_rank,
                        .has_mpi = launcher.has_mpi,
                        .launcher = launcher.name,
                        .size_variable = launcher.size};
  }
  return std::nullopt;
}

}  // namespace swiftprune
