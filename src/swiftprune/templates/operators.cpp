#include "swiftprune/templates/operators.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/templates/objects.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::templates {
namespace {

[[noreturn]] void unsupported_operands(std::string_view op, const Value& a, const Value& b) {
  runtime_error("unsupported operand type(s) for {}: '{}' and '{}'", op, type_name(a), type_name(b));
}

[[noreturn]] void too_large() { unsupported("an integer beyond 64 bits"); }

double divide(const Value& a, const Value& b) {
  const double divisor = *number_of(b);
  if (divisor == 0) runtime_error("division by zero");
  constexpr std::int64_t kExact = std::int64_t{1} << 53;
  for (const Value* side : {&a, &b}) {
    const auto integer = integer_of(*side);
    if (integer && (*integer > kExact || *integer < -kExact) && integer_of(a) && integer_of(b))
      unsupported("a division of integers beyond 2^53");
  }
  return *number_of(a) / divisor;
}

// Python's: towards minus infinity, the remainder with the divisor's sign.
double float_modulo(double x, double y) {
  double remainder = std::fmod(x, y);
  if (remainder != 0) {
    if ((y < 0) != (remainder < 0)) remainder += y;
  } else {
    remainder = std::copysign(0.0, y);
  }
  return remainder;
}

double float_floor_divide(double x, double y) {
  const double remainder = std::fmod(x, y);
  double quotient = (x - remainder) / y;
  if (remainder != 0 && (y < 0) != (remainder < 0)) quotient -= 1;
  if (quotient == 0) return std::copysign(0.0, x / y);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}

Value floor_divide(const Value& a, const Value& b, bool quotient) {
  const auto i = integer_of(a);
  const auto j = integer_of(b);
  if (*number_of(b) == 0) runtime_error("division or modulo by zero");
  if (!i || !j) {
    const double x = *number_of(a);
    const double y = *number_of(b);
    return Value(quotient ? float_floor_divide(x, y) : float_modulo(x, y));
  }
  if (*i == INT64_MIN && *j == -1) {
    if (quotient) too_large();
    return Value(0);
  }
  std::int64_t q = *i / *j;
  std::int64_t r = *i % *j;
  if (r != 0 && (r < 0) != (*j < 0)) {
    --q;
    r += *j;
  }
  return Value(quotient ? q : r);
}

Value power(const Value& a, const Value& b) {
  const auto i = integer_of(a);
  const auto j = integer_of(b);
  if (i && j && *j >= 0) {
    std::int64_t result = 1;
    std::int64_t base = *i;
    for (std::int64_t rest = *j; rest > 0; rest /= 2) {
      if (rest % 2 == 1) result = checked_multiply(result, base);
      if (rest > 1) base = base == 1 || base == 0 || base == -1 ? base * base : checked_multiply(base, base);
    }
    return Value(result);
  }
  const double x = *number_of(a);
  const double y = *number_of(b);
  if (x == 0 && y < 0) runtime_error("0.0 cannot be raised to a negative power");
  if (x < 0 && y != std::floor(y) && std::isfinite(y)) unsupported("a complex number");
  const double result = std::pow(x, y);
  if (std::isinf(result) && std::isfinite(x) && std::isfinite(y)) runtime_error("the power is too large");
  return Value(result);
}

Value multiply(const Value& a, const Value& b) {
  const auto i = integer_of(a);
  const auto j = integer_of(b);
  if (i && j) return Value(checked_multiply(*i, *j));
  if (number_of(a) && number_of(b)) return Value(*number_of(a) * *number_of(b));
  const Value& repeated = i ? b : a;
  const auto times = i ? i : j;
  if (!times) unsupported_operands("*", a, b);
  const std::int64_t count = std::max<std::int64_t>(0, *times);
  if (const Text* text = repeated.as<Text>()) {
    check_text_size(text->bytes().size(), count);
    std::string result;
    for (std::int64_t n = 0; n < count && !text->bytes().empty(); ++n) result += text->bytes();
    return Text(std::move(result), text->markup());
  }
  const Values* items = repeated.sequence();
  if (items == nullptr) unsupported_operands("*", a, b);
  check_text_size(items->size() * sizeof(Value), count);
  Values result;
  for (std::int64_t n = 0; n < count && !items->empty(); ++n)
    result.insert(result.end(), items->begin(), items->end());
  return repeated.is<List>() ? make_list(std::move(result)) : make_tuple(std::move(result));
}

// Start, step and number of items of a slice of `length` items, as Python's slice.indices.
struct Indices {
  std::int64_t start, step, count;
};

Indices indices(const SliceBounds& bounds, std::int64_t length) {
  const std::int64_t step = bounds.step.value_or(1);
  if (step == 0) runtime_error("slice step cannot be zero");
  const std::int64_t low = step > 0 ? 0 : -1;
  const std::int64_t high = step > 0 ? length : length - 1;
  const auto clamp = [&](std::optional<std::int64_t> bound, std::int64_t absent) {
    if (!bound) return absent;
    return *bound < 0 ? std::max(*bound + length, low) : std::min(*bound, high);
  };
  const std::int64_t start = clamp(bounds.start, step > 0 ? 0 : length - 1);
  const std::int64_t stop = clamp(bounds.stop, step > 0 ? length : -1);
  std::int64_t count = 0;
  if (step > 0 && start < stop) count = (stop - start - 1) / step + 1;
  if (step < 0 && start > stop) count = (start - stop - 1) / (step == INT64_MIN ? INT64_MAX : -step) + 1;
  return {start, step, count};
}

// Where each code point of the text begins, and its end.
std::vector<std::size_t> boundaries(const std::string& bytes) {
  std::vector<std::size_t> result;
  for (std::size_t i = 0; i < bytes.size(); i += text::utf8_length(bytes[i])) result.push_back(i);
  result.push_back(bytes.size());
  return result;
}

Text text_slice(const Text& text, const Indices& range) {
  const std::string& bytes = text.bytes();
  std::string result;
  if (text.ascii()) {
    if (range.step == 1) {
      result = bytes.substr(static_cast<std::size_t>(range.count > 0 ? range.start : 0),
                            static_cast<std::size_t>(range.count));
    } else {
      for (std::int64_t n = 0; n < range.count; ++n)
        result += bytes[static_cast<std::size_t>(range.start + n * range.step)];
    }
    return Text(std::move(result), text.markup());
  }
  const std::vector<std::size_t> starts = boundaries(bytes);
  for (std::int64_t n = 0; n < range.count; ++n) {
    const auto i = static_cast<std::size_t>(range.start + n * range.step);
    result.append(bytes, starts[i], starts[i + 1] - starts[i]);
  }
  return Text(std::move(result), text.markup());
}

}  // namespace

void check_text_size(std::size_t bytes) {
  if (bytes > kMaxTextBytes) limit_error("a text of more than {} bytes is made", kMaxTextBytes);
}

void check_text_size(std::size_t bytes, std::int64_t times) {
  if (bytes > 0 && times > static_cast<std::int64_t>(kMaxTextBytes / bytes))
    limit_error("a text of more than {} bytes is made", kMaxTextBytes);
}

std::int64_t checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t result;
  if (__builtin_add_overflow(a, b, &result)) too_large();
  return result;
}

std::int64_t checked_multiply(std::int64_t a, std::int64_t b) {
  std::int64_t result;
  if (__builtin_mul_overflow(a, b, &result)) too_large();
  return result;
}

std::string escaped_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '\'') {
      out += "&#39;";
    } else if (c == '"') {
      out += "&#34;";
    } else {
      out += c;
    }
  }
  return out;
}

Text escape(const Value& value) {
  if (const Text* text = value.as<Text>(); text != nullptr && text->markup()) return *text;
  return Text(escaped_html(to_text(value)), true);
}

Value add(const Value& a, const Value& b) {
  const auto i = integer_of(a);
  const auto j = integer_of(b);
  if (i && j) return Value(checked_add(*i, *j));
  if (number_of(a) && number_of(b)) return Value(*number_of(a) + *number_of(b));
  const Text* left = a.as<Text>();
  const Text* right = b.as<Text>();
  if (left != nullptr && right != nullptr) {
    const bool markup = left->markup() || right->markup();
    const Text first = markup ? escape(a) : *left;
    const Text second = markup ? escape(b) : *right;
    check_text_size(first.bytes().size() + second.bytes().size());
    return Text(first.bytes() + second.bytes(), markup);
  }
  if ((a.is<List>() && b.is<List>()) || (a.is<Tuple>() && b.is<Tuple>())) {
    Values items = *a.sequence();
    items.insert(items.end(), b.sequence()->begin(), b.sequence()->end());
    return a.is<List>() ? make_list(std::move(items)) : make_tuple(std::move(items));
  }
  unsupported_operands("+", a, b);
}

Value binary_operation(std::string_view op, const Value& a, const Value& b) {
  for (const Value* side : {&a, &b}) {
    // A text's % takes anything, and prints Undefined.
    if (side->is<Undefined>() && !(op == "%" && a.is<Text>()))
      runtime_error("{}", *side->as<Undefined>()->why);
  }
  if (op == "%" && a.is<Text>()) {
    if (a.as<Text>()->markup()) unsupported("'%' on markup");
    return Value(percent_format(*a.text(), b));
  }
  if (op == "+") return add(a, b);
  if (op == "*") return multiply(a, b);
  if (op == "-" && b.object() != nullptr && b.object()->type().starts_with("dict_"))
    unsupported("'-' on views of dicts");
  if (!number_of(a) || !number_of(b)) unsupported_operands(op, a, b);
  if (op == "/") return Value(divide(a, b));
  if (op == "//") return floor_divide(a, b, true);
  if (op == "%") return floor_divide(a, b, false);
  if (op == "**") return power(a, b);
  const auto i = integer_of(a);
  const auto j = integer_of(b);
  if (!i || !j) return Value(*number_of(a) - *number_of(b));
  std::int64_t result;
  if (__builtin_sub_overflow(*i, *j, &result)) too_large();
  return Value(result);
}

Value negative(const Value& value) {
  if (value.is<Undefined>()) runtime_error("{}", *value.as<Undefined>()->why);
  if (const double* x = value.as<double>()) return Value(-*x);
  const auto integer = integer_of(value);
  if (!integer) runtime_error("bad operand type for unary -: '{}'", type_name(value));
  return Value(checked_multiply(*integer, -1));
}

Value positive(const Value& value) {
  if (value.is<Undefined>()) runtime_error("{}", *value.as<Undefined>()->why);
  if (value.is<double>()) return value;
  const auto integer = integer_of(value);
  if (!integer) runtime_error("bad operand type for unary +: '{}'", type_name(value));
  return Value(*integer);
}

Value slice(const Value& value, const SliceBounds& bounds) {
  if (value.is<Undefined>()) runtime_error("{}", *value.as<Undefined>()->why);
  if (const Text* text = value.as<Text>()) return text_slice(*text, indices(bounds, text->length()));
  if (const Range* range = value.object_as<Range>()) {
    const Indices part = indices(bounds, *value.object_as<Range>()->length());
    return range->slice(part.start, part.step, part.count);
  }
  const Values* items = value.sequence();
  if (items == nullptr) runtime_error("'{}' object cannot be sliced", type_name(value));
  const Indices range = indices(bounds, static_cast<std::int64_t>(items->size()));
  Values result;
  for (std::int64_t n = 0; n < range.count; ++n)
    result.push_back((*items)[static_cast<std::size_t>(range.start + n * range.step)]);
  return value.is<List>() ? make_list(std::move(result)) : make_tuple(std::move(result));
}

std::optional<Value> subscript(const Value& value, const Value& key) {
  if (const Dict* dict = value.as<Dict>()) {
    if (!hashable(key)) return std::nullopt;
    const Value* found = dict->find(key);
    return found == nullptr ? std::nullopt : std::optional(*found);
  }
  auto index = integer_of(key);
  if (!index) return std::nullopt;
  const bool has_items = value.is<Text>() || value.sequence() != nullptr ||
                         (value.is<ObjectPtr>() && value.object()->is_sequence());
  if (!has_items) return std::nullopt;
  const std::int64_t length = *length_of(value);
  if (*index < 0) index = *index + length;
  if (*index < 0 || *index >= length) return std::nullopt;
  if (const Values* items = value.sequence()) return (*items)[static_cast<std::size_t>(*index)];
  if (const Text* text = value.as<Text>()) return text_slice(*text, {*index, 1, 1});
  return (*value.as<ObjectPtr>())->item(*index);
}

}  // namespace swiftprune::templates
