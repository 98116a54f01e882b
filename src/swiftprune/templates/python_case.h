// Upper and lower case, classes of characters and lines as Python's str has them.
#pragma once

#include <string>
#include <string_view>

namespace swiftprune::templates {

std::string upper_case(std::string_view text);
std::string lower_case(std::string_view text);
std::string capitalized(std::string_view text);  // the first as a title, the others lower
std::string title_case(std::string_view text);   // str.title: every word

bool is_cased(char32_t c);
bool is_upper(char32_t c);
bool is_lower(char32_t c);
bool is_title(char32_t c);
bool is_alphabetic(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);  // also superscripts and the like
bool is_word(char32_t c);   // \w of Python's re

}  // namespace swiftprune::templates
