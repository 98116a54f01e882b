// What stops the rendering of a chat template, with the template's line. The kind tells a fault of the
// template from a refusal that the template itself speaks (raise_exception) and from what this renderer does
// not do.
#pragma once

#include <string>

#include "swiftprune/core/error.h"

namespace swiftprune::templates {

class TemplateError : public Error {
 public:
  enum class Kind {
    kSyntax,       // the template cannot be read
    kRuntime,      // an operation that fails in Jinja as well
    kUnsupported,  // Jinja does it, this renderer does not
    kRaised,       // the template's own raise_exception(message)
    kLimit,        // steps, bytes or nesting
  };
  // line 0: none known yet.
  TemplateError(Kind kind, const std::string& message, int line = 0)
      : Error(ErrorKind::kBadInput, line > 0 ? fmt::format("line {}: {}", line, message) : message),
        kind_(kind),
        line_(line),
        message_(message) {}
  Kind what_stopped() const { return kind_; }
  int line() const { return line_; }
  const std::string& message() const { return message_; }  // without the line

 private:
  Kind kind_;
  int line_;
  std::string message_;
};

template <class... Args>
[[noreturn]] void runtime_error(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError(TemplateError::Kind::kRuntime, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
[[noreturn]] void unsupported(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError(TemplateError::Kind::kUnsupported,
                      fmt::format(format, std::forward<Args>(args)...) + " cannot be rendered here");
}
template <class... Args>
[[noreturn]] void limit_error(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError(TemplateError::Kind::kLimit, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace swiftprune::templates
