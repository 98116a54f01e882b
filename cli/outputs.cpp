#include "outputs.h"

#include <unistd.h>

#include <filesystem>

#include "swiftprune/core/run_context.h"

namespace swiftprune::cli {
namespace fs = std::filesystem;

void check_output_file(std::string_view flag, const std::string& file) {
  if (file.empty()) return;
  std::error_code error;
  if (fs::is_directory(file, error) || !fs::path(file).has_filename()) {
    bad_usage("{}: found the folder {}, expected a file to write", flag, file);
  }
  const fs::path folder = fs::absolute(file).parent_path();
  if (!fs::is_directory(folder, error)) {
    bad_usage("{}: {} cannot be written: there is no folder {}", flag, file, folder.string());
  }
  const bool exists = fs::exists(file, error);
  // A device such as /dev/full is asked when it is written to.
  if (::access(exists ? file.c_str() : folder.c_str(), W_OK) != 0) {
    bad_usage("{}: {} cannot be written: no permission", flag, file);
  }
}

void run_writing(const std::string& out, const std::function<void()>& work,
                 const std::function<std::string()>& kept) {
  try {
    work();
  } catch (const Interrupted&) {
    std::error_code error;
    if (fs::exists(out, error) && !fs::is_empty(out, error)) {
      throw Interrupted(fmt::format("{} was written, what was to follow was not done", out));
    }
    const std::string left = kept();
    throw Interrupted(left.empty() ? "nothing was written" : left);
  }
}

}  // namespace swiftprune::cli
