// Lines that are typed at a terminal: edited with the usual keys, earlier ones come back with the arrow keys (libedit). What
// was typed is kept for the length of the run alone.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

namespace swiftprune::cli {

class TerminalLines {
 public:
  // Standard input and standard error are the terminal. hint: shown where a line is dropped.
  explicit TerminalLines(std::string hint);
  ~TerminalLines();
  TerminalLines(const TerminalLines&) = delete;
  TerminalLines& operator=(const TerminalLines&) = delete;

  // Shows the prompt and reads a line, without its line feed. Nothing at the end. Throws Interrupted when the run of this
  // thread is stopped.
  std::optional<std::string> next(const std::string& prompt);
  // From another thread: what has been typed of the line is dropped, and the prompt is shown again.
  void drop_line() { dropped_ = true; }

 private:
  struct Editor;
  std::string hint_;
  std::atomic<bool> dropped_ = false;
  std::unique_ptr<Editor> editor_;
};

}  // namespace swiftprune::cli
