#include "rank_launch.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <thread>

#include <fmt/format.h>

#include "progress.h"
#include "signals.h"
#include "swiftprune/core/error.h"
#include "swiftprune/ranks/launched.h"

extern char** environ;

namespace swiftprune::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRankVariable = "OMPI_COMM_WORLD_RANK";

// Settings of Open MPI that its mpirun takes as options, too; another MPI's does not mind them. Several ranks share the
// cores of this host and are not tied to one each; what is wrong is told by the ranks and by launch_ranks().
constexpr const char* kSettings[] = {"OMPI_MCA_rmaps_base_oversubscribe=1",
                                     "OMPI_MCA_hwloc_base_binding_policy=none",
                                     "OMPI_MCA_orte_execute_quiet=1",
                                     "OMPI_ALLOW_RUN_AS_ROOT=1",
                                     "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
                                     "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe",
                                     "PRTE_MCA_hwloc_default_binding_policy=none"};

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Starts the program; returns an errno.
int start(std::vector<std::string> arguments, const std::vector<std::string>& settings, pid_t& child) {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) variables.emplace_back(*variable);
  variables.insert(variables.end(), settings.begin(), settings.end());
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);  // this program's own are blocked (signals.h), the child's are not to be
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  std::string program = arguments.front();
  const int error = ::posix_spawnp(&child, program.c_str(), nullptr, &attributes,
                                   pointers_to(arguments).data(), pointers_to(variables).data());
  posix_spawnattr_destroy(&attributes);
  return error;
}

pid_t start_mpirun(std::vector<std::string> arguments) {
  pid_t child = 0;
  const int error = start(std::move(arguments), {std::begin(kSettings), std::end(kSettings)}, child);
  if (error == ENOENT) {
    fail(ErrorKind::kDevice,
         "--ranks: found no mpirun in PATH, which starts them (Debian: openmpi-bin); install it, or run one "
         "process");
  }
  if (error != 0) fail(ErrorKind::kDevice, "--ranks: mpirun cannot be started: {}", ::strerror(error));
  return child;
}

// The rank that a process is, from its environment.
std::optional<int> rank_of(pid_t process) {
  std::ifstream file(fmt::format("/proc/{}/environ", process));
  const std::string prefix = fmt::format("{}=", kRankVariable);
  for (std::string variable; std::getline(file, variable, '\0');) {
    if (variable.starts_with(prefix)) return std::atoi(variable.c_str() + prefix.size());
  }
  return std::nullopt;
}

// Which rank ended first, for mpirun ends the others then.
class Watch {
 public:
  Watch(pid_t mpirun, int ranks) : mpirun_(mpirun), ranks_(static_cast<std::size_t>(ranks)) {}

  void look() {
    if (processes_.size() < ranks_) find();
    if (first_) return;
    for (const auto& [rank, process] : processes_) {
      if (::kill(process, 0) != 0) first_ = rank;
    }
  }
  std::optional<int> first() const { return first_; }

 private:
  void find() {
    std::ifstream file(fmt::format("/proc/{0}/task/{0}/children", mpirun_));
    for (pid_t process = 0; file >> process;) {
      if (const auto rank = rank_of(process)) processes_[*rank] = process;
    }
  }

  pid_t mpirun_;
  std::size_t ranks_;
  std::map<int, pid_t> processes_;
  std::optional<int> first_;
};

int code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

void tell_signal(const std::string& who, int signal) {
  clear_progress();
  fmt::print(stderr, "swiftprune: {} was ended by signal {}{}; the others were stopped\n", who, signal,
             signal == SIGKILL ? " (out of memory?)" : "");
}

// The processes of launch_gpu_ranks().
class GpuRanks {
 public:
  explicit GpuRanks(const std::vector<std::string>& arguments, int ranks) {
    for (int rank = 0; rank < ranks; ++rank) {
      const int numbers[] = {rank, ranks, rank};
      std::vector<std::string> settings;
      for (std::size_t i = 0; i < std::size(numbers); ++i)
        settings.push_back(fmt::format("{}={}", kOwnRankVariables[i], numbers[i]));
      pid_t child = 0;
      if (const int error = start(arguments, settings, child); error != 0) {
        signal_all(SIGKILL);
        fail(ErrorKind::kFailure, "--gpus: rank {} cannot be started: {}", rank, ::strerror(error));
      }
      processes_[rank] = child;
    }
  }

  // The exit code of the first that ended badly, or 0, once all have ended.
  int wait() {
    std::optional<std::chrono::steady_clock::time_point> asked;
    bool killed = false;
    while (!processes_.empty()) {
      reap();
      if (!asked && (code_ != 0 || program_stop().stop_requested())) {
        signal_all(SIGTERM);
        asked = std::chrono::steady_clock::now();
      }
      if (asked && !killed && std::chrono::steady_clock::now() - *asked > kPatience) {
        signal_all(SIGKILL);
        killed = true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return code_;
  }
  // Of a rank that a signal ended before any other ended badly.
  std::optional<int> lost() const { return lost_; }

 private:
  static constexpr std::chrono::seconds kPatience{10};

  void reap() {
    for (auto process = processes_.begin(); process != processes_.end();) {
      int status = 0;
      if (::waitpid(process->second, &status, WNOHANG) == 0) {
        ++process;
        continue;
      }
      const int code = code_of(status);
      if (code != 0 && code_ == 0) {
        code_ = code;
        if (WIFSIGNALED(status)) lost_ = process->first;
      }
      process = processes_.erase(process);
    }
  }
  void signal_all(int signal) {
    for (const auto& [rank, process] : processes_) ::kill(process, signal);
  }

  std::map<int, pid_t> processes_;
  int code_ = 0;
  std::optional<int> lost_;
};

}  // namespace

std::vector<std::string> own_arguments() {
  std::vector<std::string> arguments;
  std::ifstream file("/proc/self/cmdline");
  for (std::string argument; std::getline(file, argument, '\0');) arguments.push_back(argument);
  if (arguments.empty()) fail(ErrorKind::kFailure, "--ranks: the program's own arguments cannot be read");
  arguments.front() = fs::read_symlink("/proc/self/exe").string();
  return arguments;
}

int launch_ranks(int ranks, const std::vector<std::string>& arguments) {
  std::vector<std::string> command = {"mpirun", "-n", fmt::format("{}", ranks)};
  command.insert(command.end(), arguments.begin(), arguments.end());
  const pid_t mpirun = start_mpirun(std::move(command));
  Watch watch(mpirun, ranks);
  int status = 0;
  for (bool told = false; ::waitpid(mpirun, &status, WNOHANG) == 0;) {
    watch.look();
    if (!told && program_stop().stop_requested()) {
      ::kill(mpirun, SIGTERM);
      told = true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const int code = code_of(status);
  if (code > 128 && !program_stop().stop_requested()) {
    tell_signal(watch.first() ? fmt::format("rank {} of {}", *watch.first(), ranks)
                              : fmt::format("one of {} ranks", ranks),
                code - 128);
  }
  return code;
}

int launch_gpu_ranks(int ranks, const std::vector<std::string>& arguments) {
  GpuRanks processes(arguments, ranks);
  const int code = processes.wait();
  if (const auto lost = processes.lost(); lost && !program_stop().stop_requested())
    tell_signal(fmt::format("rank {} of {}", *lost, ranks), code - 128);
  return code;
}

}  // namespace swiftprune::cli
