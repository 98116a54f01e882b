// Whole numbers of JSON of unknown origin, for readers that take the library's exceptions.
#pragma once

#include <cstdint>
#include <vector>

#include "swiftprune/core/json.h"

namespace swiftprune {

// A whole number that fits, of values of unknown origin: the library's own get() makes one of any number, which is
// undefined for 1e60. Throws the library's exception for the wrong type.
template <class Json>
std::int64_t whole_number(const Json& value) {
  const bool fits = value.is_number_unsigned()
                        ? value.template get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX)
                        : value.is_number_integer();
  if (!fits)
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
