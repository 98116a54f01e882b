// What was likely meant by a command or option that does not exist.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

namespace swiftprune::cli {

// Changes of a letter (put in, taken out, exchanged, two swapped) from one text to the other.
int edit_distance(std::string_view a, std::string_view b);

// The nearest of the names, or "" when none is near: at most a third of the letters differ.
std::string nearest(std::string_view name, const std::vector<std::string>& names);

// "did you mean --sparsity?" for the first of the arguments that the program or the command that they name
// does not know; "" where there is no such one or nothing is near.
std::string did_you_mean(const CLI::App& program, const std::vector<std::string>& arguments);

}  // namespace swiftprune::cli
