// Errors that a person can act on (Error) and bugs (expect). Nothing here prints or ends the process: only
// cli/ does.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace swiftprune {

// The numeric value is the program's exit code. kGate: a model that does not keep the limits asked for. kInterrupted: the
// run was asked to stop; 128 + SIGINT, where a program that was stopped by another signal gives that one's code.
enum class ErrorKind { kFailure = 1, kUsage = 2, kBadInput = 3, kDevice = 4, kGate = 5, kInterrupted = 130 };

// Message format: "<file, tensor or flag>: found <x>, expected <y>; <hint>". One line, no trailing full stop.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

template <class... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
[[noreturn]] void bad_input(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::kBadInput, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
[[noreturn]] void bad_usage(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::kUsage, fmt::format(format, std::forward<Args>(args)...));
}

// A broken promise between two parts of the program (a bug, never bad input): throws InternalError
// (core/internal_error.h) with the place. On in every build. Not for destructors and noexcept functions.
void expect(bool condition, std::string_view promise,
            std::source_location where = std::source_location::current());

}  // namespace swiftprune
