#include "waiting.h"

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#include <unistd.h>

namespace swiftprune::cli {
namespace {

// Turns of the loop: about a millisecond costs nothing on a machine of one's own, a hundredth of it is what pays where
// the cores are held (docs/performance.md).
constexpr const char* kSpinsAlone = "20000";
constexpr const char* kSpinsBusy = "200";

bool is_busy_now() {
  constexpr int kLooks = 5;
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  int busy = 0;
  for (int look = 0; look < kLooks; ++look) {
    if (look > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::ifstream file("/proc/loadavg");
    std::string load;
    std::getline(file, load);
    busy += is_busy(load, cores) ? 1 : 0;
  }
  return 2 * busy > kLooks;
}

}  // namespace

bool is_busy(std::string_view load, int cores) {
  for (int field = 0; field < 3; ++field) {
    const std::size_t space = load.find(' ');
    if (space == std::string_view::npos) return false;
    load.remove_prefix(space + 1);
  }
  int running = 0;
  const auto [end, error] = std::from_chars(load.data(), load.data() + load.size(), running);
  return error == std::errc() && end != load.data() + load.size() && *end == '/' && running - 1 >= cores;
}

void bound_spinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  ::setenv("GOMP_SPINCOUNT", is_busy_now() ? kSpinsBusy : kSpinsAlone, 1);
  ::execv("/proc/self/exe", argv);
}

}  // namespace swiftprune::cli
