#include "ranks.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include <fmt/format.h>

#include "program.h"
#include "rank_launch.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/sha256.h"
#include "swiftprune/pipeline/record.h"
#include "swiftprune/ranks/launched.h"
#include "swiftprune/ranks/mpi_library.h"

namespace swiftprune::cli {
namespace {

// --threads, where it is not said: the cores of this host are shared by its ranks.
std::vector<std::string> arguments_of_ranks(const CommonOptions& common, int ranks) {
  std::vector<std::string> arguments = own_arguments();
  if (common.command->get_option("--threads")->count() > 0) return arguments;
  set_num_threads(0);
  arguments.push_back("--threads");
  arguments.push_back(fmt::format("{}", std::max(1, num_threads() / ranks)));
  return arguments;
}

// Results are the first rank's to print.
void be_silent(CommonOptions& common) {
  common.quiet = true;
  const int nowhere = ::open("/dev/null", O_WRONLY);
  if (nowhere < 0) return;
  std::fflush(stdout);
  ::dup2(nowhere, STDOUT_FILENO);
  ::close(nowhere);
}

// All ranks end. What is wrong with all of them alike is the first one's to tell, so the others give it time for that;
// that they were stopped is told by who stopped them.
[[noreturn]] void end_all(Communicator& ranks, std::exception_ptr error) {
  if (!ranks.is_first()) std::this_thread::sleep_for(std::chrono::seconds(2));
  const int code = exit_code_of(error, ranks.name() + ": ", ranks.is_first());
  std::fflush(stdout);
  ranks.abort(code);
  ::_exit(code);
}

}  // namespace

void add_rank_flags(CLI::App& command, CommonOptions& common, RankFlags& flags) {
  common.runs_in_ranks = true;
  command
      .add_option("--ranks", flags.ranks,
                  "So many processes of this host do the work together, with the result of one; needs "
                  "mpirun. Several "
                  "hosts: mpirun or srun in front of the command. 1: this process alone, whoever started it")
      ->check(CLI::Range(1, 4096));
  command
      .add_option("--rank-timeout", flags.timeout,
                  "With several ranks: end when nothing is heard of one for so many seconds")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str();
}

void run_in_ranks(CommonOptions& common, const RankFlags& flags,
                  const std::function<void(Communicator& ranks)>& work) {
  if (flags.ranks == 1) return work(alone());  // whoever started it
  const auto launched = launched_rank();
  if (!launched && flags.ranks < 2) return work(alone());
  if (is_hosted())
    bad_usage("--ranks: found in a program that runs commands itself, expected the program swiftprune");
  if (!launched) {
    check_mpi_library();
    if (const int code = launch_ranks(flags.ranks, arguments_of_ranks(common, flags.ranks)); code != 0)
      throw RanksEnded(code);
    return;
  }
  if (flags.ranks > 0 && flags.ranks != launched->size) {
    bad_usage("--ranks: found {}, but {} started {}; leave --ranks out", flags.ranks, launched->launcher,
              launched->size);
  }
  const auto ranks = make_mpi_communicator(std::chrono::seconds(flags.timeout));
  if (ranks->size() != launched->size) {
    bad_usage(
        "--ranks: found {} by MPI, but {} started {}; was MPI built for this launcher? (srun --mpi=pmix)",
        ranks->size(), launched->launcher, launched->size);
  }
  if (!ranks->is_first()) be_silent(common);
  try {
    check_same_on_ranks(*ranks, {{"version", SWIFTPRUNE_VERSION}});
    work(*ranks);
    ranks->finish();
  } catch (...) {
    end_all(*ranks, std::current_exception());
  }
}

nlohmann::ordered_json sampled_files(const Checkpoint& checkpoint) {
  constexpr std::uint64_t kSamples = 64, kSampleBytes = 4096;
  nlohmann::ordered_json result;
  for (const std::string& name : model_files(checkpoint)) {
    const std::filesystem::path path = checkpoint.folder() / name;
    const std::uint64_t size = std::filesystem::file_size(path);
    Sha256 hash;
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), &std::fclose);
    std::vector<char> sample(kSampleBytes);
    for (std::uint64_t i = 0; file && i < kSamples; ++i) {
      const std::uint64_t last = size > kSampleBytes ? size - kSampleBytes : 0;
      if (::fseeko(file.get(), static_cast<off_t>(last * i / (kSamples - 1)), SEEK_SET) != 0) break;
      const std::size_t count = std::fread(sample.data(), 1, sample.size(), file.get());
      hash.update(std::string_view(sample.data(), count));
    }
    result[name] = {size, hash.hex_digest()};
  }
  return result;
}

}  // namespace swiftprune::cli
