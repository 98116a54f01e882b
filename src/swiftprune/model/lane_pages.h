// Which pages of a cache of keys and values belong to which sequence. A lane's positions fill whole pages of fixed size,
// in order; lanes that begin alike share the pages that are full, and a page is free again when no lane holds it. Pure
// bookkeeping: what a page is, and where it lies, is the engine's.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace swiftprune {

// What a lane begins with.
struct LaneStart {
  std::int64_t lane = 0;
  std::int64_t source = 0;     // whose first `shared` positions it has: another lane's, or its own
  std::int64_t shared = 0;     // of those that the source has
  std::int64_t positions = 0;  // that it may come to have in all; at least `shared`
};

class LanePages {
 public:
  // Small enough that a sequence leaves little of its last page unused, large enough that what is done for each page costs
  // nothing beside its positions.
  static constexpr std::int64_t kPositions = 64;
  static std::int64_t pages_for(std::int64_t positions) { return (positions + kPositions - 1) / kPositions; }

  explicit LanePages(std::int64_t lanes) : lanes_(static_cast<std::size_t>(lanes)) {}

  void add_pages(std::int64_t count);
  // Pages that a start lacks; 0: it can be had.
  std::int64_t lacking(const LaneStart& start) const;
  // A page whose positions another must get before either is written to.
  struct Copy {
    std::int32_t from = 0, to = 0;
  };
  // Gives the lane its pages; what it held besides goes back. Nothing may be lacking.
  std::optional<Copy> start(const LaneStart& start);
  // The pages behind the first so many positions go back.
  void trim(std::int64_t lane, std::int64_t positions);

  std::span<const std::int32_t> of(std::int64_t lane) const { return lanes_[static_cast<std::size_t>(lane)]; }
  std::int64_t num_pages() const { return static_cast<std::int64_t>(holders_.size()); }
  std::int64_t num_used() const { return num_pages() - static_cast<std::int64_t>(free_.size()); }

 private:
  // Pages of the source that the lane begins with: those that are full, and the last one, where nobody else has it.
  std::int64_t taken_over(const LaneStart& start) const;
  void release(std::int32_t page);

  std::vector<std::vector<std::int32_t>> lanes_;
  std::vector<std::int32_t> holders_;  // [page]: lanes that hold it
  std::vector<std::int32_t> free_;
};

// Pages of so many bytes that `bytes` hold, at most `most`; 0 bytes: all of them. Throws Error{kUsage} for less than one,
// naming the option that asked for it.
std::int64_t cache_pages(std::uint64_t bytes, std::int64_t page_bytes, std::int64_t most,
                         std::string_view option);

}  // namespace swiftprune
