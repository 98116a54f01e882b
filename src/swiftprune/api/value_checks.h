// What a command's parser sees to, for jobs that a program fills in: the same bounds, the same words. NaN is in no bounds.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"

namespace swiftprune {

inline void check_one_of(std::string_view option, const std::string& found,
                         std::initializer_list<std::string_view> known) {
  for (const std::string_view name : known) {
    if (found == name) return;
  }
  bad_usage("{}: found '{}', expected one of {}", option, found, fmt::join(known, ", "));
}

inline void check_at_least(std::string_view option, std::int64_t found, std::int64_t least) {
  if (found < least) bad_usage("{}: found {}, expected at least {}", option, found, least);
}

inline void check_between(std::string_view option, double found, double least, double most) {
  if (!(found >= least && found <= most))
    bad_usage("{}: found {}, expected {} to {}", option, found, least, most);
}

inline void check_above_zero(std::string_view option, double found) {
  if (!(found > 0.0)) bad_usage("{}: found {}, expected more than 0", option, found);
}

}  // namespace swiftprune
