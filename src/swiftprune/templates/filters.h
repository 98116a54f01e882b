// Filters and tests by name.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "swiftprune/templates/renderer.h"

namespace swiftprune::templates {

using FilterBody = Value (*)(Renderer&, const Value& input, const Arguments& arguments);
struct Filter {
  std::string_view name;
  FilterBody body;  // null: jinja2 has it, and it is refused here
};
std::span<const Filter> text_filters();
std::span<const Filter> sequence_filters();
std::span<const Filter> number_filters();
// attribute="a.b.0" of filters: the parts of the path, each an item or an attribute.
class AttributePath {
 public:
  explicit AttributePath(const Value& attribute);
  // absent: what takes the place of Undefined at each part; None: nothing does.
  Value of(Renderer& renderer, const Value& value, const Value& absent = Value()) const;

 private:
  Values parts_;
};

const Filter* find_filter(std::string_view name);
bool knows_filter(std::string_view name);

using TestBody = bool (*)(Renderer&, const Value& input, const Arguments& arguments);
struct Test {
  std::string_view name;
  TestBody body;
};
const Test* find_test(std::string_view name);
bool knows_test(std::string_view name);

}  // namespace swiftprune::templates
