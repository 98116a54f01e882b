// Filters on lists and dicts.
#include <algorithm>
#include <array>
#include <optional>

#include "swiftprune/templates/filters.h"
#include "swiftprune/templates/methods.h"
#include "swiftprune/templates/objects.h"
#include "swiftprune/templates/operators.h"
#include "swiftprune/templates/python_case.h"

namespace swiftprune::templates {
namespace {

using R = Renderer&;
using V = const Value&;
using A = const Arguments&;

Value ignoring_case(V value) { return value.is<Text>() ? Value(lower_case(*value.text())) : value; }

// The key of sort, unique, min, max and groupby.
struct Key {
  AttributePath path;
  bool case_sensitive;
  Value of(R renderer, V item, V absent = Value()) const {
    const Value value = path.of(renderer, item, absent);
    return case_sensitive ? value : ignoring_case(value);
  }
};

// Stable, by less(key, key); a reversed sort keeps the order of equal ones, as Python's.
void sort_by_key(std::vector<std::pair<Value, Value>>& keyed, bool reverse) {
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? less(b.first, a.first) : less(a.first, b.first);
  });
}

Values second_of(std::vector<std::pair<Value, Value>>& keyed) {
  Values items;
  for (auto& [key, item] : keyed) items.push_back(std::move(item));
  return items;
}

Value length(R, V input, A arguments) {
  ArgumentReader("length", arguments).done();
  const auto size = length_of(input);
  if (!size) runtime_error("object of type '{}' has no len()", type_name(input));
  return Value(*size);
}

Value default_value(R, V input, A arguments) {
  ArgumentReader reader("default", arguments);
  const Value absent = reader.value_or("default_value", Value(""));
  const bool boolean = truth(reader.value_or("boolean", Value(false)));
  reader.done();
  return input.is<Undefined>() || (boolean && !truth(input)) ? absent : input;
}

Value list(R renderer, V input, A arguments) {
  ArgumentReader("list", arguments).done();
  return make_list(items_of(renderer, input));
}

Value first(R, V input, A arguments) {
  ArgumentReader("first", arguments).done();
  Value item;
  return iterate(input)(item) ? item : undefined_value("No first item, sequence was empty.");
}

bool reversible(V value) {
  if (const Object* object = value.object())
    return object->is_sequence() || object->type().starts_with("dict_");
  return value.is<Text>() || value.sequence() != nullptr || value.is<Dict>() || value.is<Undefined>();
}

Value last(R renderer, V input, A arguments) {
  ArgumentReader("last", arguments).done();
  if (!reversible(input)) runtime_error("'{}' object is not reversible", type_name(input));
  if (const Values* held = input.sequence())
    return held->empty() ? undefined_value("No last item, sequence was empty.") : held->back();
  const Values items = items_of(renderer, input);
  return items.empty() ? undefined_value("No last item, sequence was empty.") : items.back();
}

Value reverse(R renderer, V input, A arguments) {
  ArgumentReader("reverse", arguments).done();
  if (input.is<Text>()) return slice(input, {std::nullopt, std::nullopt, -1});
  Values items = items_of(renderer, input);
  std::reverse(items.begin(), items.end());
  if (!reversible(input)) return make_list(std::move(items));
  const Value reversed = make_list(std::move(items));
  const Object::Next next = iterate(reversed);
  return make_generator(next, reversed);
}

Value items(R, V input, A arguments) {
  ArgumentReader("items", arguments).done();
  if (input.is<Undefined>()) return make_generator([](Value&) { return false; }, Value());
  if (!input.is<Dict>()) runtime_error("Can only get item pairs from a mapping.");
  return make_generator(*DictView(*input.as<Dict>(), DictView::Part::kItems).iterate(), input);
}

Value dict_sort(R, V input, A arguments) {
  ArgumentReader reader("dictsort", arguments);
  const bool case_sensitive = truth(reader.value_or("case_sensitive", Value(false)));
  const std::string by = to_text(reader.value_or("by", Value("key")));
  const bool reverse_order = truth(reader.value_or("reverse", Value(false)));
  reader.done();
  if (by != "key" && by != "value") runtime_error("You can only sort by either \"key\" or \"value\"");
  if (input.is<Undefined>()) runtime_error("{}", *input.as<Undefined>()->why);
  if (!input.is<Dict>()) runtime_error("'{}' object has no attribute 'items'", type_name(input));
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : input.as<Dict>()->items()) {
    const Value& chosen = by == "key" ? key : value;
    keyed.emplace_back(case_sensitive ? chosen : ignoring_case(chosen), make_tuple({key, value}));
  }
  sort_by_key(keyed, reverse_order);
  return make_list(second_of(keyed));
}

Value sort(R renderer, V input, A arguments) {
  ArgumentReader reader("sort", arguments);
  const bool reverse_order = truth(reader.value_or("reverse", Value(false)));
  const bool case_sensitive = truth(reader.value_or("case_sensitive", Value(false)));
  const Value attribute = reader.value_or("attribute", Value());
  reader.done();
  std::vector<Key> keys;  // of "a,b" two
  if (const std::string* text = attribute.text()) {
    std::size_t start = 0;
    while (true) {
      const std::size_t comma = text->find(',', start);
      keys.push_back({AttributePath(Value(text->substr(start, comma - start))), case_sensitive});
      if (comma == std::string::npos) break;
      start = comma + 1;
    }
  } else {
    keys.push_back({AttributePath(attribute), case_sensitive});
  }
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items_of(renderer, input)) {
    Values parts;
    for (const Key& key : keys) parts.push_back(key.of(renderer, item));
    keyed.emplace_back(make_list(std::move(parts)), item);
  }
  sort_by_key(keyed, reverse_order);
  return make_list(second_of(keyed));
}

Value unique(R renderer, V input, A arguments) {
  ArgumentReader reader("unique", arguments);
  const bool case_sensitive = truth(reader.value_or("case_sensitive", Value(false)));
  const Key key{AttributePath(reader.value_or("attribute", Value())), case_sensitive};
  reader.done();
  // A generator of jinja2: an input that cannot be iterated fails when it is used.
  return make_generator(
      [&renderer, key, input, seen = DictBuilder(),
       source = std::optional<Object::Next>()](Value& item) mutable {
        if (!source) source = iterate(input);
        while ((*source)(item)) {
          renderer.step();
          if (seen.add(key.of(renderer, item))) return true;
        }
        return false;
      },
      input, arguments);
}

Value extreme(R renderer, V input, A arguments, bool maximum) {
  ArgumentReader reader(maximum ? "max" : "min", arguments);
  const bool case_sensitive = truth(reader.value_or("case_sensitive", Value(false)));
  const Key key{AttributePath(reader.value_or("attribute", Value())), case_sensitive};
  reader.done();
  const Values all = items_of(renderer, input);
  if (all.empty()) return undefined_value("No aggregated item, sequence was empty.");
  std::size_t best = 0;
  Value best_key = key.of(renderer, all[0]);
  for (std::size_t i = 1; i < all.size(); ++i) {
    const Value candidate = key.of(renderer, all[i]);
    if (maximum ? less(best_key, candidate) : less(candidate, best_key)) {
      best = i;
      best_key = candidate;
    }
  }
  return all[best];
}

Value sum(R renderer, V input, A arguments) {
  ArgumentReader reader("sum", arguments);
  const Value attribute = reader.value_or("attribute", Value());
  Value total = reader.value_or("start", Value(0));
  reader.done();
  if (total.is<Text>()) runtime_error("sum() can't sum strings");
  const AttributePath path(attribute);
  const Object::Next next = iterate(input);
  for (Value item; next(item);) {
    total = binary_operation("+", total, attribute.is<None>() ? item : path.of(renderer, item));
    renderer.charge(total);
  }
  return total;
}

Value group_by(R renderer, V input, A arguments) {
  ArgumentReader reader("groupby", arguments);
  const AttributePath path(reader.required("attribute"));
  const Value absent = reader.value_or("default", Value());
  const Key key{path, truth(reader.value_or("case_sensitive", Value(false)))};
  reader.done();
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items_of(renderer, input))
    keyed.emplace_back(key.of(renderer, item, absent), item);
  sort_by_key(keyed, false);
  Values groups;
  for (std::size_t i = 0; i < keyed.size();) {
    std::size_t end = i;
    Values members;
    while (end < keyed.size() && equal(keyed[end].first, keyed[i].first))
      members.push_back(keyed[end++].second);
    const Value grouper = key.case_sensitive ? keyed[i].first : path.of(renderer, keyed[i].second, absent);
    Tuple group = *make_tuple({grouper, make_list(std::move(members))}).as<Tuple>();
    group.group = true;
    groups.push_back(group);
    i = end;
  }
  return make_list(std::move(groups));
}

Value batch(R renderer, V input, A arguments) {
  ArgumentReader reader("batch", arguments);
  const std::int64_t size = need_integer(reader.required("linecount"), "batch");
  const Value fill = reader.value_or("fill_with", Value());
  reader.done();
  auto groups = std::make_shared<Values>();
  Values group;
  for (const Value& item : items_of(renderer, input)) {
    if (static_cast<std::int64_t>(group.size()) == size)
      groups->push_back(make_list(std::exchange(group, {})));
    group.push_back(item);
  }
  if (!group.empty()) {
    if (!fill.is<None>() && static_cast<std::int64_t>(group.size()) < size) {
      check_text_size(sizeof(Value), size);
      renderer.step(size);
      group.resize(static_cast<std::size_t>(size), fill);
    }
    groups->push_back(make_list(std::move(group)));
  }
  const Value made = make_list(std::move(*groups));
  return make_generator(iterate(made), made);
}

Value slices(R renderer, V input, A arguments) {
  ArgumentReader reader("slice", arguments);
  const std::int64_t count = need_integer(reader.required("slices"), "slice");
  const Value fill = reader.value_or("fill_with", Value());
  reader.done();
  const Values all = items_of(renderer, input);
  const auto size = static_cast<std::int64_t>(all.size());
  if (count == 0) runtime_error("integer division or modulo by zero");
  renderer.step(std::max<std::int64_t>(0, count));
  Values made;
  std::int64_t offset = 0;
  for (std::int64_t n = 0; n < count; ++n) {
    const bool longer = n < size % count;
    const std::int64_t end = offset + size / count + (longer ? 1 : 0);
    Values part(all.begin() + offset, all.begin() + end);
    if (!fill.is<None>() && !longer) part.push_back(fill);
    made.push_back(make_list(std::move(part)));
    offset = end;
  }
  const Value result = make_list(std::move(made));
  return make_generator(iterate(result), result);
}

Value attribute(R renderer, V input, A arguments) {
  ArgumentReader reader("attr", arguments);
  const std::string name = need_text(reader.required("name"), "attr").bytes();
  reader.done();
  if (input.is<Undefined>()) runtime_error("{}", *input.as<Undefined>()->why);
  const ObjectPtr* object = input.as<ObjectPtr>();
  const auto found =
      object != nullptr ? (*object)->attribute(renderer, name) : builtin_attribute(input, name);
  return found ? *found : undefined_value(fmt::format("'{}' has no attribute '{}'", type_name(input), name));
}

Arguments without_first(A arguments, std::size_t count) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<std::ptrdiff_t>(count));
  return rest;
}

using Change = std::function<Value(V)>;

Change mapping(R renderer, A arguments) {
  const auto named = [&](std::string_view name) -> std::optional<Value> {
    for (const auto& [key, value] : arguments.keywords) {
      if (key == name) return value;
    }
    return std::nullopt;
  };
  if (arguments.positional.empty() && named("attribute")) {
    for (const auto& [key, value] : arguments.keywords) {
      if (key != "attribute" && key != "default") runtime_error("Unexpected keyword argument '{}'", key);
    }
    return [&renderer, path = AttributePath(*named("attribute")),
            absent = named("default").value_or(Value())](V item) { return path.of(renderer, item, absent); };
  }
  if (arguments.positional.empty()) runtime_error("map requires a filter argument");
  const std::string name = need_text(arguments.positional[0], "map").bytes();
  return [&renderer, name, rest = without_first(arguments, 1)](V item) {
    return renderer.call_filter(name, item, rest);
  };
}

Value map(R renderer, V input, A arguments) {
  return make_generator(
      [&renderer, input, arguments, change = Change(), source = Object::Next()](Value& item) mutable {
        if (!source) {
          if (!truth(input)) return false;
          change = mapping(renderer, arguments);
          source = iterate(input);
        }
        Value found;
        if (!source(found)) return false;
        renderer.step();
        item = change(found);
        return true;
      },
      input, arguments);
}

using Decide = std::function<bool(V)>;

Decide decision(R renderer, A arguments, bool by_attribute) {
  std::optional<AttributePath> path;
  std::size_t taken = 0;
  if (by_attribute) {
    if (arguments.positional.empty()) runtime_error("Missing parameter for attribute name");
    path = AttributePath(arguments.positional[taken++]);
  }
  const auto part = [&renderer, path](V item) { return path ? path->of(renderer, item) : item; };
  if (arguments.positional.size() == taken) return [part](V item) { return truth(part(item)); };
  const std::string name = need_text(arguments.positional[taken++], "select").bytes();
  return [&renderer, part, name, rest = without_first(arguments, taken)](V item) {
    return renderer.call_test(name, part(item), rest);
  };
}

Value select(R renderer, V input, A arguments, bool wanted, bool by_attribute) {
  return make_generator(
      [&renderer, input, arguments, wanted, by_attribute, decide = Decide(),
       source = Object::Next()](Value& item) mutable {
        if (!source) {
          if (!truth(input)) return false;
          decide = decision(renderer, arguments, by_attribute);
          source = iterate(input);
        }
        while (source(item)) {
          renderer.step();
          if (decide(item) == wanted) return true;
        }
        return false;
      },
      input, arguments);
}

constexpr auto kSequenceFilters = std::to_array<Filter>({
    {"length", length},
    {"count", length},
    {"default", default_value},
    {"d", default_value},
    {"list", list},
    {"first", first},
    {"last", last},
    {"reverse", reverse},
    {"items", items},
    {"dictsort", dict_sort},
    {"sort", sort},
    {"unique", unique},
    {"min", [](R r, V v, A a) { return extreme(r, v, a, false); }},
    {"max", [](R r, V v, A a) { return extreme(r, v, a, true); }},
    {"sum", sum},
    {"groupby", group_by},
    {"batch", batch},
    {"slice", slices},
    {"attr", attribute},
    {"map", map},
    {"select", [](R r, V v, A a) { return select(r, v, a, true, false); }},
    {"reject", [](R r, V v, A a) { return select(r, v, a, false, false); }},
    {"selectattr", [](R r, V v, A a) { return select(r, v, a, true, true); }},
    {"rejectattr", [](R r, V v, A a) { return select(r, v, a, false, true); }},
});

}  // namespace

std::span<const Filter> sequence_filters() { return kSequenceFilters; }

AttributePath::AttributePath(const Value& attribute) {
  if (attribute.is<None>()) return;
  const std::string* text = attribute.text();
  if (text == nullptr) {
    parts_ = {attribute};
    return;
  }
  std::size_t start = 0;
  while (true) {
    const std::size_t dot = text->find('.', start);
    const std::string part = text->substr(start, dot - start);
    const bool digits =
        !part.empty() && part.size() < 18 && part.find_first_not_of("0123456789") == std::string::npos;
    parts_.push_back(digits ? Value(static_cast<std::int64_t>(std::stoll(part))) : Value(part));
    if (dot == std::string::npos) break;
    start = dot + 1;
  }
}

Value AttributePath::of(Renderer& renderer, const Value& value, const Value& absent) const {
  Value current = value;
  for (const Value& part : parts_) {
    current = renderer.item(current, part);
    if (current.is<Undefined>() && !absent.is<None>()) current = absent;
  }
  return current;
}

const Filter* find_filter(std::string_view name) {
  for (const auto filters : {text_filters(), sequence_filters(), number_filters()}) {
    for (const Filter& filter : filters) {
      if (filter.name == name) return &filter;
    }
  }
  return nullptr;
}

bool knows_filter(std::string_view name) { return find_filter(name) != nullptr; }

}  // namespace swiftprune::templates
