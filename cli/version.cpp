#include "version.h"

#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/own_library.h"
#include "swiftprune/device/cuda_library.h"

namespace swiftprune::cli {

std::string version_text() {
  std::error_code ignored;
  const auto real = [&](const std::filesystem::path& file) {
    const std::filesystem::path canonical = std::filesystem::canonical(file, ignored);
    return canonical.empty() ? file.string() : canonical.string();
  };
  const std::filesystem::path gpu_code = cuda_library_file();
  return fmt::format(
      "swiftprune {} (commit {})\nprogram    {}\nlibrary    {} {}\ncompiler   {}\nprocessor  {}\nGPU code   "
      "{}",
      SWIFTPRUNE_VERSION, SWIFTPRUNE_COMMIT, real("/proc/self/exe"), library_version(), real(library_file()),
      SWIFTPRUNE_COMPILER, isa_name(),
      std::filesystem::exists(gpu_code, ignored) ? real(gpu_code) : "none (" + gpu_code.string() + ")");
}

void check_library() {
  if (library_version() == SWIFTPRUNE_VERSION) return;
  fail(ErrorKind::kFailure,
       "{}: found version {} of the library, expected {}, this program's; does LD_LIBRARY_PATH name another "
       "installation?",
       library_file().string(), library_version(), SWIFTPRUNE_VERSION);
}

std::string slow_processor_note() {
  if (cpu_features().avx2 || std::getenv("SWIFTPRUNE_ISA") != nullptr) return "";
  return "this processor has no AVX2: everything runs as plain code, many times slower";
}

}  // namespace swiftprune::cli
