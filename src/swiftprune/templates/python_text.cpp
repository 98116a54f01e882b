// str() and repr() of Python for values.
#include <utf8proc.h>

#include <array>
#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "swiftprune/templates/value.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::templates {
namespace {

// Python's str.isprintable: no controls, no separators but the space, nothing unassigned.
bool printable(char32_t c) {
  if (c == ' ') return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

std::string joined_reprs(const Values& items) {
  std::string text;
  for (const Value& item : items) {
    if (!text.empty()) text += ", ";
    text += repr(item);
  }
  return text;
}

std::string repr_of_dict(const Dict& dict) {
  std::string text = "{";
  for (const auto& [key, value] : dict.items()) {
    if (text.size() > 1) text += ", ";
    text += repr(key) + ": " + repr(value);
  }
  return text + "}";
}

}  // namespace

std::string repr_of_text(std::string_view text) {
  const bool double_quotes =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string out(1, quote);
  for (std::size_t position = 0; position < text.size();) {
    const auto [c, bytes] = text::code_point_at(text, position);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (printable(c)) {
      out += text.substr(position, bytes);
    } else {
      const auto code = static_cast<std::uint32_t>(c);
      out += code < 0x100     ? fmt::format("\\x{:02x}", code)
             : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                              : fmt::format("\\U{:08x}", code);
    }
    position += bytes;
  }
  return out + quote;
}

// The shortest digits that read back as x: fixed from 1e-4 to 1e16, else with an exponent of two digits or
// more.
std::string repr_of_float(double x) {
  if (std::isnan(x)) return "nan";
  if (std::isinf(x)) return x < 0 ? "-inf" : "inf";
  if (x == 0) return std::signbit(x) ? "-0.0" : "0.0";
  std::array<char, 400> buffer;
  const double size = std::fabs(x);
  const bool fixed = size >= 1e-4 && size < 1e16;
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), x,
                                    fixed ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer.data(), result.ptr);
  if (fixed && text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::string repr(const Value& value) {
  if (const std::string* text = value.text()) {
    return value.as<Text>()->markup() ? "Markup(" + repr_of_text(*text) + ")" : repr_of_text(*text);
  }
  if (value.is<Undefined>()) return "Undefined";
  if (value.is<None>()) return "None";
  if (const bool* x = value.as<bool>()) return *x ? "True" : "False";
  if (const std::int64_t* x = value.as<std::int64_t>()) return fmt::format("{}", *x);
  if (const double* x = value.as<double>()) return repr_of_float(*x);
  if (value.is<List>()) return fmt::format("[{}]", joined_reprs(*value.sequence()));
  if (value.is<Tuple>()) {
    const Values& items = *value.sequence();
    return items.size() == 1 ? fmt::format("({},)", repr(items[0]))
                             : fmt::format("({})", joined_reprs(items));
  }
  if (const Dict* dict = value.as<Dict>()) return repr_of_dict(*dict);
  if (value.is<ObjectPtr>()) {
    if (const auto text = (*value.as<ObjectPtr>())->repr()) return *text;
  }
  unsupported("printing an object of type '{}' (Python prints its address)", type_name(value));
}

std::string to_text(const Value& value) {
  if (const std::string* text = value.text()) return *text;
  return value.is<Undefined>() ? "" : repr(value);
}

}  // namespace swiftprune::templates
