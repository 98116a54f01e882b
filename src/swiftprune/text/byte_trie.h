// Byte strings to values, walked byte by byte: finds every stored string that a text starts with.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace swiftprune::text {

class ByteTrie {
 public:
  ByteTrie() : nodes_(1) {}
  // The value of a string that comes twice is the later one. Empty strings are left out.
  explicit ByteTrie(std::vector<std::pair<std::string_view, std::int32_t>> entries);

  bool empty() const { return nodes_.size() == 1; }

  // Calls found(length, value) for each stored string that text starts with, shortest first.
  template <class Found>
  void for_each_prefix(std::string_view text, const Found& found) const {
    const Node* node = nodes_.data();
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      if (!node->has(byte)) return;
      node = &nodes_[node->child(byte)];
      if (node->value >= 0) found(i + 1, node->value);
    }
  }

 private:
  // Children stand together, in the order of their bytes.
  struct Node {
    std::array<std::uint64_t, 4> present{};
    std::array<std::uint16_t, 4> before{};  // children in the words before
    std::uint32_t first_child = 0;
    std::int32_t value = -1;

    bool has(unsigned char byte) const { return (present[byte >> 6] >> (byte & 63) & 1) != 0; }
    std::size_t child(unsigned char byte) const {
      const std::uint64_t below = present[byte >> 6] & ((std::uint64_t{1} << (byte & 63)) - 1);
      return first_child + before[byte >> 6] + static_cast<std::size_t>(std::popcount(below));
    }
  };
  std::vector<Node> nodes_;
};

}  // namespace swiftprune::text
