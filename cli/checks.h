// Checks of options' values, in place of the parser's: their messages say what was found and what is expected.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "swiftprune/api/option_values.h"

namespace swiftprune::cli {

// What jobs' options may hold, too.
CLI::Validator within(const OptionRange& range);
CLI::Validator one_of(OptionWords words);
CLI::Validator zero_or_more();
CLI::Validator more_than_zero();
// From least to most, both included.
CLI::Validator in_range(double least, double most);
// One of these words, in small or large letters; as a transformation, so that the option holds the word.
CLI::Validator one_of(const std::vector<std::string>& words);
// One of these words, or several with commas between them.
CLI::Validator some_of(const std::vector<std::string>& words);
// A share of something as 0.5 or 50%; a transformation, too.
CLI::Validator share();
// A pattern of zeros, or this other word.
CLI::Validator a_pattern(const std::string& other = "");
// The name of a method; and all of them.
CLI::Validator a_method();
std::vector<std::string> method_names();
// What is not empty: a file, a folder, a model.
CLI::Validator a_name();
// What every option of a number is checked with before all else.
CLI::Validator a_number(bool whole);

}  // namespace swiftprune::cli
