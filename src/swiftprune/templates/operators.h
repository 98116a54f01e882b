// Operators of Python on values.
#pragma once

#include <optional>
#include <string_view>

#include "swiftprune/templates/renderer.h"

namespace swiftprune::templates {

// A text of more bytes is not made.
inline constexpr std::size_t kMaxTextBytes = std::size_t{1} << 26;
void check_text_size(std::size_t bytes);
void check_text_size(std::size_t bytes, std::int64_t times);  // of a repetition

Value binary_operation(std::string_view op, const Value& a, const Value& b);
Value add(const Value& a, const Value& b);
Value negative(const Value& value);
Value positive(const Value& value);

// The integer in 64 bits; Error where Python's would be larger.
std::int64_t checked_add(std::int64_t a, std::int64_t b);
std::int64_t checked_multiply(std::int64_t a, std::int64_t b);

struct SliceBounds {
  std::optional<std::int64_t> start, stop, step;
};
Value slice(const Value& value, const SliceBounds& bounds);
// value[key] of Python itself; nothing: LookupError or TypeError.
std::optional<Value> subscript(const Value& value, const Value& key);

// Text % arguments, and text.format(...).
std::string percent_format(std::string_view format, const Value& arguments);
std::string brace_format(Renderer& renderer, std::string_view format, const Arguments& arguments);
std::string escaped_html(std::string_view text);
// The text as |escape gives it: markup stays.
Text escape(const Value& value);

// An attribute or method of a value of Python; nothing: there is none. Methods that would change the value
// are Undefined, as in the sandbox; those that are not done are an error.
std::optional<Value> builtin_attribute(const Value& value, const std::string& name);

// transformers' tojson.
struct JsonOptions {
  bool ensure_ascii = false;
  std::optional<std::string> indent;
  std::string item_separator = ", ", key_separator = ": ";
  bool sort_keys = false;
};
std::string json_text(const Value& value, const JsonOptions& options);

// datetime.strftime of a time without a zone.
std::string format_time(const std::string& format, const LocalTime& time);

}  // namespace swiftprune::templates
