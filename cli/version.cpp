#include "version.h"

#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/linked_libraries.h"
#include "swiftprune/core/own_library.h"
#include "swiftprune/device/cuda_library.h"

namespace swiftprune::cli {

namespace {

std::string real(const std::filesystem::path& file) {
  std::error_code ignored;
  const std::filesystem::path canonical = std::filesystem::canonical(file, ignored);
  return canonical.empty() ? file.string() : canonical.string();
}

// "CUDA 12.8, no driver, /usr/lib/libswiftprune_cuda.so"
std::string gpu_code_text() {
  const std::filesystem::path file = cuda_library_file();
  try {
    const std::string runtime = cuda_runtime_version();
    return runtime.empty() ? fmt::format("none ({})", file.string())
                           : fmt::format("CUDA {}, {}", runtime, real(file));
  } catch (const Error& error) {
    return fmt::format("unusable: {}", error.what());
  }
}

// "SentencePiece 0.1.97, oneDNN 2.7.2, ..." in lines of 100 columns.
std::string libraries_text() {
  constexpr std::size_t kColumns = 100, kIndent = 11;
  std::string text, line;
  for (const LinkedLibrary& library : linked_libraries()) {
    const std::string word = fmt::format("{} {}", library.name, library.version);
    if (!line.empty() && kIndent + line.size() + 2 + word.size() > kColumns) {
      text += line + ",\n" + std::string(kIndent, ' ');
      line.clear();
    }
    line += (line.empty() ? "" : ", ") + word;
  }
  return text + line;
}

}  // namespace

std::string version_text() {
  return fmt::format(
      "swiftprune {} (commit {})\nprogram    {}\nlibrary    {} {}\ncompiler   {}\nprocessor  {}\nGPU code   "
      "{}\nwith       {}",
      SWIFTPRUNE_VERSION, SWIFTPRUNE_COMMIT, real("/proc/self/exe"), library_version(), real(library_file()),
      SWIFTPRUNE_COMPILER, isa_name(), gpu_code_text(), libraries_text());
}

nlohmann::ordered_json version_json() {
  nlohmann::ordered_json libraries = nlohmann::ordered_json::object();
  for (const LinkedLibrary& library : linked_libraries()) libraries[library.name] = library.version;
  return {{"version", SWIFTPRUNE_VERSION},
          {"commit", SWIFTPRUNE_COMMIT},
          {"program", real("/proc/self/exe")},
          {"library", {{"version", library_version()}, {"file", real(library_file())}}},
          {"compiler", SWIFTPRUNE_COMPILER},
          {"processor", {{"name", cpu_model_name()}, {"isa", isa_name()}}},
          {"gpu_code", gpu_code_text()},
          {"libraries", libraries}};
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
