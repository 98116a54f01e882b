#include "swiftprune/templates/lexer.h"

#include <algorithm>
#include <array>
#include <optional>

#include "swiftprune/templates/template_error.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::templates {
namespace {

using Kind = Token::Kind;

// Longer ones first.
constexpr std::array<std::string_view, 26> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                         "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                         ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};

// \r\n and \r become \n; one newline at the end goes.
std::string normalized_lines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
      continue;
    }
    out += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_part(char c) { return is_name_start(c) || is_digit(c); }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized_lines(source)) {}

  std::vector<Token> run() {
    while (position_ < source_.size()) root();
    add(Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    throw TemplateError(TemplateError::Kind::kSyntax, message, line_);
  }
  bool at(std::string_view text) const { return source_.compare(position_, text.size(), text) == 0; }
  void add(Kind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  void advance(std::size_t bytes) {
    line_ +=
        static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(position_),
                                    source_.begin() + static_cast<std::ptrdiff_t>(position_ + bytes), '\n'));
    position_ += bytes;
  }

  std::size_t end_of_space(std::size_t from) const {
    while (from < source_.size()) {
      const auto [c, bytes] = text::code_point_at(source_, from);
      if (!is_python_space(c)) break;
      from += bytes;
    }
    return from;
  }
  void skip_space() { advance(end_of_space(position_) - position_); }

  // Text before a tag, as the tag's sign and lstrip_blocks leave it. sign: '-', '+' or 0.
  std::string_view stripped(std::string_view text, char sign, bool variable) const {
    if (sign == '-') {
      while (!text.empty()) {
        const std::size_t start = text::previous_boundary(text, text.size());
        if (!is_python_space(text::code_point_at(text, start).value)) break;
        text = text.substr(0, start);
      }
      return text;
    }
    if (sign == '+' || variable) return text;
    const std::size_t newline = text.rfind('\n');
    const std::size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
    if (line_start == 0 && !line_starting_) return text;
    for (std::size_t i = line_start; i < text.size();) {
      const auto [c, bytes] = text::code_point_at(text, i);
      if (!is_python_space(c)) return text;
      i += bytes;
    }
    return text.substr(0, line_start);
  }

  void add_data(std::string_view text) {
    if (!text.empty()) add(Kind::kData, std::string(text));
  }

  // Data up to the next tag, and the tag.
  void root() {
    const std::size_t start = position_;
    std::size_t tag = source_.find('{', start);
    while (tag != std::string::npos &&
           (tag + 1 >= source_.size() ||
            (source_[tag + 1] != '{' && source_[tag + 1] != '%' && source_[tag + 1] != '#'))) {
      tag = source_.find('{', tag + 1);
    }
    const std::string_view all = source_;
    if (tag == std::string::npos) {
      add_data(all.substr(start));
      advance(source_.size() - start);
      return;
    }
    const char type = source_[tag + 1];
    const char next = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const char sign = next == '-' || next == '+' ? next : '\0';
    add_data(stripped(all.substr(start, tag - start), sign, type == '{'));
    advance(tag - start);
    const std::optional<std::size_t> raw =
        type == '%' ? raw_begin_end(tag + 2 + (sign ? 1 : 0)) : std::nullopt;
    if (raw) {
      after_tag(*raw - position_);
      raw_block();
      return;
    }
    const std::size_t opening = sign ? 3 : 2;
    line_starting_ = false;
    if (type == '#') {
      advance(opening);
      comment();
    } else {
      add(type == '{' ? Kind::kVariableBegin : Kind::kBlockBegin, "");
      advance(opening);
      tag_body(type == '{');
    }
  }

  // Moves over the end of a tag: what the next tag sees as the beginning of a line.
  void after_tag(std::size_t bytes) {
    line_starting_ = bytes > 0 && source_[position_ + bytes - 1] == '\n';
    advance(bytes);
  }

  // End of "raw %}" or "raw -%}" that starts here.
  std::optional<std::size_t> raw_begin_end(std::size_t from) const {
    from = end_of_space(from);
    if (source_.compare(from, 3, "raw") != 0) return std::nullopt;
    from = end_of_space(from + 3);
    if (source_.compare(from, 3, "-%}") == 0) return end_of_space(from + 3);
    if (source_.compare(from, 2, "%}") == 0) return from + 2;
    return std::nullopt;
  }

  // Bytes of a block's or comment's end here: "+%}", "-%}" with white space, "%}" with one newline; 0: none.
  std::size_t closing(std::size_t from, std::string_view mark) const {
    const char sign = from < source_.size() ? source_[from] : '\0';
    if ((sign == '+' || sign == '-') && source_.compare(from + 1, mark.size(), mark) == 0) {
      return (sign == '-' ? end_of_space(from + 1 + mark.size()) : from + 1 + mark.size()) - from;
    }
    if (source_.compare(from, mark.size(), mark) != 0) return 0;
    const std::size_t end = from + mark.size();
    return (end < source_.size() && source_[end] == '\n' ? end + 1 : end) - from;
  }

  void comment() {
    if (position_ == source_.size()) return;  // as jinja2: nothing is left that could miss its end
    for (std::size_t end = position_; end < source_.size(); ++end) {
      if (const std::size_t bytes = closing(end, "#}")) {
        after_tag(end + bytes - position_);
        return;
      }
    }
    fail("Missing end of comment tag");
  }

  void raw_block() {
    if (position_ == source_.size()) return;
    for (std::size_t tag = source_.find("{%", position_); tag != std::string::npos;
         tag = source_.find("{%", tag + 1)) {
      const char next = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      const char sign = next == '-' || next == '+' ? next : '\0';
      std::size_t end = end_of_space(tag + 2 + (sign ? 1 : 0));
      if (source_.compare(end, 6, "endraw") != 0) continue;
      end = end_of_space(end + 6);
      const std::size_t bytes = closing(end, "%}");
      if (bytes == 0) continue;
      add_data(stripped(std::string_view(source_).substr(position_, tag - position_), sign, false));
      after_tag(end + bytes - position_);
      return;
    }
    fail("Missing end of raw directive");
  }

  // Tokens of an expression or statement, up to its end.
  void tag_body(bool variable) {
    std::string open;  // brackets that wait for their end
    while (true) {
      if (position_ >= source_.size()) return;  // the parser says what is missing
      if (open.empty()) {
        if (const std::size_t bytes = variable ? variable_end() : closing(position_, "%}")) {
          add(variable ? Kind::kVariableEnd : Kind::kBlockEnd, "");
          after_tag(bytes);
          return;
        }
      }
      const std::size_t space = end_of_space(position_);
      if (space > position_) {
        advance(space - position_);
        continue;
      }
      token(open);
    }
  }

  std::size_t variable_end() const {
    if (at("-}}")) return end_of_space(position_ + 3) - position_;
    return at("}}") ? 2 : 0;
  }

  void token(std::string& open) {
    const char c = source_[position_];
    if (const std::size_t bytes = float_length()) return take(Kind::kFloat, bytes);
    if (const std::size_t bytes = integer_length()) return take(Kind::kInteger, bytes);
    if (is_name_part(c)) {
      std::size_t end = position_;
      while (end < source_.size() && is_name_part(source_[end])) ++end;
      if (!is_name_start(c)) fail("Invalid character in identifier");
      return take(Kind::kName, end - position_);
    }
    if (c == '\'' || c == '"') return string(c);
    for (const std::string_view text : kOperators) {
      if (!at(text)) continue;
      balance(text, open);
      return take(Kind::kOperator, text.size());
    }
    const std::size_t bytes = text::utf8_length(c);
    fail(fmt::format("unexpected char '{}'{}", source_.substr(position_, bytes),
                     bytes > 1 ? " (names here are letters, digits and _ of ASCII)" : ""));
  }

  void take(Kind kind, std::size_t bytes) {
    add(kind, source_.substr(position_, bytes));
    advance(bytes);
  }

  void balance(std::string_view text, std::string& open) {
    if (text == "(") open += ')';
    if (text == "[") open += ']';
    if (text == "{") open += '}';
    if (text != ")" && text != "]" && text != "}") return;
    if (open.empty()) fail(fmt::format("unexpected '{}'", text));
    if (open.back() != text[0]) fail(fmt::format("unexpected '{}', expected '{}'", text, open.back()));
    open.pop_back();
  }

  // (\d+_)*\d+ from here: its end, or `from`.
  std::size_t digits(std::size_t from) const {
    std::size_t end = from;
    while (end < source_.size() &&
           (is_digit(source_[end]) || (source_[end] == '_' && end > from && is_digit(source_[end - 1]) &&
                                       end + 1 < source_.size() && is_digit(source_[end + 1])))) {
      ++end;
    }
    return end;
  }

  std::size_t float_length() const {
    if (position_ > 0 && source_[position_ - 1] == '.') return 0;
    const std::size_t whole = digits(position_);
    if (whole == position_) return 0;
    std::size_t fraction = whole;
    if (whole < source_.size() && source_[whole] == '.') {
      const std::size_t end = digits(whole + 1);
      if (end > whole + 1) fraction = end;
    }
    std::size_t exponent = fraction;
    if (fraction < source_.size() && (source_[fraction] == 'e' || source_[fraction] == 'E')) {
      std::size_t first = fraction + 1;
      if (first < source_.size() && (source_[first] == '+' || source_[first] == '-')) ++first;
      const std::size_t end = digits(first);
      if (end > first) exponent = end;
    }
    return exponent > whole ? exponent - position_ : 0;
  }

  std::size_t integer_length() const {
    if (!is_digit(source_[position_])) return 0;
    const auto run = [&](std::size_t from, const auto& is_part) {
      std::size_t end = from;
      while (end < source_.size()) {
        std::size_t next = end;
        if (source_[next] == '_') ++next;
        if (next >= source_.size() || !is_part(source_[next])) break;
        end = next + 1;
      }
      return end;
    };
    if (source_[position_] == '0' && position_ + 1 < source_.size()) {
      const char kind = static_cast<char>(source_[position_ + 1] | 0x20);
      const std::size_t first = position_ + 2;
      std::size_t end = first;
      if (kind == 'b') end = run(first, [](char c) { return c == '0' || c == '1'; });
      if (kind == 'o') end = run(first, [](char c) { return c >= '0' && c <= '7'; });
      if (kind == 'x') {
        end = run(first, [](char c) { return is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f'); });
      }
      if (end > first) return end - position_;
    }
    if (source_[position_] == '0') return run(position_ + 1, [](char c) { return c == '0'; }) - position_;
    return run(position_ + 1, is_digit) - position_;
  }

  void string(char quote) {
    std::size_t end = position_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail(fmt::format("unexpected char '{}': the string has no end", quote));
    add(Kind::kString, unescaped(std::string_view(source_).substr(position_ + 1, end - position_ - 1)));
    advance(end + 1 - position_);
  }

  std::string unescaped(std::string_view text) const {
    std::string out;
    for (std::size_t i = 0; i < text.size();) {
      if (text[i] != '\\') {
        out += text[i++];
        continue;
      }
      i += escape(text.substr(i), out);
    }
    return out;
  }

  // One escape of Python's "unicode-escape"; the bytes it takes.
  std::size_t escape(std::string_view text, std::string& out) const {
    constexpr std::string_view kLetters = "abfnrtv\\'\"";
    constexpr std::string_view kValues = "\a\b\f\n\r\t\v\\'\"";
    if (text.size() < 2) fail("\\ at end of string");
    const char c = text[1];
    if (const std::size_t i = kLetters.find(c); i != std::string_view::npos) {
      out += kValues[i];
      return 2;
    }
    if (c == '\n') return 2;
    if (c == 'x') return hexadecimal(text, 2, out);
    if (c == 'u') return hexadecimal(text, 4, out);
    if (c == 'U') return hexadecimal(text, 8, out);
    if (c == 'N') fail("\\N{...} in a string cannot be rendered here");
    if (c >= '0' && c <= '7') {
      std::size_t end = 1;
      char32_t value = 0;
      while (end < text.size() && end < 4 && text[end] >= '0' && text[end] <= '7') {
        value = value * 8 + static_cast<char32_t>(text[end++] - '0');
      }
      text::append_utf8(out, value);
      return end;
    }
    out += '\\';
    if (static_cast<unsigned char>(c) < 0x80) {
      out += c;
      return 2;
    }
    // jinja2 spells such a character as \x.., whose backslash then follows this one.
    const auto [value, bytes] = text::code_point_at(text, 1);
    const auto code = static_cast<std::uint32_t>(value);
    out += code < 0x100     ? fmt::format("x{:02x}", code)
           : code < 0x10000 ? fmt::format("u{:04x}", code)
                            : fmt::format("U{:08x}", code);
    return 1 + bytes;
  }

  std::size_t hexadecimal(std::string_view text, std::size_t digits, std::string& out) const {
    char32_t value = 0;
    for (std::size_t i = 2; i < 2 + digits; ++i) {
      const char c = i < text.size() ? text[i] : '\0';
      const char lower = static_cast<char>(c | 0x20);
      if (!is_digit(c) && !(lower >= 'a' && lower <= 'f'))
        fail("a string has a \\x, \\u or \\U that is cut short");
      value = value * 16 + static_cast<char32_t>(is_digit(c) ? c - '0' : lower - 'a' + 10);
    }
    if (value > 0x10FFFF) fail("illegal Unicode character in a string");
    if (value >= 0xD800 && value <= 0xDFFF)
      fail("half of a surrogate pair in a string cannot be rendered here");
    text::append_utf8(out, value);
    return 2 + digits;
  }

  std::string source_;
  std::vector<Token> tokens_;
  std::size_t position_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // the last tag ended with a newline
};

}  // namespace

bool is_python_space(char32_t c) { return (c >= 0x1C && c <= 0x1F) || text::is_whitespace(c); }

std::vector<Token> tokenize(std::string_view source) {
  if (const auto position = text::invalid_utf8_position(source)) {
    throw TemplateError(TemplateError::Kind::kSyntax, fmt::format("byte {} is not UTF-8", *position));
  }
  return Lexer(source).run();
}

}  // namespace swiftprune::templates
