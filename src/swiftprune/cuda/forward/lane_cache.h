// Keys and values of every lane in pages (model/lane_pages.h): a page holds LanePages::kPositions positions of all blocks,
// and a table on the device says where each page of a lane lies, so that a recorded step serves any pages. Memory is
// taken a few pages at a time, when lanes come to need more.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "swiftprune/cuda/forward/attention_kernels.h"
#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/model/lane_pages.h"
#include "swiftprune/model/model_config.h"

namespace swiftprune::cuda {

class LaneCache {
 public:
  // capacity: positions of a lane at most.
  LaneCache(DeviceMemory& memory, const ModelConfig& model, DType dtype, std::int64_t lanes,
            std::int64_t capacity);

  std::int64_t page_bytes() const { return page_bytes_; }
  // Pages that all lanes together may come to need.
  std::int64_t most_pages() const { return lanes_ * pages_per_lane_; }
  // So many pages may be taken at most, when they are needed.
  void set_limit(std::int64_t pages) { limit_ = pages; }
  void stop_growing() { limit_ = pages_.num_pages(); }

  // Gives the lane its pages; false, and nothing is changed, where there are not so many. Throws Error{kDevice}, and nothing
  // is changed, where memory within the limit cannot be had.
  bool start(const LaneStart& start, cudaStream_t stream);
  void trim(std::int64_t lane, std::int64_t positions);
  // Positions that the lane has pages for.
  std::int64_t room(std::int64_t lane) const { return std::ssize(pages_.of(lane)) * LanePages::kPositions; }
  std::int64_t used_bytes() const { return pages_.num_used() * page_bytes_; }
  std::int64_t limit_bytes() const { return limit_ * page_bytes_; }

  // Before a pass: the lanes' pages to the device, where they changed. Nothing on the stream may be using the table.
  void upload(cudaStream_t stream);
  // The cache of a block. lanes, positions and scratch are the caller's.
  CacheArgs args(std::int64_t layer) const;

 private:
  void take_pages(std::int64_t count);

  DeviceMemory& memory_;
  std::int64_t lanes_, capacity_, pages_per_lane_, page_bytes_ = 0, limit_ = 0;
  LanePages pages_;
  std::vector<DeviceBuffer> slabs_;
  std::vector<std::byte*> where_;  // [page]
  struct Offsets {
    std::int64_t keys = 0, values = 0;  // bytes of a page
  };
  std::vector<Offsets> offsets_;  // [layer]
  PinnedBuffer host_table_;
  DeviceBuffer table_;    // [lanes, pages_per_lane] addresses
  bool changed_ = false;  // the lanes' pages, since the table was written
};

}  // namespace swiftprune::cuda
