// Filters on numbers: int, float, round, abs.
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "swiftprune/templates/filters.h"
#include "swiftprune/templates/methods.h"
#include "swiftprune/templates/objects.h"
#include "swiftprune/templates/operators.h"

namespace swiftprune::templates {
namespace {

using R = Renderer&;
using V = const Value&;
using A = const Arguments&;

void refuse_undefined(V value) {
  if (value.is<Undefined>()) runtime_error("{}", *value.as<Undefined>()->why);
}

// Python's int(text, base); nothing: ValueError. Only ASCII digits.
std::optional<std::int64_t> parse_integer(std::string_view text, std::int64_t base) {
  if (base != 0 && (base < 2 || base > 36)) return std::nullopt;
  text = stripped(text, nullptr, Side::kBoth);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  const auto prefixed = [&](char letter) {
    return text.size() > 1 && text[0] == '0' && (text[1] | 0x20) == letter;
  };
  for (const auto& [letter, value] : {std::pair('x', 16), std::pair('o', 8), std::pair('b', 2)}) {
    if (!prefixed(letter) || (base != value && base != 0)) continue;
    text.remove_prefix(2);
    if (text.starts_with('_')) text.remove_prefix(1);
    base = value;
    break;
  }
  if (base == 0) {
    if (text.size() > 1 && text[0] == '0' && text.find_first_not_of("0_") != std::string_view::npos)
      return std::nullopt;
    base = 10;
  }
  std::int64_t result = 0;
  bool digit = false;
  for (const char c : text) {
    if (c == '_' && digit) {
      digit = false;
      continue;
    }
    const char lower = static_cast<char>(c | 0x20);
    const std::int64_t value = c >= '0' && c <= '9'           ? c - '0'
                               : lower >= 'a' && lower <= 'z' ? lower - 'a' + 10
                                                              : 99;
    if (value >= base) return std::nullopt;
    result = checked_add(checked_multiply(result, base), negative ? -value : value);
    digit = true;
  }
  return digit ? std::optional(result) : std::nullopt;
}

// Python's float(text); nothing: ValueError.
std::optional<double> parse_float(std::string_view text) {
  text = stripped(text, nullptr, Side::kBoth);
  std::string digits;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '_') {
      const auto is_digit = [&](std::size_t at) {
        return at < text.size() && text[at] >= '0' && text[at] <= '9';
      };
      if (i == 0 || !is_digit(i - 1) || !is_digit(i + 1)) return std::nullopt;
      continue;
    }
    digits += c;
  }
  std::string name = digits;
  for (char& c : name) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
  const bool negative = name.starts_with('-');
  if (negative || name.starts_with('+')) name.erase(0, 1);
  if (name == "nan") return std::nan("");
  if (name == "inf" || name == "infinity") return negative ? -HUGE_VAL : HUGE_VAL;
  // strtod knows more forms: hexadecimal ones.
  if (name.empty() || name.find_first_not_of("0123456789.e+-") != std::string::npos) return std::nullopt;
  char* end = nullptr;
  const double value = std::strtod(digits.c_str(), &end);
  return *end == '\0' && end != digits.c_str() ? std::optional(value) : std::nullopt;
}

std::int64_t truncated(double x) {
  if (!(std::fabs(x) < 9.2e18)) unsupported("an integer beyond 64 bits");
  return static_cast<std::int64_t>(x);
}

Value to_integer(R, V input, A arguments) {
  ArgumentReader reader("int", arguments);
  const Value absent = reader.value_or("default", Value(0));
  const std::int64_t base = need_integer(reader.value_or("base", Value(10)), "int: base");
  reader.done();
  refuse_undefined(input);
  if (const auto integer = integer_of(input)) return Value(*integer);
  std::optional<double> x;
  if (const std::string* text = input.text()) {
    if (const auto integer = parse_integer(*text, base)) return Value(*integer);
    x = parse_float(*text);
  } else {
    x = number_of(input);
    if (x && std::isinf(*x)) runtime_error("cannot convert float infinity to integer");
  }
  return x && std::isfinite(*x) ? Value(truncated(*x)) : absent;
}

Value to_float(R, V input, A arguments) {
  ArgumentReader reader("float", arguments);
  const Value absent = reader.value_or("default", Value(0.0));
  reader.done();
  refuse_undefined(input);
  if (const auto number = number_of(input)) return Value(*number);
  if (const std::string* text = input.text()) {
    if (const auto number = parse_float(*text)) return Value(*number);
  }
  return absent;
}

// Python's round of an integer to tens and more: half to even.
Value round_integer(std::int64_t value, std::int64_t precision) {
  if (precision >= 0) return Value(value);
  if (precision < -18) return Value(0);
  std::int64_t unit = 1;
  for (std::int64_t i = 0; i > precision; --i) unit *= 10;
  std::int64_t quotient = value / unit;
  const std::int64_t rest = value % unit;
  const std::int64_t size = rest < 0 ? -rest : rest;
  if (size > unit / 2 || (size == unit / 2 && quotient % 2 != 0)) quotient += value < 0 ? -1 : 1;
  return Value(checked_multiply(quotient, unit));
}

Value round(R, V input, A arguments) {
  ArgumentReader reader("round", arguments);
  const std::int64_t precision = need_integer(reader.value_or("precision", Value(0)), "round");
  const std::string method = need_text(reader.value_or("method", Value("common")), "round").bytes();
  reader.done();
  refuse_undefined(input);
  if (method != "common" && method != "ceil" && method != "floor")
    runtime_error("method must be common, ceil or floor");
  if (!number_of(input)) runtime_error("type {} doesn't define __round__ method", type_name(input));
  if (method == "common") {
    if (const auto integer = integer_of(input)) return round_integer(*integer, precision);
    const double x = *number_of(input);
    if (!std::isfinite(x) || precision > 300) return Value(x);
    if (precision < 0) unsupported("rounding a float to tens");
    // The C library rounds the exact decimal value half to even, as Python does.
    std::array<char, 700> buffer;
    std::snprintf(buffer.data(), buffer.size(), "%.*f", static_cast<int>(precision), x);
    return Value(std::strtod(buffer.data(), nullptr));
  }
  if (precision < 0 || precision > 18) unsupported("rounding up or down to {} digits", precision);
  const Value unit = binary_operation("**", Value(10), Value(precision));
  const Value scaled = binary_operation("*", input, unit);
  const double x = *number_of(scaled);
  if (std::isnan(x) || std::isinf(x)) runtime_error("cannot convert float to integer");
  const Value whole =
      integer_of(scaled) ? scaled : Value(truncated(method == "ceil" ? std::ceil(x) : std::floor(x)));
  return binary_operation("/", whole, unit);
}

Value absolute(R, V input, A arguments) {
  ArgumentReader("abs", arguments).done();
  if (const double* x = input.as<double>()) return Value(std::fabs(*x));
  const auto integer = integer_of(input);
  if (!integer) runtime_error("bad operand type for abs(): '{}'", type_name(input));
  return Value(*integer < 0 ? checked_multiply(*integer, -1) : *integer);
}

constexpr auto kFilters = std::to_array<Filter>({
    {"int", to_integer},
    {"float", to_float},
    {"round", round},
    {"abs", absolute},
});

}  // namespace

std::span<const Filter> number_filters() { return kFilters; }

}  // namespace swiftprune::templates
