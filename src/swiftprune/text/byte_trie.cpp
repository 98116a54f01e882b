#include "swiftprune/text/byte_trie.h"

#include <algorithm>

namespace swiftprune::text {

ByteTrie::ByteTrie(std::vector<std::pair<std::string_view, std::int32_t>> entries) : nodes_(1) {
  std::stable_sort(entries.begin(), entries.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  // Breadth first, so that the children of a node are neighbours.
  struct Range {
    std::size_t node, begin, end, depth;
  };
  std::vector<Range> level = {{0, 0, entries.size(), 0}};
  while (!level.empty()) {
    std::vector<Range> next;
    for (const Range& range : level) {
      std::size_t at = range.begin;
      for (; at < range.end && entries[at].first.size() == range.depth; ++at) {
        if (range.depth > 0) nodes_[range.node].value = entries[at].second;
      }
      const std::size_t first_child = nodes_.size();
      while (at < range.end) {
        const char byte = entries[at].first[range.depth];
        std::size_t end = at;
        while (end < range.end && entries[end].first[range.depth] == byte) ++end;
        const auto b = static_cast<unsigned char>(byte);
        nodes_[range.node].present[b >> 6] |= std::uint64_t{1} << (b & 63);
        next.push_back({nodes_.size(), at, end, range.depth + 1});
        nodes_.emplace_back();
        at = end;
      }
      Node& node = nodes_[range.node];
      node.first_child = static_cast<std::uint32_t>(first_child);
      std::uint16_t before = 0;
      for (std::size_t word = 0; word < 4; ++word) {
        node.before[word] = before;
        before = static_cast<std::uint16_t>(before + std::popcount(node.present[word]));
      }
    }
    level = std::move(next);
  }
}

}  // namespace swiftprune::text
