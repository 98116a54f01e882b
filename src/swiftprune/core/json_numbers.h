// Whole numbers of JSON of unknown origin, for readers that take the library's exceptions.
#pragma once

#include <cstdint>
#include <vector>

#include "swiftprune/core/json.h"

namespace swiftprune {

// Is it a whole number that fits?
template <class Json>
bool is_whole_number(const Json& value) {
  return value.is_number_unsigned()
             ? value.template get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX)
             : value.is_number_integer();
}

// Such a number of values of unknown origin: the library's own get() makes one of any number, which is
// undefined for 1e60. Throws the library's exception for the wrong type.
template <class Json>
std::int64_t whole_number(const Json& value) {
  if (!is_whole_number(value))
    throw Json::type_error::create(302, "expected a whole number, found " + json_excerpt(value), &value);
  return value.template get<std::int64_t>();
}
template <class Json>
std::vector<std::int64_t> whole_numbers(const Json& list) {
  if (!list.is_array()) throw Json::type_error::create(302, "expected a list of whole numbers", &list);
  std::vector<std::int64_t> numbers;
  for (const auto& value : list) numbers.push_back(whole_number(value));
  return numbers;
}

}  // namespace swiftprune
