// Python's two ways of formatting: text % arguments and text.format(...).
#include <array>
#include <cmath>
#include <cstdio>

#include "swiftprune/templates/operators.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::templates {
namespace {

constexpr std::int64_t kMaxWidth = 1 << 20;

// What stands between the % or the colon and the type.
struct Spec {
  std::string fill = " ";
  char align = '\0';  // < > ^ =
  char sign = '-';    // '-': only of negative numbers
  bool alternate = false, zero = false;
  char grouping = '\0';  // , or _
  std::int64_t width = 0;
  std::int64_t precision = -1;
  char type = '\0';
};

std::int64_t digits_at(std::string_view text, std::size_t& position) {
  std::int64_t value = 0;
  while (position < text.size() && text[position] >= '0' && text[position] <= '9') {
    value = value * 10 + (text[position++] - '0');
    if (value > kMaxWidth) limit_error("a format is wider than {}", kMaxWidth);
  }
  return value;
}

std::string aligned(const std::string& sign, const std::string& body, const Spec& spec, char default_align) {
  const std::int64_t size = text::num_code_points(sign) + text::num_code_points(body);
  const std::int64_t missing = std::max<std::int64_t>(0, spec.width - size);
  const char align = spec.align != '\0' ? spec.align : default_align;
  const std::int64_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  std::string before, after;
  for (std::int64_t i = 0; i < left; ++i) before += spec.fill;
  for (std::int64_t i = left; i < missing; ++i) after += spec.fill;
  return align == '=' ? sign + before + body : before + sign + body + after;
}

std::string grouped(const std::string& digits, char mark, std::size_t every) {
  if (mark == '\0') return digits;
  const std::size_t end = std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
  std::string out;
  for (std::size_t i = 0; i < end; ++i) {
    if (i > 0 && (end - i) % every == 0) out += mark;
    out += digits[i];
  }
  return out + digits.substr(end);
}

std::string sign_of(bool negative, const Spec& spec) {
  return negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
}

std::string format_integer(std::int64_t value, const Spec& spec) {
  const std::uint64_t size =
      value < 0 ? -static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
  std::string digits;
  std::string prefix;
  switch (spec.type) {
    case 'b':
      digits = fmt::format("{:b}", size);
      prefix = "0b";
      break;
    case 'o':
      digits = fmt::format("{:o}", size);
      prefix = "0o";
      break;
    case 'x':
      digits = fmt::format("{:x}", size);
      prefix = "0x";
      break;
    case 'X':
      digits = fmt::format("{:X}", size);
      prefix = "0X";
      break;
    default:
      digits = fmt::format("{}", size);
  }
  digits = grouped(digits, spec.grouping, spec.type == 'd' || spec.type == '\0' ? 3 : 4);
  return aligned(sign_of(value < 0, spec) + (spec.alternate ? prefix : ""), digits, spec, '>');
}

std::string format_float(double value, Spec spec) {
  const bool percent = spec.type == '%';
  const double size = std::fabs(percent ? value * 100 : value);
  const bool negative = std::signbit(value) && !std::isnan(value);
  std::string digits;
  const bool upper = spec.type == 'E' || spec.type == 'F' || spec.type == 'G';
  if (!std::isfinite(size)) {
    digits = std::isnan(size) ? (upper ? "NAN" : "nan") : (upper ? "INF" : "inf");
    // Zeros before "inf" are what Python writes as well.
  } else if (spec.type == '\0') {
    if (spec.precision >= 0) unsupported("a float's format with a precision and no type");
    digits = repr_of_float(size);
  } else {
    const std::string pattern =
        fmt::format("%{}.{}{}", spec.alternate ? "#" : "", spec.precision < 0 ? 6 : spec.precision,
                    percent ? 'f' : spec.type);
    std::array<char, 512> buffer;
    const int length = std::snprintf(buffer.data(), buffer.size(), pattern.c_str(), size);
    if (length < 0 || length >= static_cast<int>(buffer.size())) unsupported("a float of {} digits", length);
    digits = buffer.data();
  }
  return aligned(sign_of(negative, spec), grouped(digits, spec.grouping, 3) + (percent ? "%" : ""), spec,
                 '>');
}

std::string format_text(const Text& text, const Spec& spec) {
  std::string body = text.bytes();
  if (spec.precision >= 0 && spec.precision < text.length())
    body = *slice(text, {std::nullopt, spec.precision, std::nullopt}).text();
  return aligned("", body, spec, '<');
}

// ---- %

class PercentFormat {
 public:
  PercentFormat(std::string_view format, const Value& arguments) : format_(format), arguments_(arguments) {
    // A single value counts as a tuple of one.
    if (const Tuple* tuple = arguments.as<Tuple>())
      values_ = tuple->data->items;
    else
      values_ = {arguments};
  }

  std::string run() {
    std::string out;
    while (position_ < format_.size()) {
      const std::size_t mark = format_.find('%', position_);
      out += format_.substr(position_, mark - position_);
      if (mark == std::string_view::npos) break;
      position_ = mark + 1;
      out += directive();
      check_text_size(out.size());
    }
    // What has items by key may be left, used or not.
    const bool may_be_left = arguments_.is<Dict>() || arguments_.is<List>() || arguments_.is<Undefined>() ||
                             (arguments_.is<ObjectPtr>() && arguments_.object()->is_sequence());
    if (next_ < values_.size() && !used_mapping_ && !may_be_left)
      runtime_error("not all arguments converted during string formatting");
    return out;
  }

 private:
  const Value& take() {
    if (next_ >= values_.size()) runtime_error("not enough arguments for format string");
    return values_[next_++];
  }

  char peek() const {
    if (position_ >= format_.size()) runtime_error("incomplete format");
    return format_[position_];
  }

  Spec spec() {
    Spec spec;
    for (bool flag = true; flag;) {
      switch (peek()) {
        case '-':
          spec.align = '<';
          break;
        case '+':
          spec.sign = '+';
          break;
        case ' ':
          if (spec.sign != '+') spec.sign = ' ';
          break;
        case '#':
          spec.alternate = true;
          break;
        case '0':
          spec.zero = true;
          break;
        default:
          flag = false;
      }
      if (flag) ++position_;
    }
    if (peek() == '*') unsupported("'*' in a format");
    spec.width = digits_at(format_, position_);
    if (peek() == '.') {
      ++position_;
      if (peek() == '*') unsupported("'*' in a format");
      spec.precision = digits_at(format_, position_);
    }
    while (peek() == 'h' || peek() == 'l' || peek() == 'L') ++position_;
    spec.type = format_[position_++];
    return spec;
  }

  std::string directive() {
    std::optional<Value> named;
    if (peek() == '(') named = mapped();
    Spec spec = this->spec();
    if (spec.type == '%') return "%";
    const Value value = named ? *named : take();
    const bool number = std::string_view("diuoxXeEfFgG").find(spec.type) != std::string_view::npos;
    if (number && spec.zero && spec.align != '<') {
      spec.fill = "0";
      spec.align = '=';
    }
    if (spec.align == '\0') spec.align = '>';
    switch (spec.type) {
      case 's':
        return format_text(Text(to_text(value)), spec);
      case 'r':
        return format_text(Text(repr(value)), spec);
      case 'd':
      case 'i':
      case 'u':
      case 'o':
      case 'x':
      case 'X':
        return integer(value, spec);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        if (value.is<Undefined>()) runtime_error("{}", *value.as<Undefined>()->why);
        if (!number_of(value)) runtime_error("must be real number, not {}", type_name(value));
        return format_float(*number_of(value), spec);
      case 'a':
      case 'c':
        unsupported("the format '%{}'", spec.type);
      default:
        runtime_error("unsupported format character '{}'", spec.type);
    }
  }

  static std::string integer(const Value& value, Spec spec) {
    if (value.is<Undefined>()) runtime_error("{}", *value.as<Undefined>()->why);
    std::int64_t whole = 0;
    if (const auto integer = integer_of(value)) {
      whole = *integer;
    } else if (const double* x = value.as<double>();
               x != nullptr && (spec.type == 'd' || spec.type == 'i' || spec.type == 'u')) {
      if (!(std::fabs(*x) < 9e18)) unsupported("an integer beyond 64 bits");
      whole = static_cast<std::int64_t>(*x);
    } else {
      runtime_error("%{} format: a real number is required, not {}", spec.type, type_name(value));
    }
    if (spec.type == 'i' || spec.type == 'u') spec.type = 'd';
    if (spec.precision >= 0) unsupported("a precision in the format of an integer");
    return format_integer(whole, spec);
  }

  Value mapped() {
    int open = 0;
    const std::size_t start = position_ + 1;
    while (true) {
      const char c = peek();
      open += c == '(' ? 1 : c == ')' ? -1 : 0;
      ++position_;
      if (open == 0) break;
    }
    const Dict* dict = arguments_.as<Dict>();
    if (dict == nullptr) runtime_error("format requires a mapping");
    used_mapping_ = true;
    const std::string_view key = format_.substr(start, position_ - 1 - start);
    const Value* found = dict->find(key);
    if (found == nullptr) runtime_error("the format names the key '{}', which is missing", key);
    return *found;
  }

  std::string_view format_;
  const Value& arguments_;
  Values values_;
  std::size_t position_ = 0, next_ = 0;
  bool used_mapping_ = false;
};

// ---- {}

Spec brace_spec(std::string_view text) {
  Spec spec;
  std::size_t i = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  const std::size_t first = text.empty() ? 0 : text::utf8_length(text[0]);
  if (first < text.size() && first > 0 && is_align(text[first])) {
    spec.fill = text.substr(0, first);
    spec.align = text[first];
    i = first + 1;
  } else if (!text.empty() && is_align(text[0])) {
    spec.align = text[0];
    i = 1;
  }
  const auto skip = [&](char c) { return i < text.size() && text[i] == c ? (++i, true) : false; };
  for (const char sign : {'+', '-', ' '}) {
    if (skip(sign)) {
      spec.sign = sign;
      break;
    }
  }
  if (skip('z')) unsupported("'z' in a format");
  spec.alternate = skip('#');
  if (skip('0')) {
    spec.zero = true;
    if (spec.align == '\0') {
      spec.align = '=';
      spec.fill = "0";
    }
  }
  spec.width = digits_at(text, i);
  if (skip(','))
    spec.grouping = ',';
  else if (skip('_'))
    spec.grouping = '_';
  if (skip('.')) {
    const std::size_t before = i;
    spec.precision = digits_at(text, i);
    if (i == before) runtime_error("Format specifier missing precision");
  }
  if (i < text.size()) spec.type = text[i++];
  if (i < text.size()) runtime_error("Invalid format specifier '{}'", text);
  return spec;
}

std::string formatted(const Value& value, std::string_view spec_text) {
  if (spec_text.empty()) return to_text(value);
  Spec spec = brace_spec(spec_text);
  if (spec.grouping != '\0' && spec.align == '=' && spec.fill == "0")
    unsupported("zeros with grouping in a format");
  const auto unknown = [&]() {
    runtime_error("Unknown format code '{}' for object of type '{}'", spec.type, type_name(value));
  };
  if (const Text* text = value.as<Text>()) {
    if (spec.type != '\0' && spec.type != 's') unknown();
    if (spec.sign != '-' || spec.alternate || spec.grouping != '\0')
      runtime_error("Sign, '#' or grouping not allowed in string format specifier");
    if (spec.zero && spec.align == '=') spec.align = '<';
    if (spec.align == '=') runtime_error("'=' alignment not allowed in string format specifier");
    return format_text(*text, spec);
  }
  if (!number_of(value)) runtime_error("unsupported format string passed to {}", type_name(value));
  const bool is_float =
      std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos && spec.type != '\0';
  if (is_float || value.is<double>()) {
    if (!is_float && spec.type != '\0') unknown();
    if (spec.type == '\0' && spec.grouping != '\0')
      unsupported("grouping in a float's format without a type");
    return format_float(*number_of(value), spec);
  }
  if (std::string_view("bdoxX").find(spec.type) == std::string_view::npos && spec.type != '\0') {
    if (spec.type == 'c' || spec.type == 'n') unsupported("the format '{}'", spec.type);
    unknown();
  }
  if (spec.precision >= 0) runtime_error("Precision not allowed in integer format specifier");
  if (spec.grouping == ',' && spec.type != 'd' && spec.type != '\0')
    runtime_error("Cannot specify ',' with '{}'", spec.type);
  return format_integer(*integer_of(value), spec);
}

class BraceFormat {
 public:
  BraceFormat(Renderer& renderer, std::string_view format, const Arguments& arguments)
      : renderer_(renderer), format_(format), arguments_(arguments) {}

  std::string run() {
    std::string out;
    for (std::size_t i = 0; i < format_.size();) {
      const char c = format_[i];
      if (c != '{' && c != '}') {
        out += c;
        ++i;
      } else if (i + 1 < format_.size() && format_[i + 1] == c) {
        out += c;
        i += 2;
      } else if (c == '}') {
        runtime_error("Single '}}' encountered in format string");
      } else {
        const std::size_t end = format_.find_first_of("{}", i + 1);
        if (end == std::string_view::npos) runtime_error("Single '{{' encountered in format string");
        if (format_[end] == '{') unsupported("a format in a format");
        out += field(format_.substr(i + 1, end - i - 1));
        i = end + 1;
      }
      check_text_size(out.size());
    }
    return out;
  }

 private:
  std::string field(std::string_view text) {
    std::string_view spec;
    std::size_t colon = text.find(':');
    // A colon in brackets belongs to the name.
    if (const std::size_t bracket = text.find('[');
        bracket < colon && text.find(']') != std::string_view::npos)
      colon = text.find(':', text.find(']'));
    if (colon != std::string_view::npos) {
      spec = text.substr(colon + 1);
      text = text.substr(0, colon);
    }
    char conversion = '\0';
    if (const std::size_t mark = text.find('!'); mark != std::string_view::npos) {
      if (mark + 2 != text.size()) runtime_error("expected ':' after conversion specifier");
      conversion = text[mark + 1];
      text = text.substr(0, mark);
    }
    Value value = lookup(text);
    if (conversion == 's')
      value = Value(to_text(value));
    else if (conversion == 'r')
      value = Value(repr(value));
    else if (conversion == 'a')
      unsupported("'!a' in a format");
    else if (conversion != '\0')
      runtime_error("Unknown conversion specifier {}", conversion);
    return formatted(value, spec);
  }

  Value lookup(std::string_view text) {
    std::size_t end = std::min(text.find_first_of(".["), text.size());
    Value value = first(text.substr(0, end));
    while (end < text.size()) {
      if (text[end] == '.') {
        const std::size_t stop = std::min(text.find_first_of(".[", end + 1), text.size());
        if (stop == end + 1) runtime_error("Empty attribute in format string");
        value = renderer_.attribute(value, std::string(text.substr(end + 1, stop - end - 1)));
        end = stop;
        continue;
      }
      const std::size_t stop = text.find(']', end);
      if (text[end] != '[' || stop == std::string_view::npos || stop == end + 1)
        runtime_error("expected ']' before end of string");
      const std::string_view key = text.substr(end + 1, stop - end - 1);
      value = renderer_.item(value, is_number(key) ? Value(number(key)) : Value(key));
      end = stop + 1;
    }
    return value;
  }

  static bool is_number(std::string_view text) {
    return !text.empty() && text.size() < 10 &&
           text.find_first_not_of("0123456789") == std::string_view::npos;
  }
  static std::int64_t number(std::string_view text) {
    std::size_t position = 0;
    return digits_at(text, position);
  }

  Value first(std::string_view name) {
    if (name.empty() || is_number(name)) {
      if (name.empty() ? manual_ : automatic_)
        runtime_error("cannot switch between manual and automatic field numbering");
      (name.empty() ? automatic_ : manual_) = true;
      const auto index = static_cast<std::size_t>(name.empty() ? next_++ : number(name));
      if (index >= arguments_.positional.size()) runtime_error("Replacement index {} out of range", index);
      return arguments_.positional[index];
    }
    for (const auto& [key, value] : arguments_.keywords) {
      if (key == name) return value;
    }
    runtime_error("the format names '{}', which is missing", name);
  }

  Renderer& renderer_;
  std::string_view format_;
  const Arguments& arguments_;
  std::int64_t next_ = 0;
  bool automatic_ = false, manual_ = false;
};

}  // namespace

std::string percent_format(std::string_view format, const Value& arguments) {
  return PercentFormat(format, arguments).run();
}

std::string brace_format(Renderer& renderer, std::string_view format, const Arguments& arguments) {
  return BraceFormat(renderer, format, arguments).run();
}

}  // namespace swiftprune::templates
