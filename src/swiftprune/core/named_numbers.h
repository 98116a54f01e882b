// "name" or "name(1,2.5)": how a part of a method is written with its numbers. Read and printed in one place,
// so that scores and refinements agree on it and a number that was printed reads back as the same number.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace swiftprune {

struct NamedNumbers {
  std::string_view name;  // what stands before the bracket
  std::vector<double> numbers{};
  bool well_formed = true;  // false: "name(", "name()", "name(1,)", "name(1)x", "name(a)"
};
NamedNumbers parse_named_numbers(std::string_view text);
// The shortest digits that read back as the same numbers; without numbers the name alone.
std::string print_named_numbers(std::string_view name, std::span<const double> numbers);

// What a number may be.
struct NumberRange {
  double min = 0.0;
  double max = 0.0;
  bool whole = false;

  bool holds(double value) const;  // never NaN
};

}  // namespace swiftprune
