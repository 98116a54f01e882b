// Commands that several processes do together: --ranks and --gpus start them on this host, and what mpirun, srun or
// torchrun started joins by itself.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>

#include "command.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/ranks/same_on_ranks.h"

namespace swiftprune::cli {

struct RankFlags {
  int ranks = 0;     // 0: one process, or as many as the launcher started
  int gpus = 0;      // the same, of a GPU each
  std::string init;  // how they find one another: "mpi", "env", "file:PATH"; empty: as the launcher has it
  std::int64_t timeout = kRankTimeLimit.count();
};
// Declares --ranks, --gpus, --init and --rank-timeout. The command is known for one that ranks can do; apply() refuses every other one
// that was started as several ranks.
void add_rank_flags(CLI::App& command, CommonOptions& common, RankFlags& flags);

// Runs the command in as many processes as the flags and the launcher say. Only the first rank prints; an error of any
// ends all, told once, with the rank's name. device: what --device says. Where this process is the one that starts the ranks, work() is theirs.
void run_in_ranks(CommonOptions& common, const RankFlags& flags, const std::string& device,
                  const std::function<void(Communicator& ranks)>& work);

// The ranks' exit code, where this process has only started them: they told what was wrong.
class RanksEnded : public std::exception {
 public:
  explicit RanksEnded(int exit_code) : exit_code_(exit_code) {}
  const char* what() const noexcept override { return "ranks ended"; }
  int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

// What tells a model's files from others without reading them whole, on any host: sizes and a hash of samples.
nlohmann::ordered_json sampled_files(const Checkpoint& checkpoint);

}  // namespace swiftprune::cli
