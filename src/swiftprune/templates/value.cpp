#include "swiftprune/templates/value.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <unordered_map>

#include <fmt/format.h>

#include "swiftprune/templates/renderer.h"
#include "swiftprune/text/unicode.h"

namespace swiftprune::templates {
namespace {

constexpr std::size_t kSmallDict = 8;  // looked through from the front

// Equal for keys that Python takes for one.
std::string key_of(const Value& value) {
  if (const std::string* text = value.text()) return "s" + *text;
  if (const auto integer = integer_of(value)) return fmt::format("i{}", *integer);
  if (const double* x = value.as<double>()) {
    if (*x == std::floor(*x) && std::fabs(*x) < 9e18)
      return fmt::format("i{}", static_cast<std::int64_t>(*x));
    return fmt::format("f{}", std::bit_cast<std::uint64_t>(*x));
  }
  if (value.is<None>()) return "n";
  if (value.is<Undefined>()) return "u";
  if (const Tuple* tuple = value.as<Tuple>()) {
    std::string key = "t";
    for (const Value& item : tuple->data->items) {
      const std::string part = key_of(item);
      key += fmt::format("{}:", part.size()) + part;
    }
    return key;
  }
  if (const Object* object = value.object()) return fmt::format("o{}", static_cast<const void*>(object));
  runtime_error("unhashable type: '{}'", type_name(value));
}

Value make_sequence(Values items, bool tuple) {
  Extent extent{1, 1};
  for (const Value& item : items) extent.add(item.extent());
  auto data = std::make_shared<const Sequence>(Sequence{std::move(items), extent});
  return tuple ? Value(Tuple{std::move(data)}) : Value(List{std::move(data)});
}

Object::Next over_values(std::shared_ptr<const Sequence> data) {
  return [data = std::move(data), i = std::size_t{0}](Value& item) mutable {
    if (i == data->items.size()) return false;
    item = data->items[i++];
    return true;
  };
}

Object::Next over_text(const Text& text) {
  return [text, position = std::size_t{0}](Value& item) mutable {
    const std::string& bytes = text.bytes();
    if (position == bytes.size()) return false;
    const std::size_t size = text::utf8_length(bytes[position]);
    item = Text(bytes.substr(position, size));  // of markup too: plain characters
    position += size;
    return true;
  };
}

}  // namespace

struct Dict::Data {
  std::vector<std::pair<Value, Value>> items;
  std::unordered_map<std::string, std::size_t> index;  // of more than kSmallDict items
  Extent extent{1, 1};
};

Text::Text(std::string bytes, bool markup) : markup_(markup) {
  const std::int64_t length = text::num_code_points(bytes);
  data_ = std::make_shared<const Data>(Data{std::move(bytes), length});
}

Text Text::with_markup(bool markup) const {
  Text copy = *this;
  copy.markup_ = markup;
  return copy;
}

Dict::Dict() : data_(std::make_shared<const Data>()) {}
const std::vector<std::pair<Value, Value>>& Dict::items() const { return data_->items; }
std::size_t Dict::size() const { return data_->items.size(); }
Extent Dict::extent() const { return data_->extent; }

const Value* Dict::find(const Value& key) const {
  const std::string wanted = key_of(key);
  if (data_->items.size() > kSmallDict) {
    const auto found = data_->index.find(wanted);
    return found == data_->index.end() ? nullptr : &data_->items[found->second].second;
  }
  for (const auto& [k, v] : data_->items) {
    if (key_of(k) == wanted) return &v;
  }
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  if (data_->items.size() > kSmallDict) {
    const auto found = data_->index.find(fmt::format("s{}", key));
    return found == data_->index.end() ? nullptr : &data_->items[found->second].second;
  }
  for (const auto& [k, v] : data_->items) {
    if (k.text() != nullptr && *k.text() == key) return &v;
  }
  return nullptr;
}

DictBuilder::DictBuilder() : data_(std::make_shared<Dict::Data>()) {}
DictBuilder::DictBuilder(const Dict& from) : data_(std::make_shared<Dict::Data>(*from.data_)) {}

void DictBuilder::set(const Value& key, const Value& value) {
  const std::string name = key_of(key);
  data_->extent.add(key.extent());
  data_->extent.add(value.extent());
  const auto [entry, added] = data_->index.emplace(name, data_->items.size());
  if (added) {
    data_->items.emplace_back(key, value);
  } else {
    data_->items[entry->second].second = value;
  }
}

void DictBuilder::set(std::string_view key, const Value& value) { set(Value(key), value); }

bool DictBuilder::add(const Value& key) {
  const std::size_t before = data_->items.size();
  set(key, Value());
  return data_->items.size() > before;
}

void DictBuilder::erase(std::string_view key) {
  const auto found = data_->index.find(fmt::format("s{}", key));
  if (found == data_->index.end()) return;
  data_->items.erase(data_->items.begin() + static_cast<std::ptrdiff_t>(found->second));
  for (auto& [name, position] : data_->index) {
    if (position > found->second) --position;
  }
  data_->index.erase(found);
}

Dict DictBuilder::build() { return Dict(std::exchange(data_, nullptr)); }

Value::Value(const Value&) = default;
Value::Value(Value&&) noexcept = default;
Value& Value::operator=(const Value&) = default;
Value& Value::operator=(Value&&) noexcept = default;
Value::~Value() = default;

Value Object::call(Renderer&, const Arguments&) { runtime_error("'{}' object is not callable", type()); }

const Values* Value::sequence() const {
  if (const List* list = as<List>()) return &list->data->items;
  if (const Tuple* tuple = as<Tuple>()) return &tuple->data->items;
  return nullptr;
}

Extent Value::extent() const {
  if (const Text* text = as<Text>()) return {0, 1 + static_cast<std::int64_t>(text->bytes().size())};
  if (const List* list = as<List>()) return list->data->extent;
  if (const Tuple* tuple = as<Tuple>()) return tuple->data->extent;
  if (const Dict* dict = as<Dict>()) return dict->extent();
  if (const Object* held = object()) return held->extent();
  return {};
}

void Extent::add(const Extent& held) {
  depth = std::max(depth, held.depth + 1);
  weight += held.weight;
  if (depth > kMaxValueDepth) limit_error("values are nested deeper than {} levels", kMaxValueDepth);
  if (weight > kMaxValueWeight) limit_error("a value holds more than {} parts", kMaxValueWeight);
}

Value undefined_value(std::string why) {
  return Undefined{std::make_shared<const std::string>(std::move(why))};
}
Value make_list(Values items) { return make_sequence(std::move(items), false); }
Value make_tuple(Values items) { return make_sequence(std::move(items), true); }

std::string type_name(const Value& value) {
  if (value.is<Missing>() || value.is<Undefined>()) return "Undefined";
  if (value.is<None>()) return "NoneType";
  if (value.is<bool>()) return "bool";
  if (value.is<std::int64_t>()) return "int";
  if (value.is<double>()) return "float";
  if (const Text* text = value.as<Text>()) return text->markup() ? "Markup" : "str";
  if (value.is<List>()) return "list";
  if (value.is<Tuple>()) return "tuple";
  if (value.is<Dict>()) return "dict";
  return value.object()->type();
}

bool truth(const Value& value) {
  if (const bool* x = value.as<bool>()) return *x;
  if (const std::int64_t* x = value.as<std::int64_t>()) return *x != 0;
  if (const double* x = value.as<double>()) return *x != 0;
  if (value.is<None>() || value.is<Undefined>() || value.is<Missing>()) return false;
  const auto length = length_of(value);
  return !length || *length != 0;
}

std::optional<std::int64_t> integer_of(const Value& value) {
  if (const bool* x = value.as<bool>()) return *x ? 1 : 0;
  if (const std::int64_t* x = value.as<std::int64_t>()) return *x;
  return std::nullopt;
}

std::optional<double> number_of(const Value& value) {
  if (const double* x = value.as<double>()) return *x;
  if (const auto x = integer_of(value)) return static_cast<double>(*x);
  return std::nullopt;
}

std::int64_t need_integer(const Value& value, std::string_view what) {
  if (value.is<Undefined>()) runtime_error("{}", *value.as<Undefined>()->why);
  if (const auto x = integer_of(value)) return *x;
  runtime_error("{}: found a value of type '{}', expected an integer", what, type_name(value));
}

const Text& need_text(const Value& value, std::string_view what) {
  if (value.is<Undefined>()) runtime_error("{}", *value.as<Undefined>()->why);
  if (const Text* text = value.as<Text>()) return *text;
  runtime_error("{}: found a value of type '{}', expected a string", what, type_name(value));
}

std::optional<int> compare_numbers(const Value& a, const Value& b) {
  const auto i = integer_of(a);
  const auto j = integer_of(b);
  if (i && j) return *i < *j ? -1 : *i > *j ? 1 : 0;
  const auto x = number_of(a);
  const auto y = number_of(b);
  if (!x || !y || std::isnan(*x) || std::isnan(*y)) return std::nullopt;
  // An integer beyond 2^53 beside a float: the float is split, not the integer rounded.
  if (i || j) {
    const std::int64_t whole = i ? *i : *j;
    const double other = i ? *y : *x;
    int order = 0;  // of the integer against the float
    if (other >= 9223372036854775808.0) {
      order = -1;
    } else if (other < -9223372036854775808.0) {
      order = 1;
    } else {
      const double floor = std::floor(other);
      const auto cut = static_cast<std::int64_t>(floor);
      order = whole < cut ? -1 : whole > cut ? 1 : other > floor ? -1 : 0;
    }
    return i ? order : -order;
  }
  return *x < *y ? -1 : *x > *y ? 1 : 0;
}

bool identical(const Value& a, const Value& b) {
  if (a.is<None>() && b.is<None>()) return true;
  if (a.is<bool>() && b.is<bool>()) return *a.as<bool>() == *b.as<bool>();
  if (a.object() != nullptr && b.object() != nullptr) return a.object() == b.object();
  if (a.as<List>() && b.as<List>()) return a.as<List>()->data == b.as<List>()->data;
  if (a.as<Tuple>() && b.as<Tuple>()) return a.as<Tuple>()->data == b.as<Tuple>()->data;
  if (a.as<Dict>() && b.as<Dict>()) return a.as<Dict>()->same(*b.as<Dict>());
  if (type_name(a) != type_name(b)) return false;
  // Whether equal numbers and texts are one object is Python's business.
  if (!equal(a, b)) return false;
  unsupported("'sameas' of two equal values of type '{}'", type_name(a));
}

bool equal(const Value& a, const Value& b) {
  if (number_of(a) && number_of(b)) return compare_numbers(a, b) == 0;
  if (a.text() && b.text()) return *a.text() == *b.text();
  if (a.is<None>() || b.is<None>()) return a.is<None>() && b.is<None>();
  if (a.is<Undefined>() || b.is<Undefined>()) return a.is<Undefined>() && b.is<Undefined>();
  if ((a.is<List>() && b.is<List>()) || (a.is<Tuple>() && b.is<Tuple>())) {
    return std::equal(a.sequence()->begin(), a.sequence()->end(), b.sequence()->begin(), b.sequence()->end(),
                      [](const Value& x, const Value& y) { return equal(x, y); });
  }
  if (a.is<Dict>() && b.is<Dict>()) {
    const Dict& left = *a.as<Dict>();
    const Dict& right = *b.as<Dict>();
    if (left.size() != right.size()) return false;
    return std::all_of(left.items().begin(), left.items().end(), [&](const auto& item) {
      const Value* other = right.find(item.first);
      return other != nullptr && equal(item.second, *other);
    });
  }
  if (a.object() != nullptr && b.object() != nullptr) {
    if (a.object() == b.object()) return true;
    const std::string type = a.object()->type();
    const bool by_value = type == "range" || type == "dict_keys" || type == "dict_items" ||
                          type == "builtin_function_or_method";
    if (by_value && type == b.object()->type()) unsupported("comparing two objects of type '{}'", type);
  }
  return false;
}

bool less(const Value& a, const Value& b) {
  for (const Value* side : {&a, &b}) {
    if (side->is<Undefined>()) runtime_error("{}", *side->as<Undefined>()->why);
  }
  if (number_of(a) && number_of(b)) return compare_numbers(a, b).value_or(0) < 0;
  if (a.text() && b.text()) return *a.text() < *b.text();  // UTF-8 has the order of code points
  if ((a.is<List>() && b.is<List>()) || (a.is<Tuple>() && b.is<Tuple>())) {
    const Values& left = *a.sequence();
    const Values& right = *b.sequence();
    for (std::size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!equal(left[i], right[i])) return less(left[i], right[i]);
    }
    return left.size() < right.size();
  }
  runtime_error("'<' is not supported between '{}' and '{}'", type_name(a), type_name(b));
}

bool hashable(const Value& value) {
  if (value.is<List>() || value.is<Dict>()) return false;
  if (const Tuple* tuple = value.as<Tuple>())
    return std::all_of(tuple->data->items.begin(), tuple->data->items.end(), hashable);
  return true;
}

Object::Next iterate(const Value& value) {
  if (const List* list = value.as<List>()) return over_values(list->data);
  if (const Tuple* tuple = value.as<Tuple>()) return over_values(tuple->data);
  if (const Text* text = value.as<Text>()) return over_text(*text);
  if (value.is<Undefined>()) return [](Value&) { return false; };
  if (const Dict* dict = value.as<Dict>()) {
    return [dict = *dict, i = std::size_t{0}](Value& item) mutable {
      if (i == dict.size()) return false;
      item = dict.items()[i++].first;
      return true;
    };
  }
  if (value.is<ObjectPtr>()) {
    const ObjectPtr object = *value.as<ObjectPtr>();
    if (auto next = object->iterate())
      return [object, items = std::move(*next)](Value& item) { return items(item); };
  }
  runtime_error("'{}' object is not iterable", type_name(value));
}

bool iterable(const Value& value) {
  if (value.is<ObjectPtr>()) return (*value.as<ObjectPtr>())->iterate().has_value();
  return value.sequence() != nullptr || value.is<Text>() || value.is<Dict>() || value.is<Undefined>();
}

Values items_of(Renderer& renderer, const Value& value) {
  if (const Values* items = value.sequence()) {
    renderer.step(static_cast<std::int64_t>(items->size()));
    return *items;
  }
  Values items;
  const Object::Next next = iterate(value);
  for (Value item; next(item);) {
    renderer.step();
    items.push_back(item);
  }
  return items;
}

std::optional<std::int64_t> length_of(const Value& value) {
  if (const Values* items = value.sequence()) return static_cast<std::int64_t>(items->size());
  if (const Text* text = value.as<Text>()) return text->length();
  if (const Dict* dict = value.as<Dict>()) return static_cast<std::int64_t>(dict->size());
  if (value.is<Undefined>()) return 0;
  if (value.is<ObjectPtr>()) return (*value.as<ObjectPtr>())->length();
  return std::nullopt;
}

bool contains(Renderer& renderer, const Value& container, const Value& item) {
  if (const Text* text = container.as<Text>()) {
    if (!item.is<Text>()) {
      runtime_error("'in <string>' requires string as left operand, not {}", type_name(item));
    }
    return text->bytes().find(*item.text()) != std::string::npos;
  }
  if (const Dict* dict = container.as<Dict>()) return dict->find(item) != nullptr;
  const Object::Next next = iterate(container);
  for (Value other; next(other);) {
    renderer.step();
    if (equal(other, item)) return true;
  }
  return false;
}

}  // namespace swiftprune::templates
