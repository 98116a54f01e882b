#include "ranks.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <thread>

#include <fmt/format.h>

#include "option_echo.h"
#include "program.h"
#include "rank_launch.h"
#include "signals.h"
#include "swiftprune/checkpoint/output_file.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/core/read_file.h"
#include "swiftprune/core/run_context.h"
#include "swiftprune/core/sha256.h"
#include "swiftprune/core/temporary_folder.h"
#include "swiftprune/core/timeline.h"
#include "swiftprune/device/nccl_ranks.h"
#include "swiftprune/pipeline/record.h"
#include "swiftprune/ranks/launched.h"
#include "swiftprune/ranks/mpi_library.h"
#include "swiftprune/ranks/same_on_ranks.h"

namespace swiftprune::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kInitFile = "file:";

// --threads, where it is not said: the cores of this host are shared by its ranks.
std::vector<std::string> arguments_of_ranks(const CommonOptions& common, int ranks) {
  std::vector<std::string> arguments = own_arguments();
  if (common.command->get_option("--threads")->count() > 0) return arguments;
  set_num_threads(0);
  arguments.push_back("--threads");
  arguments.push_back(fmt::format("{}", std::max(1, num_threads() / ranks)));
  return arguments;
}

int start_gpu_ranks(const CommonOptions& common, const RankFlags& flags) {
  std::vector<std::string> arguments = arguments_of_ranks(common, flags.gpus);
  if (common.command->get_option("--device")->count() == 0)
    arguments.insert(arguments.end(), {"--device", "cuda"});
  const TemporaryFolder folder = make_temporary_folder("ranks", "the file by which ranks find one another");
  if (flags.init.empty())
    arguments.insert(arguments.end(), {"--init", kInitFile + (folder.path() / "id").string()});
  return launch_gpu_ranks(flags.gpus, arguments);
}

// The id that NCCL's ranks find one another by, of the first rank, in a file that all of them see.
std::string id_by_file(const fs::path& path, const LaunchedRank& launched, std::chrono::seconds time_limit) {
  if (launched.rank == 0) {
    if (fs::exists(path))
      bad_usage("--init: found {}, which is there already, expected the name of a new file", path.string());
    std::string id = make_nccl_id();
    fs::path unfinished = path;
    unfinished += ".part";
    write_whole(unfinished, id);
    fs::rename(unfinished, path);
    return id;
  }
  const auto start = std::chrono::steady_clock::now();
  while (!fs::exists(path)) {
    check_interrupt();
    if (std::chrono::steady_clock::now() - start > time_limit) {
      fail(ErrorKind::kFailure, "--init: {}: the first rank has not written it within {} s (--rank-timeout)",
           path.string(), time_limit.count());
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return file_bytes(path);
}

// NCCL itself meets at an address; MASTER_PORT's own is the launcher's.
std::string id_by_environment() {
  const char* address = std::getenv("MASTER_ADDR");
  const char* port = std::getenv("MASTER_PORT");
  if (address == nullptr || port == nullptr)
    bad_usage(
        "--init env: found no MASTER_ADDR and MASTER_PORT in the environment, as torchrun sets them; use "
        "--init file:PATH");
  ::setenv("NCCL_COMM_ID", fmt::format("{}:{}", address, std::atoi(port) + 1).c_str(), 0);
  return make_nccl_id();
}

// Ranks as they were launched. mpi: outlives what is returned.
std::unique_ptr<Communicator> join(const LaunchedRank& launched, const RankFlags& flags,
                                   const std::string& device, std::unique_ptr<Communicator>& mpi) {
  const std::chrono::seconds time_limit(flags.timeout);
  const std::string how = !flags.init.empty() ? flags.init : launched.has_mpi ? "mpi" : "env";
  const bool on_gpus = device == "cuda";
  if (!on_gpus && device != "cpu") {
    bad_usage("--device: found {} with {} ranks, expected cpu, or cuda: each takes the GPU of its number",
              device, launched.size);
  }
  if (how != "mpi" && !on_gpus) {
    bad_usage(
        "--device: found {} with ranks that {} started, expected cuda; processors' ranks are joined by MPI: "
        "--ranks, mpirun or srun",
        device, launched.launcher);
  }
  NcclRank rank{
      .id = {}, .rank = launched.rank, .size = launched.size, .gpu = launched.gpu, .time_limit = time_limit};
  if (how != "mpi") {
    const bool by_file = how.starts_with(kInitFile);
    const fs::path file = by_file ? how.substr(std::string_view(kInitFile).size()) : "";
    rank.id = by_file ? id_by_file(file, launched, time_limit) : id_by_environment();
    auto ranks = join_nccl(rank);
    std::error_code ignored;
    if (by_file && ranks->is_first()) fs::remove(file, ignored);
    return ranks;
  }
  mpi = make_mpi_communicator(time_limit);
  if (mpi->size() != launched.size) {
    bad_usage(
        "--ranks: found {} by MPI, but {} started {}; was MPI built for this launcher? (srun --mpi=pmix)",
        mpi->size(), launched.launcher, launched.size);
  }
  if (!on_gpus) return std::move(mpi);
  rank.host = mpi.get();
  if (mpi->is_first()) rank.id = make_nccl_id();
  broadcast_text(*mpi, 0, rank.id);
  return join_nccl(rank);
}

// Binds a timeline where the flags want one, around work(); then the first rank writes it.
void with_timeline(const RankFlags& flags, Communicator& ranks,
                   const std::function<void(Communicator& ranks)>& work) {
  if (flags.timeline.empty()) return work(ranks);
  if (ranks.is_first()) check_output_file("--timeline", flags.timeline);
  std::int64_t together = 1;
  add_counts(ranks, std::span(&together, 1));
  Timeline timeline;
  {
    RunContext run = current_run();
    run.timeline = &timeline;
    const RunScope scope(std::move(run));
    work(ranks);
  }
  std::vector<std::string> events;
  for (int rank = 0; rank < ranks.size(); ++rank) {
    std::string text = rank == ranks.rank() ? timeline.events(rank) : std::string();
    broadcast_text(ranks, rank, text);
    events.push_back(std::move(text));
  }
  if (ranks.is_first()) write_whole(flags.timeline, trace_file(events));
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

// What is wrong with all ranks alike is the first one's to tell, so the others give it time for that. Was this one stopped
// meanwhile, by who ends all when the first has ended?
bool is_told_by_first() {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  while (std::chrono::steady_clock::now() < give_up) {
    if (program_stop().stop_requested()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

// All ranks end. That they were stopped is told by who stopped them.
[[noreturn]] void end_all(Communicator& ranks, std::exception_ptr error) {
  if (!ranks.is_first() && is_told_by_first()) ::_exit(static_cast<int>(ErrorKind::kFailure));
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
      ->check(in_range(1, 4096));
  command
      .add_option("--gpus", flags.gpus,
                  "So many GPUs of this host do the work together, a process each, with the result of one; "
                  "needs NVIDIA's "
                  "NCCL. Several hosts: torchrun --no-python, srun or mpirun in front of the command")
      ->check(in_range(1, 4096));
  command
      .add_option("--init", flags.init,
                  "How ranks with GPUs find one another: env (torchrun's MASTER_ADDR), mpi, or file:PATH, a "
                  "new file that "
                  "all of them see [as the launcher has it]")
      ->check([](const std::string& text) {
        const bool known = text == "env" || text == "mpi" || (text.starts_with(kInitFile) && text.size() > 5);
        return known ? std::string() : fmt::format("found '{}', expected env, mpi or file:PATH", text);
      });
  command
      .add_option("--rank-timeout", flags.timeout,
                  "With several ranks: end when nothing is heard of one for so many seconds")
      ->check(in_range(std::int64_t{1}, std::int64_t{1} << 30))
      ->capture_default_str();
  command.add_option("--timeline", flags.timeline,
                     "Write what was done when (read, forward, exchange, refine, write), of each rank, as a "
                     "trace for "
                     "chrome://tracing or ui.perfetto.dev: a JSON file");
}

void run_in_ranks(CommonOptions& common, const RankFlags& flags, const std::string& device,
                  const std::function<void(Communicator& ranks)>& work) {
  const int wanted = std::max(flags.ranks, flags.gpus);
  const std::string_view flag = flags.gpus > 0 ? "--gpus" : "--ranks";
  if (flags.gpus > 0 && flags.ranks > 0)
    bad_usage("--gpus: found beside --ranks, expected one of them: each rank has a GPU");
  if (wanted == 1) return with_timeline(flags, alone(), work);  // whoever started it
  const auto launched = launched_rank();
  if (!launched && wanted < 2) return with_timeline(flags, alone(), work);
  if (is_hosted())
    bad_usage("{}: found in a program that runs commands itself, expected the program swiftprune", flag);
  if (!launched) {
    if (flags.gpus > 0 && common.command->get_option("--device")->count() > 0 && device != "cuda")
      bad_usage("--gpus: found with --device {}, expected cuda, or --device left out", device);
    if (flags.gpus == 0) check_mpi_library();
    const int code = flags.gpus > 0 ? start_gpu_ranks(common, flags)
                                    : launch_ranks(flags.ranks, arguments_of_ranks(common, flags.ranks));
    if (code != 0) throw RanksEnded(code);
    return;
  }
  if (wanted > 0 && wanted != launched->size) {
    bad_usage("{}: found {}, but {} started {}; leave {} out", flag, wanted, launched->launcher,
              launched->size, flag);
  }
  std::unique_ptr<Communicator> mpi, ranks;
  try {
    ranks = join(*launched, flags, device, mpi);
  } catch (const Error& error) {
    if (launched->rank > 0 && is_told_by_first()) throw RanksEnded(static_cast<int>(error.kind()));
    throw;
  }
  if (!ranks->is_first()) be_silent(common);
  try {
    check_same_on_ranks(*ranks, {{"version", SWIFTPRUNE_VERSION}});
    with_timeline(flags, *ranks, work);
    ranks->finish();
  } catch (...) {
    end_all(*ranks, std::current_exception());
  }
}

namespace {

// What tells a model's files from others without reading them whole, on any host: sizes and a hash of samples.
nlohmann::ordered_json sampled_files(const Checkpoint& checkpoint) {
  constexpr std::uint64_t kSamples = 64, kSampleBytes = 4096;
  nlohmann::ordered_json result;
  for (const std::string& name : model_files(checkpoint)) {
    const fs::path path = checkpoint.folder() / name;
    const std::uint64_t size = fs::file_size(path);
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

}  // namespace

void check_same_run(Communicator& ranks, const CLI::App& command, std::span<const Checkpoint* const> models,
                    const Device& device, const nlohmann::ordered_json& more) {
  if (ranks.size() == 1) return;
  nlohmann::ordered_json values = {{"command", byte_options(command)}};
  values.update(more);
  for (const Checkpoint* model : models) values["model"].push_back(sampled_files(*model));
  values["device"] = device.name();
  values["instruction set"] = isa_name();
  check_same_on_ranks(ranks, values);
}

void check_one_process(const Communicator& ranks, std::string_view flag, std::string_view instead) {
  if (ranks.size() == 1) return;
  bad_usage("{}: found with {} ranks, expected one process; {}", flag, ranks.size(), instead);
}

}  // namespace swiftprune::cli
