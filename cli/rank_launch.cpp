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

std::vector<std::string> environment() {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) variables.emplace_back(*variable);
  for (const char* setting : kSettings) variables.emplace_back(setting);
  return variables;
}

pid_t start_mpirun(std::vector<std::string> arguments) {
  std::vector<std::string> variables = environment();
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);  // this program's own are blocked (signals.h), mpirun's are not to be
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, "mpirun", nullptr, &attributes, pointers_to(arguments).data(),
                                   pointers_to(variables).data());
  posix_spawnattr_destroy(&attributes);
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
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (code > 128 && !program_stop().stop_requested()) {
    clear_progress();
    const std::string who = watch.first() ? fmt::format("rank {} of {}", *watch.first(), ranks)
                                          : fmt::format("one of {} ranks", ranks);
    fmt::print(stderr, "swiftprune: {} was ended by signal {}{}; the others were stopped\n", who, code - 128,
               code - 128 == SIGKILL ? " (out of memory?)" : "");
  }
  return code;
}

}  // namespace swiftprune::cli
