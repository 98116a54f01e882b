// swiftprune doctor: what this machine has for the work, what is missing and why, and what that means.
#include <filesystem>
#include <optional>

#include <fmt/format.h>

#include "command.h"
#include "machine.h"
#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/device/cuda_library.h"
#include "swiftprune/device/device.h"
#include "swiftprune/ranks/mpi_library.h"
#include "swiftprune/sparse/read_ceiling.h"
#include "swiftprune/sparse/timings.h"
#include "version.h"

namespace swiftprune::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kCeilingBytes = std::int64_t{512} << 20;  // far more than caches hold
constexpr int kCeilingRounds = 5;

struct Gpu {
  std::string name;     // empty: none that can be used
  std::string why_not;  // then
};

Gpu look_for_gpu() {
  Gpu gpu;
  try {
    const auto device = make_cuda_device(0, {}, gpu.why_not);
    if (device) gpu.name = device->name();
  } catch (const Error& error) {
    gpu.why_not = error.what();
  }
  return gpu;
}

struct Findings {
  int threads = 0;
  Memory memory;
  double load = 0.0;
  double bytes_per_second = 0.0;
  double free_here = 0.0;
  Gpu gpu;
  std::string mpi, no_mpi_because;  // the library that joins ranks

  bool is_busy() const { return !busy_note(load, threads).empty(); }

  // The one thing that helps most on this machine.
  std::string advice() const {
    if (!cpu_features().avx2) {
      return "this processor has no AVX2, so everything runs as plain code; a newer one is many times faster";
    }
    if (is_busy()) return busy_note(load, threads);
    if (!gpu.name.empty()) return "use --device cuda: prune, shrink, eval, generate and serve run on the GPU";
    return fmt::format(
        "decoding reads every weight once a token: of 1 GB of weights at most {:.0f} tokens/s here; "
        "fewer bytes (prune, then pack) are more tokens",
        bytes_per_second / 1e9);
  }
};

Findings look_around(const RunScope& job) {
  Findings found;
  found.threads = num_threads();
  found.memory = read_memory();
  found.load = load_average();
  found.free_here = free_bytes(fs::current_path());
  job.context().progress("look for a GPU", 0, 0);
  found.gpu = look_for_gpu();
  try {
    check_mpi_library();
    found.mpi = mpi_library_file().string();
  } catch (const Error& error) {
    found.no_mpi_because = error.what();
  }
  job.context().progress("measure memory", 0, 0);
  found.bytes_per_second = measure_read_ceiling(kCeilingBytes, kCeilingRounds);
  return found;
}

nlohmann::ordered_json to_json(const Findings& found) {
  nlohmann::ordered_json caches = nlohmann::ordered_json::array();
  for (const fs::path& cache : hub_caches()) caches.push_back(cache.string());
  nlohmann::ordered_json gpu = nullptr;
  if (!found.gpu.name.empty()) gpu = found.gpu.name;
  nlohmann::ordered_json document = version_json();
  document.update(
      {{"processor", {{"name", cpu_model_name()}, {"isa", isa_name()}, {"threads", found.threads}}},
       {"load", found.load},
       {"memory", {{"total", found.memory.total}, {"available", found.memory.available}}},
       {"read_bytes_per_second", found.bytes_per_second},
       {"free_disk_bytes", found.free_here},
       {"gpu", gpu},
       {"no_gpu_because", found.gpu.why_not},
       {"mpi", found.mpi},
       {"no_mpi_because", found.no_mpi_because},
       {"model_caches", caches},
       {"timings_file", Timings::default_file().string()},
       {"advice", found.advice()}});
  return document;
}

void print(const Findings& found) {
  fmt::print("{}\n", version_text());
  fmt::print("threads    {} of {}{}\n", found.threads, cpu_model_name(), found.is_busy() ? ", busy" : "");
  fmt::print("memory     {}, {} available, read at {}/s\n", human_bytes(found.memory.total),
             human_bytes(found.memory.available), human_bytes(found.bytes_per_second));
  fmt::print("disk       {} free in this folder\n", human_bytes(found.free_here));
  fmt::print("GPU        {}\n",
             found.gpu.name.empty() ? fmt::format("none: {}", found.gpu.why_not) : found.gpu.name);
  fmt::print("MPI        {}\n", found.mpi.empty() ? "none: " + found.no_mpi_because : found.mpi);
  for (const fs::path& cache : hub_caches()) {
    std::error_code ignored;
    fmt::print("models     {}{}\n", cache.string(), fs::is_directory(cache, ignored) ? "" : " (not there)");
  }
  fmt::print("timings    {}\n", Timings::default_file().string());
  fmt::print("Advice: {}\n", found.advice());
}

}  // namespace

void declare_doctor(CLI::App& program) {
  auto common = std::make_shared<CommonOptions>();
  CLI::App* command = program.add_subcommand(
      "doctor",
      "Show what this machine has for the work: processor, memory, GPU, caches, and what is missing");
  add_common_options(*command, *common);
  command->footer("Example: swiftprune doctor --json");
  command->callback([common] {
    const RunScope job = apply(*common);
    const Findings found = look_around(job);
    clear_progress();
    if (common->json) {
      print_json(to_json(found));
    } else {
      print(found);
    }
  });
}

}  // namespace swiftprune::cli
