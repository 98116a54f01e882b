#include "machine.h"

#include <sys/resource.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include <fmt/format.h>

namespace swiftprune::cli {
namespace fs = std::filesystem;

Memory read_memory() {
  Memory memory;
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  double kib = 0.0;
  while (file >> name >> kib && std::getline(file, unit)) {
    if (name == "MemTotal:") memory.total = kib * 1024.0;
    if (name == "MemAvailable:") memory.available = kib * 1024.0;
  }
  return memory;
}

double free_bytes(const fs::path& folder) {
  std::error_code error;
  fs::path there = fs::absolute(folder, error);
  while (!fs::exists(there, error) && there.has_relative_path()) there = there.parent_path();
  const fs::space_info space = fs::space(there, error);
  return error ? 0.0 : static_cast<double>(space.available);
}

double load_average() {
  double loads[1] = {0.0};
  return ::getloadavg(loads, 1) == 1 ? loads[0] : 0.0;
}

std::string busy_note(double load, int threads) {
  constexpr double kBusy = 0.5;  // of the cores
  if (load <= kBusy * threads) return "";
  return fmt::format(
      "other work keeps the cores busy (load {:.1f} on {} threads): speed measured now says little", load,
      threads);
}

double peak_memory() {
  rusage usage{};
  return ::getrusage(RUSAGE_SELF, &usage) == 0 ? 1024.0 * static_cast<double>(usage.ru_maxrss) : 0.0;
}

}  // namespace swiftprune::cli
