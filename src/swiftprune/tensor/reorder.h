// Rows and columns of a matrix in another order: position p becomes what position order[p] was. In place.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace swiftprune {

// order^-1: the order that undoes it.
inline std::vector<std::int64_t> inverse(std::span<const std::int64_t> order) {
  std::vector<std::int64_t> result(order.size());
  for (std::size_t p = 0; p < order.size(); ++p)
    result[static_cast<std::size_t>(order[p])] = static_cast<std::int64_t>(p);
  return result;
}

// values: order.size() rows of `width` elements.
template <class T>
void reorder_rows(std::span<T> values, std::int64_t width, std::span<const std::int64_t> order) {
  const auto row = [&](std::size_t r) { return values.begin() + static_cast<std::int64_t>(r) * width; };
  std::vector<char> done(order.size());
  std::vector<T> first(static_cast<std::size_t>(width));
  for (std::size_t start = 0; start < order.size(); ++start) {
    if (done[start]) continue;
    std::copy_n(row(start), width, first.begin());
    std::size_t p = start;
    for (auto from = static_cast<std::size_t>(order[p]); from != start;
         from = static_cast<std::size_t>(order[p])) {
      std::copy_n(row(from), width, row(p));
      done[p] = 1;
      p = from;
    }
    std::copy_n(first.begin(), width, row(p));
    done[p] = 1;
  }
}

// values: rows of order.size() elements.
template <class T>
void reorder_columns(std::span<T> values, std::span<const std::int64_t> order) {
  std::vector<T> row(order.size());
  for (auto begin = values.begin(); begin != values.end(); begin += std::ssize(order)) {
    std::copy_n(begin, order.size(), row.begin());
    for (std::size_t p = 0; p < order.size(); ++p)
      begin[static_cast<std::ptrdiff_t>(p)] = row[static_cast<std::size_t>(order[p])];
  }
}

}  // namespace swiftprune
