// tojson as transformers has it: Python's json.dumps without HTML escapes.
#include <algorithm>
#include <cmath>

#include "swiftprune/templates/operators.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::templates {
namespace {

class JsonWriter {
 public:
  explicit JsonWriter(const JsonOptions& options) : options_(options) {}

  std::string run(const Value& value) {
    write(value, 0);
    return std::move(out_);
  }

 private:
  void write(const Value& value, int level) {
    check_text_size(out_.size());
    if (value.is<None>()) {
      out_ += "null";
    } else if (const bool* flag = value.as<bool>()) {
      out_ += *flag ? "true" : "false";
    } else if (const std::string* text = value.text()) {
      write_text(*text);
    } else if (number_of(value)) {
      out_ += number(value);
    } else if (const Values* items = value.sequence()) {
      write_items("[", "]", items->size(), level, [&](std::size_t i) { write((*items)[i], level + 1); });
    } else if (const Dict* dict = value.as<Dict>()) {
      write_dict(*dict, level);
    } else {
      runtime_error("Object of type {} is not JSON serializable", type_name(value));
    }
  }

  static std::string number(const Value& value) {
    const double* x = value.as<double>();
    if (x == nullptr || std::isfinite(*x)) return repr(value);
    return std::isnan(*x) ? "NaN" : *x < 0 ? "-Infinity" : "Infinity";
  }

  void write_dict(const Dict& dict, int level) {
    std::vector<const std::pair<Value, Value>*> members;
    for (const auto& member : dict.items()) members.push_back(&member);
    if (options_.sort_keys) {
      std::stable_sort(members.begin(), members.end(),
                       [](const auto* a, const auto* b) { return less(a->first, b->first); });
    }
    write_items("{", "}", members.size(), level, [&](std::size_t i) {
      const Value& key = members[i]->first;
      if (const bool* flag = key.as<bool>()) {
        write_text(*flag ? "true" : "false");
      } else if (key.is<None>()) {
        write_text("null");
      } else if (number_of(key)) {
        write_text(number(key));
      } else if (key.text() != nullptr) {
        write_text(*key.text());
      } else {
        runtime_error("keys must be str, int, float, bool or None, not {}", type_name(key));
      }
      out_ += options_.key_separator;
      write(members[i]->second, level + 1);
    });
  }

  template <class Item>
  void write_items(const char* open, const char* close, std::size_t count, int level, const Item& item) {
    out_ += open;
    for (std::size_t i = 0; i < count; ++i) {
      if (i > 0) out_ += options_.item_separator;
      new_line(level + 1);
      item(i);
    }
    if (count > 0) new_line(level);
    out_ += close;
  }

  void new_line(int level) {
    if (!options_.indent) return;
    out_ += '\n';
    check_text_size(options_.indent->size(), level);
    for (int i = 0; i < level; ++i) out_ += *options_.indent;
    check_text_size(out_.size());
  }

  void write_text(std::string_view text) {
    out_ += '"';
    for (std::size_t i = 0; i < text.size();) {
      const auto [c, bytes] = text::code_point_at(text, i);
      write_character(c, text.substr(i, bytes));
      i += bytes;
    }
    out_ += '"';
  }

  void write_character(char32_t c, std::string_view bytes) {
    constexpr std::string_view kSpecial = "\"\\\n\r\t\f\b";
    constexpr std::string_view kLetters = "\"\\nrtfb";
    if (const std::size_t i = c < 0x80 ? kSpecial.find(static_cast<char>(c)) : std::string_view::npos;
        i != std::string_view::npos) {
      out_ += '\\';
      out_ += kLetters[i];
    } else if (c < 0x20 || (options_.ensure_ascii && c > 0x7E)) {
      const auto code = static_cast<std::uint32_t>(c);
      if (code < 0x10000) {
        out_ += fmt::format("\\u{:04x}", code);
      } else {
        out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + ((code - 0x10000) >> 10),
                            0xDC00 + ((code - 0x10000) & 0x3FF));
      }
    } else {
      out_ += bytes;
    }
  }

  const JsonOptions& options_;
  std::string out_;
};

}  // namespace

std::string json_text(const Value& value, const JsonOptions& options) {
  return JsonWriter(options).run(value);
}

}  // namespace swiftprune::templates
