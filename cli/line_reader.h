// Lines from a pipe or a file, for commands that talk (terminal_lines.h: what is typed). Waiting for one ends when
// the run is stopped, which std::getline() would not.
#pragma once

#include <optional>
#include <string>

namespace swiftprune::cli {

class LineReader {
 public:
  // Without its line feed; a last line may have none. Nothing at the end. Throws Interrupted when the run of this
  // thread is stopped, Error{kFailure} when the input cannot be read.
  std::optional<std::string> next();

 private:
  std::string pending_;
  bool ended_ = false;
};

}  // namespace swiftprune::cli
