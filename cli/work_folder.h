// A folder of one's own for models on trial.
#pragma once

#include <filesystem>
#include <string>

#include <fmt/format.h>
#include <unistd.h>

#include "swiftprune/core/error.h"
#include "swiftprune/pilot/trial.h"

namespace swiftprune::cli {

// Makes it beside the system's other temporary ones, or under --work.
inline std::filesystem::path make_work_folder(const std::string& parent) {
  std::string name =
      ((parent.empty() ? std::filesystem::temp_directory_path() : std::filesystem::path(parent)) /
       "swiftprune-trial-XXXXXX")
          .string();
  if (::mkdtemp(name.data()) == nullptr) {
    fail(ErrorKind::kFailure, "{}: a folder for the trials cannot be made; choose another with --work", name);
  }
  return name;
}

}  // namespace swiftprune::cli
