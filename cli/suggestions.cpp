#include "suggestions.h"

#include <algorithm>

namespace swiftprune::cli {
int edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the table are enough for swaps of two letters.
  std::vector<int> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    before = last;
    last = row;
    row[0] = static_cast<int>(i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const int differs = a[i - 1] == b[j - 1] ? 0 : 1;
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + differs});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

std::string nearest(std::string_view name, const std::vector<std::string>& names) {
  const auto distance = [name](const std::string& other) { return edit_distance(name, other); };
  const auto best = std::ranges::min_element(names, {}, distance);
  if (best == names.end() || 3 * distance(*best) > static_cast<int>(name.size())) return "";
  return *best;
}

}  // namespace swiftprune::cli
