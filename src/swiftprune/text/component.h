// Lists of named things that JSON objects name by "type": the parts of a tokenizer.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/core/json.h"

namespace swiftprune::text {

// make(field) builds one of them.
template <class T>
struct Component {
  std::string_view type;
  T (*make)(const JsonField&);
};
std::string joined_types(const std::vector<std::string_view>& types);

template <class T, std::size_t N>
T make_component(const Component<T> (&list)[N], const JsonField& field) {
  const JsonField type = field.at("type");
  std::vector<std::string_view> known;
  for (const Component<T>& component : list) {
    if (component.type == type.string()) return component.make(field);
    known.push_back(component.type);
  }
  type.unexpected("one of the supported components: " + joined_types(known));
}

// A string of exactly one code point.
char32_t one_code_point(const JsonField& field);

}  // namespace swiftprune::text
