// jinja2's tests: `value is name(arguments)`.
#include <array>
#include <cmath>

#include "swiftprune/templates/filters.h"
#include "swiftprune/templates/methods.h"
#include "swiftprune/templates/objects.h"
#include "swiftprune/templates/operators.h"

namespace swiftprune::templates {
namespace {

using R = Renderer&;
using V = const Value&;
using A = const Arguments&;

void no_arguments(A arguments) { ArgumentReader("test", arguments).done(); }

Value only(A arguments) {
  ArgumentReader reader("test", arguments);
  Value value = reader.required({});
  reader.done();
  return value;
}

Value remainder(V value, V divisor) { return binary_operation("%", value, divisor); }

bool divisible_by(R, V value, A arguments) {
  ArgumentReader reader("divisibleby", arguments);
  const Value divisor = reader.required("num");
  reader.done();
  return equal(remainder(value, divisor), Value(0));
}

bool text_has(R renderer, V value, A arguments, std::string_view method) {
  no_arguments(arguments);
  return truth(find_text_method(method)->body(renderer, Text(to_text(value)), {}));
}

bool is_sequence(R, V value, A arguments) {
  no_arguments(arguments);
  if (const Object* object = value.object()) return object->is_sequence();
  return length_of(value).has_value();
}

bool is_callable(R, V value, A arguments) {
  no_arguments(arguments);
  const Object* object = value.object();
  return value.is<Undefined>() || (object != nullptr && object->callable());
}

// a < b and so on, as an operator.
bool ordered(V a, V b, bool swapped, bool or_equal) {
  if (number_of(a) && number_of(b)) {
    const auto order = compare_numbers(a, b);
    if (!order) return false;
    const int sign = swapped ? -*order : *order;
    return or_equal ? sign <= 0 : sign < 0;
  }
  if (!or_equal) return swapped ? less(b, a) : less(a, b);
  return swapped ? !less(a, b) : !less(b, a);
}

bool equals(R, V a, A b) { return equal(a, only(b)); }
bool differs(R, V a, A b) { return !equal(a, only(b)); }
bool is_greater(R, V a, A b) { return ordered(a, only(b), true, false); }
bool is_less(R, V a, A b) { return ordered(a, only(b), false, false); }
bool is_greater_or_equal(R, V a, A b) { return ordered(a, only(b), true, true); }
bool is_less_or_equal(R, V a, A b) { return ordered(a, only(b), false, true); }

template <class T>
bool holds(R, V value, A arguments) {
  no_arguments(arguments);
  return value.is<T>();
}

template <bool kWanted>
bool is_constant(R, V value, A arguments) {
  no_arguments(arguments);
  return value.is<bool>() && *value.as<bool>() == kWanted;
}

constexpr auto kTests = std::to_array<Test>({
    {"defined", [](R, V v, A a) { no_arguments(a); return !v.is<Undefined>(); }},
    {"undefined", holds<Undefined>},
    {"none", holds<None>},
    {"boolean", holds<bool>},
    {"true", is_constant<true>},
    {"false", is_constant<false>},
    {"integer", holds<std::int64_t>},
    {"float", holds<double>},
    {"string", holds<Text>},
    {"mapping", holds<Dict>},
    {"number", [](R, V v, A a) { no_arguments(a); return number_of(v).has_value(); }},
    {"sequence", is_sequence},
    {"iterable", [](R, V v, A a) { no_arguments(a); return iterable(v); }},
    {"callable", is_callable},
    {"odd", [](R, V v, A a) { no_arguments(a); return equal(remainder(v, Value(2)), Value(1)); }},
    {"even", [](R, V v, A a) { no_arguments(a); return equal(remainder(v, Value(2)), Value(0)); }},
    {"divisibleby", divisible_by},
    {"lower", [](R r, V v, A a) { return text_has(r, v, a, "islower"); }},
    {"upper", [](R r, V v, A a) { return text_has(r, v, a, "isupper"); }},
    {"sameas", [](R, V v, A a) { return identical(v, only(a)); }},
    {"escaped", [](R, V v, A a) { no_arguments(a); return v.is<Text>() && v.as<Text>()->markup(); }},
    {"in", [](R r, V v, A a) { return contains(r, only(a), v); }},
    {"filter", [](R, V v, A a) { no_arguments(a); return v.is<Text>() && knows_filter(*v.text()); }},
    {"test", [](R, V v, A a) { no_arguments(a); return v.is<Text>() && knows_test(*v.text()); }},
    {"==", equals},
    {"eq", equals},
    {"equalto", equals},
    {"!=", differs},
    {"ne", differs},
    {">", is_greater},
    {"gt", is_greater},
    {"greaterthan", is_greater},
    {">=", is_greater_or_equal},
    {"ge", is_greater_or_equal},
    {"<", is_less},
    {"lt", is_less},
    {"lessthan", is_less},
    {"<=", is_less_or_equal},
    {"le", is_less_or_equal},
});

}  // namespace

const Test* find_test(std::string_view name) {
  for (const Test& test : kTests) {
    if (test.name == name) return &test;
  }
  return nullptr;
}

bool knows_test(std::string_view name) { return find_test(name) != nullptr; }

}  // namespace swiftprune::templates
