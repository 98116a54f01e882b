#include "swiftprune/model/lane_pages.h"

#include <algorithm>
#include <utility>

#include "swiftprune/core/error.h"

namespace swiftprune {

void LanePages::add_pages(std::int64_t count) {
  const std::int64_t first = num_pages();
  holders_.resize(static_cast<std::size_t>(first + count), 0);
  for (std::int64_t page = num_pages(); page-- > first;) free_.push_back(static_cast<std::int32_t>(page));
}

std::int64_t LanePages::taken_over(const LaneStart& start) const {
  const auto source = of(start.source);
  const std::int64_t full = start.shared / kPositions;
  expect(start.shared <= start.positions && pages_for(start.shared) <= std::ssize(source),
         "LanePages: positions that the source has");
  if (start.lane != start.source || start.shared % kPositions == 0) return full;
  return holders_[static_cast<std::size_t>(source[static_cast<std::size_t>(full)])] == 1 ? full + 1 : full;
}

std::int64_t LanePages::lacking(const LaneStart& start) const {
  const std::int64_t taken = taken_over(start);
  std::int64_t available = std::ssize(free_);
  const auto own = of(start.lane);
  for (std::int64_t i = start.lane == start.source ? taken : 0; i < std::ssize(own); ++i) {
    if (holders_[static_cast<std::size_t>(own[static_cast<std::size_t>(i)])] == 1) ++available;
  }
  return std::max<std::int64_t>(0, pages_for(start.positions) - taken - available);
}

std::optional<LanePages::Copy> LanePages::start(const LaneStart& start) {
  expect(lacking(start) == 0, "LanePages: pages that can be had");
  const auto taken = static_cast<std::size_t>(taken_over(start));
  const auto source = of(start.source);
  std::vector<std::int32_t> pages(source.begin(), source.begin() + static_cast<std::ptrdiff_t>(taken));
  std::optional<Copy> copy;
  if (static_cast<std::int64_t>(taken) < pages_for(start.shared)) copy = Copy{source[taken], 0};
  for (const std::int32_t page : pages) ++holders_[static_cast<std::size_t>(page)];
  std::vector<std::int32_t>& lane = lanes_[static_cast<std::size_t>(start.lane)];
  for (const std::int32_t page : lane) release(page);
  while (std::ssize(pages) < pages_for(start.positions)) {
    pages.push_back(free_.back());
    free_.pop_back();
    holders_[static_cast<std::size_t>(pages.back())] = 1;
  }
  if (copy) copy->to = pages[taken];
  lane = std::move(pages);
  return copy;
}

void LanePages::trim(std::int64_t lane, std::int64_t positions) {
  std::vector<std::int32_t>& pages = lanes_[static_cast<std::size_t>(lane)];
  while (std::ssize(pages) > pages_for(positions)) {
    release(pages.back());
    pages.pop_back();
  }
}

void LanePages::release(std::int32_t page) {
  if (--holders_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
}

std::int64_t cache_pages(std::uint64_t bytes, std::int64_t page_bytes, std::int64_t most,
                         std::string_view option) {
  if (bytes == 0 || page_bytes == 0) return most;
  const auto pages = static_cast<std::int64_t>(bytes / static_cast<std::uint64_t>(page_bytes));
  if (pages == 0) {
    bad_usage(
        "{}: found {:.1f} MB for keys and values, expected at least {:.1f} MB, which {} positions of this "
        "model take",
        option, static_cast<double>(bytes) * 1e-6, static_cast<double>(page_bytes) * 1e-6,
        LanePages::kPositions);
  }
  return std::min(pages, most);
}

}  // namespace swiftprune
