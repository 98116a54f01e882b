// Methods of Python's str.
#include <algorithm>
#include <array>

#include "swiftprune/templates/lexer.h"
#include "swiftprune/templates/methods.h"
#include "swiftprune/templates/objects.h"
#include "swiftprune/templates/operators.h"
#include "swiftprune/templates/python_case.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::templates {
namespace {

// The text between two bounds of Python, and how many code points stand before it.
struct Part {
  std::string text;
  std::int64_t before = 0;
  bool inside = true;  // the first bound is not behind the end
};

Part part_of(const Text& text, ArgumentReader& reader, std::string_view what) {
  const auto bound = [&](std::int64_t absent) {
    const Value given = reader.value_or({}, Value());
    if (given.is<None>()) return absent;
    const std::int64_t index = need_integer(given, what);
    return index < 0 ? std::max<std::int64_t>(0, index + text.length()) : index;
  };
  Part part;
  part.before = bound(0);
  const std::int64_t stop = bound(text.length());
  part.inside = part.before <= text.length() && part.before <= stop;
  part.text = *slice(text, {part.before, stop, std::nullopt}).text();
  return part;
}

Value strip(const Text& text, const Arguments& arguments, Side side) {
  ArgumentReader reader("strip", arguments);
  const Value chars = reader.value_or({}, Value());
  reader.done();
  const std::string* set = chars.is<None>() ? nullptr : &need_text(chars, "strip").bytes();
  return Value(stripped(text.bytes(), set, side));
}

// Words between white space; behind max_split splits the rest stays whole.
Values split_at_space(std::string_view text, std::int64_t max_split) {
  Values parts;
  std::string_view rest = stripped(text, nullptr, Side::kLeft);
  while (!rest.empty()) {
    if (max_split >= 0 && static_cast<std::int64_t>(parts.size()) == max_split) {
      parts.emplace_back(rest);
      break;
    }
    std::size_t end = 0;
    while (end < rest.size() && !is_python_space(text::code_point_at(rest, end).value))
      end += text::utf8_length(rest[end]);
    parts.emplace_back(rest.substr(0, end));
    rest = stripped(rest.substr(end), nullptr, Side::kLeft);
  }
  return parts;
}

Values rsplit_at_space(std::string_view text, std::int64_t max_split) {
  Values parts;
  std::string_view rest = stripped(text, nullptr, Side::kRight);
  while (!rest.empty()) {
    if (max_split >= 0 && static_cast<std::int64_t>(parts.size()) == max_split) {
      parts.emplace_back(rest);
      break;
    }
    std::size_t start = rest.size();
    while (start > 0) {
      const std::size_t previous = text::previous_boundary(rest, start);
      if (is_python_space(text::code_point_at(rest, previous).value)) break;
      start = previous;
    }
    parts.emplace_back(rest.substr(start));
    rest = stripped(rest.substr(0, start), nullptr, Side::kRight);
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

Values split_at(std::string_view text, std::string_view separator, std::int64_t max_split) {
  Values parts;
  std::size_t from = 0;
  while (max_split < 0 || static_cast<std::int64_t>(parts.size()) < max_split) {
    const std::size_t found = text.find(separator, from);
    if (found == std::string_view::npos) break;
    parts.emplace_back(text.substr(from, found - from));
    from = found + separator.size();
  }
  parts.emplace_back(text.substr(from));
  return parts;
}

Values rsplit_at(std::string_view text, std::string_view separator, std::int64_t max_split) {
  Values parts;
  std::string_view rest = text;
  while (max_split < 0 || static_cast<std::int64_t>(parts.size()) < max_split) {
    const std::size_t found = rest.size() < separator.size() ? std::string_view::npos : rest.rfind(separator);
    if (found == std::string_view::npos) break;
    parts.emplace_back(rest.substr(found + separator.size()));
    rest = rest.substr(0, found);
  }
  parts.emplace_back(rest);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

Value split(const Text& text, const Arguments& arguments, bool from_right) {
  ArgumentReader reader("split", arguments);
  const Value separator = reader.value_or("sep", Value());
  const std::int64_t max_split = need_integer(reader.value_or("maxsplit", Value(-1)), "split");
  reader.done();
  if (separator.is<None>()) {
    return make_list(from_right ? rsplit_at_space(text.bytes(), max_split)
                                : split_at_space(text.bytes(), max_split));
  }
  const std::string& mark = need_text(separator, "split").bytes();
  if (mark.empty()) runtime_error("empty separator");
  return make_list(from_right ? rsplit_at(text.bytes(), mark, max_split)
                              : split_at(text.bytes(), mark, max_split));
}

Value split_lines(Renderer&, const Text& text, const Arguments& arguments) {
  ArgumentReader reader("splitlines", arguments);
  const bool keep = truth(reader.value_or("keepends", Value(false)));
  reader.done();
  Values lines;
  for (std::string& line : lines_of(text.bytes(), keep)) lines.emplace_back(std::move(line));
  return make_list(std::move(lines));
}

Value starts_or_ends(const Text& text, const Arguments& arguments, bool starts) {
  ArgumentReader reader(starts ? "startswith" : "endswith", arguments);
  const Value wanted = reader.required({});
  const Part part = part_of(text, reader, "startswith");
  reader.done();
  Values candidates = {wanted};
  if (wanted.is<Tuple>()) candidates = *wanted.sequence();
  bool found = false;
  for (const Value& candidate : candidates) {
    const std::string& mark = need_text(candidate, "startswith").bytes();
    found = found || (part.inside && (starts ? part.text.starts_with(mark) : part.text.ends_with(mark)));
  }
  return Value(found);
}

Value replace(Renderer&, const Text& text, const Arguments& arguments) {
  ArgumentReader reader("replace", arguments);
  const Value from = reader.required({});
  const Value to = reader.required({});
  const std::int64_t count = need_integer(reader.value_or({}, Value(-1)), "replace");
  reader.done();
  return Value(
      replaced(text.bytes(), need_text(from, "replace").bytes(), need_text(to, "replace").bytes(), count));
}

Value find(const Text& text, const Arguments& arguments, bool last, bool must) {
  ArgumentReader reader("find", arguments);
  const std::string wanted = need_text(reader.required({}), "find").bytes();
  const Part part = part_of(text, reader, "find");
  reader.done();
  const std::size_t found = last ? part.text.rfind(wanted) : part.text.find(wanted);
  if (!part.inside || found == std::string::npos) {
    if (must) runtime_error("substring not found");
    return Value(-1);
  }
  return Value(part.before + text::num_code_points(std::string_view(part.text).substr(0, found)));
}

Value count(Renderer&, const Text& text, const Arguments& arguments) {
  ArgumentReader reader("count", arguments);
  const std::string wanted = need_text(reader.required({}), "count").bytes();
  const Part part = part_of(text, reader, "count");
  reader.done();
  if (!part.inside) return Value(0);
  if (wanted.empty()) return Value(text::num_code_points(part.text) + 1);
  std::int64_t times = 0;
  for (std::size_t at = part.text.find(wanted); at != std::string::npos;
       at = part.text.find(wanted, at + wanted.size()))
    ++times;
  return Value(times);
}

Value join(Renderer& renderer, const Text& text, const Arguments& arguments) {
  ArgumentReader reader("join", arguments);
  const Values items = items_of(renderer, reader.required({}));
  reader.done();
  std::string result;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) result += text.bytes();
    result += need_text(items[i], fmt::format("join: item {}", i)).bytes();
    check_text_size(result.size());
  }
  return Value(std::move(result));
}

Value remove_affix(const Text& text, const Arguments& arguments, bool prefix) {
  ArgumentReader reader(prefix ? "removeprefix" : "removesuffix", arguments);
  const std::string affix = need_text(reader.required({}), "removeprefix").bytes();
  reader.done();
  std::string_view bytes = text.bytes();
  if (prefix && bytes.starts_with(affix)) bytes.remove_prefix(affix.size());
  if (!prefix && bytes.ends_with(affix)) bytes.remove_suffix(affix.size());
  return Value(bytes);
}

Value partition(const Text& text, const Arguments& arguments, bool last) {
  ArgumentReader reader("partition", arguments);
  const std::string mark = need_text(reader.required({}), "partition").bytes();
  reader.done();
  if (mark.empty()) runtime_error("empty separator");
  const std::string_view bytes = text.bytes();
  const std::size_t found = last ? bytes.rfind(mark) : bytes.find(mark);
  if (found == std::string_view::npos)
    return last ? make_tuple({Value(""), Value(""), text}) : make_tuple({text, Value(""), Value("")});
  return make_tuple({Value(bytes.substr(0, found)), Value(mark), Value(bytes.substr(found + mark.size()))});
}

Value padded(const Text& text, const Arguments& arguments, Side side) {
  ArgumentReader reader("ljust", arguments);
  const std::int64_t width = need_integer(reader.required({}), "the width of a string");
  const Text fill = need_text(reader.value_or({}, Value(" ")), "the fill of a string");
  reader.done();
  if (fill.length() != 1) runtime_error("the fill character must be exactly one character long");
  const std::int64_t missing = std::max<std::int64_t>(0, width - text.length());
  check_text_size(fill.bytes().size(), missing);
  // Of an odd number CPython's center puts the larger half left, when the width is odd.
  std::int64_t left = side == Side::kLeft    ? 0
                      : side == Side::kRight ? missing
                                             : missing / 2 + (missing & width & 1);
  std::string result;
  for (std::int64_t i = 0; i < left; ++i) result += fill.bytes();
  result += text.bytes();
  for (std::int64_t i = left; i < missing; ++i) result += fill.bytes();
  return Value(std::move(result));
}

Value zero_filled(Renderer&, const Text& text, const Arguments& arguments) {
  ArgumentReader reader("zfill", arguments);
  const std::int64_t missing = need_integer(reader.required({}), "zfill") - text.length();
  reader.done();
  if (missing <= 0) return text;
  check_text_size(1, missing);
  std::string result = text.bytes();
  const bool sign = !result.empty() && (result[0] == '+' || result[0] == '-');
  result.insert(sign ? 1 : 0, static_cast<std::size_t>(missing), '0');
  return Value(std::move(result));
}

template <class Holds>
Value every(const Text& text, const Arguments& arguments, const Holds& holds) {
  ArgumentReader("is...", arguments).done();
  const std::string& bytes = text.bytes();
  for (std::size_t i = 0; i < bytes.size();) {
    const auto [c, size] = text::code_point_at(bytes, i);
    if (!holds(c)) return Value(false);
    i += size;
  }
  return Value(!bytes.empty());
}

Value has_case(const Text& text, const Arguments& arguments, bool upper) {
  ArgumentReader("isupper", arguments).done();
  bool cased = false;
  for (std::size_t i = 0; i < text.bytes().size();) {
    const auto [c, size] = text::code_point_at(text.bytes(), i);
    if (upper ? is_lower(c) || is_title(c) : is_upper(c) || is_title(c)) return Value(false);
    cased = cased || is_cased(c);
    i += size;
  }
  return Value(cased);
}

Value has_title_case(Renderer&, const Text& text, const Arguments& arguments) {
  ArgumentReader("istitle", arguments).done();
  bool in_word = false;
  bool cased = false;
  for (std::size_t i = 0; i < text.bytes().size();) {
    const auto [c, size] = text::code_point_at(text.bytes(), i);
    const bool begins = is_upper(c) || is_title(c);
    if ((begins && in_word) || (!begins && is_lower(c) && !in_word)) return Value(false);
    in_word = is_cased(c);
    cased = cased || in_word;
    i += size;
  }
  return Value(cased);
}

template <std::string (*kChange)(std::string_view)>
Value changed(Renderer&, const Text& text, const Arguments& arguments) {
  ArgumentReader("upper", arguments).done();
  return Value(kChange(text.bytes()));
}

using R = Renderer&;
using T = const Text&;
using A = const Arguments&;
constexpr auto kMethods = std::to_array<TextMethod>({
    {"upper", changed<upper_case>},
    {"lower", changed<lower_case>},
    {"title", changed<title_case>},
    {"capitalize", changed<capitalized>},
    {"strip", [](R, T t, A a) { return strip(t, a, Side::kBoth); }},
    {"lstrip", [](R, T t, A a) { return strip(t, a, Side::kLeft); }},
    {"rstrip", [](R, T t, A a) { return strip(t, a, Side::kRight); }},
    {"split", [](R, T t, A a) { return split(t, a, false); }},
    {"rsplit", [](R, T t, A a) { return split(t, a, true); }},
    {"splitlines", split_lines},
    {"startswith", [](R, T t, A a) { return starts_or_ends(t, a, true); }},
    {"endswith", [](R, T t, A a) { return starts_or_ends(t, a, false); }},
    {"replace", replace},
    {"find", [](R, T t, A a) { return find(t, a, false, false); }},
    {"rfind", [](R, T t, A a) { return find(t, a, true, false); }},
    {"index", [](R, T t, A a) { return find(t, a, false, true); }},
    {"rindex", [](R, T t, A a) { return find(t, a, true, true); }},
    {"count", count},
    {"join", join},
    {"format", [](R r, T t, A a) { return Value(brace_format(r, t.bytes(), a)); }},
    {"removeprefix", [](R, T t, A a) { return remove_affix(t, a, true); }},
    {"removesuffix", [](R, T t, A a) { return remove_affix(t, a, false); }},
    {"partition", [](R, T t, A a) { return partition(t, a, false); }},
    {"rpartition", [](R, T t, A a) { return partition(t, a, true); }},
    {"ljust", [](R, T t, A a) { return padded(t, a, Side::kLeft); }},
    {"rjust", [](R, T t, A a) { return padded(t, a, Side::kRight); }},
    {"center", [](R, T t, A a) { return padded(t, a, Side::kBoth); }},
    {"zfill", zero_filled},
    {"isdigit", [](R, T t, A a) { return every(t, a, is_digit); }},
    {"isdecimal", [](R, T t, A a) { return every(t, a, is_decimal); }},
    {"isalpha", [](R, T t, A a) { return every(t, a, is_alphabetic); }},
    {"isalnum", [](R, T t, A a) { return every(t, a, [](char32_t c) { return c != '_' && is_word(c); }); }},
    {"isspace", [](R, T t, A a) { return every(t, a, is_python_space); }},
    {"isascii",
     [](R, T t,
        A a) { return Value(t.bytes().empty() || truth(every(t, a, [](char32_t c) { return c < 0x80; }))); }},
    {"isupper", [](R, T t, A a) { return has_case(t, a, true); }},
    {"islower", [](R, T t, A a) { return has_case(t, a, false); }},
    {"istitle", has_title_case},
    {"casefold", nullptr},
    {"swapcase", nullptr},
    {"encode", nullptr},
    {"expandtabs", nullptr},
    {"format_map", nullptr},
    {"isidentifier", nullptr},
    {"isnumeric", nullptr},
    {"isprintable", nullptr},
    {"maketrans", nullptr},
    {"translate", nullptr},
});

}  // namespace

const TextMethod* find_text_method(std::string_view name) {
  const auto found =
      std::find_if(kMethods.begin(), kMethods.end(), [&](const TextMethod& m) { return m.name == name; });
  return found == kMethods.end() ? nullptr : &*found;
}

std::string_view stripped(std::string_view text, const std::string* chars, Side side) {
  const auto strips = [&](std::size_t position) {
    const auto [c, bytes] = text::code_point_at(text, position);
    return chars == nullptr ? is_python_space(c)
                            : chars->find(text.substr(position, bytes)) != std::string::npos;
  };
  while (side != Side::kRight && !text.empty() && strips(0)) text.remove_prefix(text::utf8_length(text[0]));
  while (side != Side::kLeft && !text.empty()) {
    const std::size_t start = text::previous_boundary(text, text.size());
    if (!strips(start)) break;
    text = text.substr(0, start);
  }
  return text;
}

std::vector<std::string> lines_of(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  std::size_t start = 0;
  for (std::size_t i = 0; i < text.size();) {
    const auto [c, bytes] = text::code_point_at(text, i);
    std::size_t end = i + bytes;
    const bool breaks =
        (c >= '\n' && c <= '\r') || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (breaks) {
      if (c == '\r' && end < text.size() && text[end] == '\n') ++end;
      lines.emplace_back(text.substr(start, (keep_ends ? end : i) - start));
      start = end;
    }
    i = end;
  }
  if (start < text.size()) lines.emplace_back(text.substr(start));
  return lines;
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to, std::int64_t count) {
  std::string result;
  std::size_t start = 0;
  for (std::int64_t n = 0; count < 0 || n < count; ++n) {
    if (from.empty()) {
      // Before every character and at the end.
      result += to;
      if (start == text.size()) return result;
      const std::size_t bytes = text::utf8_length(text[start]);
      result += text.substr(start, bytes);
      start += bytes;
    } else {
      const std::size_t found = text.find(from, start);
      if (found == std::string_view::npos) break;
      result += text.substr(start, found - start);
      result += to;
      start = found + from.size();
    }
    check_text_size(result.size());
  }
  result += text.substr(start);
  return result;
}

}  // namespace swiftprune::templates
