// What was likely meant by a name that does not exist.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace swiftprune::cli {

// Changes of a letter (put in, taken out, exchanged, two swapped) from one text to the other.
int edit_distance(std::string_view a, std::string_view b);

// The nearest of the names, or "" when none is near: at most a third of the letters differ.
std::string nearest(std::string_view name, const std::vector<std::string>& names);

}  // namespace swiftprune::cli
