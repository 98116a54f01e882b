// Lines from a pipe or a file, for commands that talk (terminal_lines.h: what is typed). Waiting for one ends when
// the run is stopped, which std::getline() would not.
#pragma once

#include <sys/types.h>

#include <optional>
#include <span>
#include <string>

namespace swiftprune::cli {

// Waits a tenth of a second for standard input and reads what is there: how many bytes, 0 at the end, -1 when it cannot be
// read (errno). Nothing where none came, so that the caller may look at what else ends its wait.
std::optional<ssize_t> read_input(std::span<char> bytes);

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
