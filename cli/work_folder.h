// A folder of one's own for models on trial.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

#include <fmt/format.h>
#include <unistd.h>

#include "swiftprune/core/error.h"

namespace swiftprune::cli {

// Beside the system's other temporary ones, or under --work; it goes with all in it.
class WorkFolder {
 public:
  explicit WorkFolder(const std::string& parent) {
    std::string name =
        ((parent.empty() ? std::filesystem::temp_directory_path() : std::filesystem::path(parent)) /
         "swiftprune-trial-XXXXXX")
            .string();
    if (::mkdtemp(name.data()) == nullptr) {
      fail(ErrorKind::kFailure, "{}: a folder for the trials cannot be made; choose another with --work",
           name);
    }
    path_ = name;
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  ~WorkFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace swiftprune::cli
