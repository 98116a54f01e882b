#include "version.h"

#include <filesystem>

#include <fmt/format.h>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/device/cuda_library.h"

namespace swiftprune::cli {

std::string version_text() {
  const std::filesystem::path gpu_code = cuda_library_file();
  std::error_code ignored;
  return fmt::format(
      "swiftprune {} (commit {})\ncompiler   {}\nprocessor  {}\nGPU code   {}", SWIFTPRUNE_VERSION,
      SWIFTPRUNE_COMMIT, SWIFTPRUNE_COMPILER, isa_name(),
      std::filesystem::exists(gpu_code, ignored) ? gpu_code.string() : "none (" + gpu_code.string() + ")");
}

}  // namespace swiftprune::cli
