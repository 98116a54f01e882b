// Methods of Python's str, list, tuple, dict, int and float.
#include <algorithm>
#include <array>
#include <cmath>

#include "swiftprune/templates/methods.h"
#include "swiftprune/templates/objects.h"
#include "swiftprune/templates/operators.h"

namespace swiftprune::templates {
namespace {

// Attributes of the types that are not done here. Methods that change a list or a dict are Undefined instead.
constexpr std::array<std::string_view, 2> kDictRefused = {"fromkeys", "copy"};
constexpr std::array<std::string_view, 5> kDictMutating = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr std::array<std::string_view, 8> kListMutating = {"append", "clear", "pop",    "reverse",
                                                           "insert", "sort",  "extend", "remove"};
constexpr std::array<std::string_view, 10> kNumberRefused = {
    "as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator",
    "from_bytes",       "imag",      "numerator",  "real",      "to_bytes"};
constexpr std::array<std::string_view, 3> kFloatRefused = {"fromhex", "hex", "is_integer"};

template <std::size_t N>
bool among(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Value unsafe(const Value& value, const std::string& name) {
  return undefined_value(
      fmt::format("access to attribute '{}' of '{}' object is unsafe", name, type_name(value)));
}

std::optional<Value> dict_attribute(const Value& value, const std::string& name) {
  if (among(kDictMutating, name)) return unsafe(value, name);
  const Dict dict = *value.as<Dict>();
  const auto view = [&](DictView::Part part) {
    return make_builtin(
        name,
        [dict, part](Renderer&, const Arguments& arguments) {
          ArgumentReader("dict view", arguments).done();
          return Value(ObjectPtr(std::make_shared<DictView>(dict, part)));
        },
        value);
  };
  if (name == "items") return view(DictView::Part::kItems);
  if (name == "keys") return view(DictView::Part::kKeys);
  if (name == "values") return view(DictView::Part::kValues);
  if (name == "get") {
    return make_builtin(
        name,
        [dict](Renderer&, const Arguments& arguments) {
          ArgumentReader reader("get", arguments);
          const Value key = reader.required({});
          const Value absent = reader.value_or({}, Value());
          reader.done();
          const Value* found = dict.find(key);
          return found == nullptr ? absent : *found;
        },
        value);
  }
  if (name == "copy") {
    return make_builtin(
        name,
        [value](Renderer&, const Arguments& arguments) {
          ArgumentReader("copy", arguments).done();
          return Value(DictBuilder(*value.as<Dict>()).build());
        },
        value);
  }
  if (among(kDictRefused, name)) unsupported("the method '{}' of a dict", name);
  return std::nullopt;
}

std::int64_t index_in(Renderer& renderer, const Values& items, const Arguments& arguments) {
  ArgumentReader reader("index", arguments);
  const Value wanted = reader.required({});
  const auto length = static_cast<std::int64_t>(items.size());
  const auto bound = [&](std::int64_t absent) {
    const std::int64_t given = need_integer(reader.value_or({}, Value(absent)), "index");
    return given < 0 ? std::max<std::int64_t>(0, given + length) : given;
  };
  const std::int64_t start = bound(0);
  const std::int64_t stop = std::min(bound(length), length);
  reader.done();
  for (std::int64_t i = start; i < stop; ++i) {
    renderer.step();
    if (equal(items[static_cast<std::size_t>(i)], wanted)) return i;
  }
  runtime_error("{} is not in the list", repr(wanted));
}

std::optional<Value> sequence_attribute(const Value& value, const std::string& name) {
  if (value.is<List>() && among(kListMutating, name)) return unsafe(value, name);
  if (const Tuple* tuple = value.as<Tuple>(); tuple != nullptr && tuple->group) {
    if (name == "grouper") return tuple->data->items[0];
    if (name == "list") return tuple->data->items[1];
  }
  if (name == "index") {
    return make_builtin(
        name,
        [value](Renderer& renderer, const Arguments& arguments) {
          return Value(index_in(renderer, *value.sequence(), arguments));
        },
        value);
  }
  if (name == "count") {
    return make_builtin(
        name,
        [value](Renderer& renderer, const Arguments& arguments) {
          ArgumentReader reader("count", arguments);
          const Value wanted = reader.required({});
          reader.done();
          renderer.step(static_cast<std::int64_t>(value.sequence()->size()));
          return Value(static_cast<std::int64_t>(
              std::count_if(value.sequence()->begin(), value.sequence()->end(),
                            [&](const Value& item) { return equal(item, wanted); })));
        },
        value);
  }
  if (name == "copy" && value.is<List>()) {
    return make_builtin(
        name,
        [value](Renderer&, const Arguments& arguments) {
          ArgumentReader("copy", arguments).done();
          return make_list(*value.sequence());
        },
        value);
  }
  return std::nullopt;
}

// What a method of markup gives: markup again. Methods that take other texts in escape them.
Value marked(const Value& result, std::string_view name) {
  constexpr std::array<std::string_view, 4> kMixing = {"replace", "join", "format", "partition"};
  if (among(kMixing, name) || result.is<Tuple>()) unsupported("the method '{}' of markup", name);
  if (const Text* text = result.as<Text>()) return text->with_markup(true);
  if (!result.is<List>()) return result;
  Values items;
  for (const Value& item : *result.sequence()) items.emplace_back(item.as<Text>()->with_markup(true));
  return make_list(std::move(items));
}

std::optional<Value> text_attribute(const Value& value, const std::string& name) {
  const TextMethod* method = find_text_method(name);
  if (method == nullptr) return std::nullopt;
  const Text text = *value.as<Text>();
  if (method->body == nullptr) unsupported("the method '{}' of a string", name);
  return make_builtin(
      name,
      [text, method](Renderer& renderer, const Arguments& arguments) {
        renderer.charge(text);
        const Value result = method->body(renderer, text, arguments);
        return text.markup() ? marked(result, method->name) : result;
      },
      value);
}

}  // namespace

std::optional<Value> builtin_attribute(const Value& value, const std::string& name) {
  if (name.starts_with("__")) return unsafe(value, name);
  if (value.is<Dict>()) return dict_attribute(value, name);
  if (value.sequence() != nullptr) return sequence_attribute(value, name);
  if (value.is<Text>()) return text_attribute(value, name);
  if (number_of(value)) {
    if (among(kNumberRefused, name) || (value.is<double>() && among(kFloatRefused, name)))
      unsupported("the attribute '{}' of a number", name);
  }
  return std::nullopt;
}

}  // namespace swiftprune::templates
