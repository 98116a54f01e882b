// Commands that several processes do together: --ranks and --gpus start them on this host, and what mpirun, srun or
// torchrun started joins by itself.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <span>
#include <string_view>

#include "command.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/device/device.h"
#include "swiftprune/ranks/communicator.h"

namespace swiftprune::cli {

struct RankFlags {
  int ranks = 0;     // 0: one process, or as many as the launcher started
  int gpus = 0;      // the same, of a GPU each
  std::string init;  // how they find one another: "mpi", "env", "file:PATH"; empty: as the launcher has it
  std::int64_t timeout = kRankTimeLimit.count();
  std::string timeline;  // a file for core/timeline.h; empty: none
};
// Declares --ranks, --gpus, --init, --rank-timeout and --timeline. The command is known for one that ranks can do; apply()
// refuses every other one that was started as several ranks.
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

// Throws Error{kUsage} on a rank whose command, models (sizes and a hash of samples of their files), device or instruction
// set differs from the first one's. more: what else must not.
void check_same_run(Communicator& ranks, const CLI::App& command, std::span<const Checkpoint* const> models,
                    const Device& device,
                    const nlohmann::ordered_json& more = nlohmann::ordered_json::object());
// Throws Error{kUsage} for a flag that means one process alone.
void check_one_process(const Communicator& ranks, std::string_view flag, std::string_view instead);

}  // namespace swiftprune::cli
