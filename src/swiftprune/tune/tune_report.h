// What `tune` tells: a JSON document and a page with the line of the best plans by size.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/tune/tune.h"

namespace swiftprune {

struct TuneReport {
  std::string model, text;  // as the user named them
  TuneBudget budget;
  std::int64_t calibration_tokens = 0, search_tokens = 0, check_tokens = 0;
  std::uint64_t seed = 0;
  TunedPlan result;
  std::string command;                // the one that is recommended: prune by the plan
  std::vector<std::string> commands;  // what follows it, and what repeats the search
};

// The schema: docs/report.md.
nlohmann::ordered_json to_json(const TuneReport& report);
std::string to_html(const TuneReport& report);
// One sentence: what was found against the start, on text that the search did not see where that was measured.
std::string headline(const TuneReport& report);
// "alpha 0.5, found in 9 trials", or that none was better.
std::string headline(const ParameterSearch& search);

}  // namespace swiftprune
