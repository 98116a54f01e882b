// Filters on text: jinja2's, and transformers' tojson.
#include <algorithm>

#include "swiftprune/templates/filters.h"
#include "swiftprune/templates/lexer.h"
#include "swiftprune/templates/methods.h"
#include "swiftprune/templates/objects.h"
#include "swiftprune/templates/operators.h"
#include "swiftprune/templates/python_case.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::templates {
namespace {

using R = Renderer&;
using V = const Value&;
using A = const Arguments&;

// jinja2's soft_str: the text itself, else str().
Text soft_text(V value) { return value.is<Text>() ? *value.as<Text>() : Text(to_text(value)); }

Value tojson(R, V input, A arguments) {
  ArgumentReader reader("tojson", arguments);
  JsonOptions options;
  options.ensure_ascii = truth(reader.value_or("ensure_ascii", Value(false)));
  const Value indent = reader.value_or("indent", Value());
  const Value separators = reader.value_or("separators", Value());
  options.sort_keys = truth(reader.value_or("sort_keys", Value(false)));
  reader.done();
  if (const std::string* text = indent.text()) {
    options.indent = *text;
  } else if (!indent.is<None>()) {
    const std::int64_t width = std::max<std::int64_t>(0, need_integer(indent, "tojson: indent"));
    check_text_size(1, width);
    options.indent = std::string(static_cast<std::size_t>(width), ' ');
  }
  if (options.indent) options.item_separator = ",";
  if (!separators.is<None>()) {
    const Values* parts = separators.sequence();
    if (parts == nullptr || parts->size() != 2) runtime_error("tojson: separators: expected two strings");
    options.item_separator = need_text((*parts)[0], "tojson: separators").bytes();
    options.key_separator = need_text((*parts)[1], "tojson: separators").bytes();
  }
  return Value(json_text(input, options));
}

Value trim(R, V input, A arguments) {
  ArgumentReader reader("trim", arguments);
  const Value chars = reader.value_or("chars", Value());
  reader.done();
  const Text text = soft_text(input);
  const std::string* set = chars.is<None>() ? nullptr : &need_text(chars, "trim").bytes();
  return Text(std::string(stripped(text.bytes(), set, Side::kBoth)), text.markup());
}

Value replace(R, V input, A arguments) {
  ArgumentReader reader("replace", arguments);
  const std::string from = to_text(reader.required("old"));
  const std::string to = to_text(reader.required("new"));
  const Value count = reader.value_or("count", Value());
  reader.done();
  return Value(replaced(to_text(input), from, to, count.is<None>() ? -1 : need_integer(count, "replace")));
}

template <std::string (*kChange)(std::string_view)>
Value changed(R, V input, A arguments) {
  ArgumentReader("filter", arguments).done();
  const Text text = soft_text(input);
  return Text(kChange(text.bytes()), text.markup());
}

// jinja2's own: a word begins behind a hyphen, white space or an opening bracket.
std::string titled(std::string_view text) {
  const auto separates = [](char32_t c) {
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || is_python_space(c);
  };
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const bool separator = separates(text::code_point_at(text, i).value);
    std::size_t end = i;
    while (end < text.size() && separates(text::code_point_at(text, end).value) == separator)
      end += text::utf8_length(text[end]);
    const std::size_t first = i + text::utf8_length(text[i]);
    out += upper_case(text.substr(i, first - i)) + lower_case(text.substr(first, end - first));
    i = end;
  }
  return out;
}

Value indent(R, V input, A arguments) {
  ArgumentReader reader("indent", arguments);
  const Value width = reader.value_or("width", Value(4));
  const bool first = truth(reader.value_or("first", Value(false)));
  const bool blank = truth(reader.value_or("blank", Value(false)));
  reader.done();
  const Text& text = need_text(input, "indent");
  std::string indention;
  if (const std::string* given = width.text()) {
    indention = *given;
  } else {
    const std::int64_t spaces = std::max<std::int64_t>(0, need_integer(width, "indent"));
    check_text_size(1, spaces);
    indention.assign(static_cast<std::size_t>(spaces), ' ');
  }
  const std::vector<std::string> lines = lines_of(text.bytes() + "\n", false);
  std::string out = first ? indention : "";
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += "\n";
    if (i > 0 && (blank || !lines[i].empty())) out += indention;
    out += lines[i];
    check_text_size(out.size());
  }
  return Text(std::move(out), text.markup());
}

Value truncate(R, V input, A arguments) {
  ArgumentReader reader("truncate", arguments);
  const std::int64_t length = need_integer(reader.value_or("length", Value(255)), "truncate");
  const bool kill_words = truth(reader.value_or("killwords", Value(false)));
  const Text end = need_text(reader.value_or("end", Value("...")), "truncate");
  const Value leeway_value = reader.value_or("leeway", Value());
  reader.done();
  const std::int64_t leeway = leeway_value.is<None>() ? 5 : need_integer(leeway_value, "truncate");
  if (length < end.length()) runtime_error("expected length >= {}, got {}", end.length(), length);
  if (leeway < 0) runtime_error("expected leeway >= 0, got {}", leeway);
  const auto size = length_of(input);
  if (!size) runtime_error("object of type '{}' has no len()", type_name(input));
  if (*size <= checked_add(length, leeway)) return input;
  const Text& text = need_text(input, "truncate");
  if (text.markup()) unsupported("'truncate' of markup");
  std::string cut = *slice(text, {std::nullopt, length - end.length(), std::nullopt}).text();
  if (!kill_words) cut = cut.substr(0, cut.rfind(' '));
  return Value(cut + end.bytes());
}

Value word_count(R, V input, A arguments) {
  ArgumentReader("wordcount", arguments).done();
  const std::string text = to_text(input);
  std::int64_t words = 0;
  bool in_word = false;
  for (std::size_t i = 0; i < text.size();) {
    const auto [c, bytes] = text::code_point_at(text, i);
    const bool part = is_word(c);
    words += part && !in_word ? 1 : 0;
    in_word = part;
    i += bytes;
  }
  return Value(words);
}

Value format(R, V input, A arguments) {
  if (!arguments.positional.empty() && !arguments.keywords.empty())
    runtime_error("can't handle positional and keyword arguments at the same time");
  const Text text = soft_text(input);
  if (text.markup()) unsupported("'format' of markup");
  if (arguments.keywords.empty())
    return Value(percent_format(text.bytes(), make_tuple(arguments.positional)));
  DictBuilder names;
  for (const auto& [name, value] : arguments.keywords) names.set(name, value);
  return Value(percent_format(text.bytes(), names.build()));
}

Value center(R renderer, V input, A arguments) {
  ArgumentReader reader("center", arguments);
  const Value width = reader.value_or("width", Value(80));
  reader.done();
  return find_text_method("center")->body(renderer, soft_text(input), {{width}, {}});
}

Value join(R renderer, V input, A arguments) {
  ArgumentReader reader("join", arguments);
  const std::string separator = to_text(reader.value_or("d", Value("")));
  const Value attribute = reader.value_or("attribute", Value());
  reader.done();
  const AttributePath path(attribute);
  std::string out;
  bool first = true;
  const Object::Next next = iterate(input);
  for (Value item; next(item);) {
    renderer.step();
    if (!std::exchange(first, false)) out += separator;
    out += to_text(attribute.is<None>() ? item : path.of(renderer, item));
    check_text_size(out.size());
  }
  return Value(std::move(out));
}

Value string(R, V input, A arguments) {
  ArgumentReader("string", arguments).done();
  return soft_text(input);
}

Value safe(R, V input, A arguments) {
  ArgumentReader("safe", arguments).done();
  return Text(to_text(input), true);
}

Value escape_filter(R, V input, A arguments) {
  ArgumentReader("escape", arguments).done();
  return escape(input);
}

Value force_escape(R, V input, A arguments) {
  ArgumentReader("forceescape", arguments).done();
  return Text(escaped_html(to_text(input)), true);
}

constexpr auto kTextFilters = std::to_array<Filter>({
    {"tojson", tojson},
    {"trim", trim},
    {"replace", replace},
    {"upper", changed<upper_case>},
    {"lower", changed<lower_case>},
    {"capitalize", changed<capitalized>},
    {"title",
     [](R, V v, A a) {
       ArgumentReader("title", a).done();
       return Value(titled(to_text(v)));
     }},
    {"indent", indent},
    {"truncate", truncate},
    {"wordcount", word_count},
    {"format", format},
    {"center", center},
    {"join", join},
    {"string", string},
    {"safe", safe},
    {"escape", escape_filter},
    {"e", escape_filter},
    {"forceescape", force_escape},
    {"filesizeformat", nullptr},
    {"pprint", nullptr},
    {"random", nullptr},
    {"striptags", nullptr},
    {"urlencode", nullptr},
    {"urlize", nullptr},
    {"wordwrap", nullptr},
    {"xmlattr", nullptr},
});

}  // namespace

std::span<const Filter> text_filters() { return kTextFilters; }

}  // namespace swiftprune::templates
