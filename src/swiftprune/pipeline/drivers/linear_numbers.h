// Linears of a block by number, as a plan lists them (block_weights()): those that every token passes, then the parts of
// one expert after the other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "swiftprune/core/error.h"
#include "swiftprune/model/expert_tensors.h"

namespace swiftprune {

class LinearNumbers {
 public:
  explicit LinearNumbers(const BlockConfig& block)
      : before_(linears_of(block).size()),
        parts_(block.experts ? parts_of(*block.experts).size() : 0),
        experts_(block.experts ? static_cast<std::size_t>(block.experts->count) : 0) {}

  std::size_t size() const { return before_ + parts_ * experts_; }
  std::size_t before_experts() const { return before_; }
  std::size_t parts() const { return parts_; }  // of an expert; 0: there are none
  bool is_of_expert(std::size_t number) const { return number >= before_; }
  std::int64_t expert(std::size_t number) const {
    return static_cast<std::int64_t>(of_expert(number) / parts_);
  }
  std::size_t part(std::size_t number) const { return of_expert(number) % parts_; }
  // Of the expert's first part.
  std::size_t first_of(std::int64_t expert) const {
    return before_ + static_cast<std::size_t>(expert) * parts_;
  }

 private:
  std::size_t of_expert(std::size_t number) const {
    expect(is_of_expert(number) && number < size(), "LinearNumbers: a linear of an expert");
    return number - before_;
  }
  std::size_t before_, parts_, experts_;
};

}  // namespace swiftprune
