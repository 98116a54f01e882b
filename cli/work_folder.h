// A folder of one's own for models on trial.
#pragma once

#include <string>

#include "swiftprune/core/temporary_folder.h"

namespace swiftprune::cli {

// Makes it beside the system's other temporary ones, or under --work.
inline TemporaryFolder make_work_folder(const std::string& parent) {
  return make_temporary_folder("trial", "the trials", "--work", parent);
}

}  // namespace swiftprune::cli
