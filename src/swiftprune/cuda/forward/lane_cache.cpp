#include "swiftprune/cuda/forward/lane_cache.h"

#include <algorithm>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/cuda/forward/attention_kernels.h"

namespace swiftprune::cuda {
namespace {

static_assert(kCachePage == LanePages::kPositions);

// Taken at a time, in whole pages: few calls that the device waits for.
constexpr std::int64_t kSlabBytes = std::int64_t{64} << 20;

}  // namespace

LaneCache::LaneCache(DeviceMemory& memory, const ModelConfig& model, DType dtype, std::int64_t lanes,
                     std::int64_t capacity)
    : memory_(memory),
      lanes_(lanes),
      capacity_(capacity),
      pages_per_lane_(LanePages::pages_for(capacity)),
      pages_(lanes) {
  constexpr std::int64_t kPageAlignment = 256;
  for (const BlockConfig& block : model.blocks) {
    const std::int64_t bytes = kCachePage * model.kv_size_in(block) * size_of(dtype);
    offsets_.push_back({page_bytes_, page_bytes_ + bytes});
    page_bytes_ += 2 * bytes;
  }
  // Of a model that has no keys at all, too: a lane's positions are counted in pages.
  page_bytes_ = std::max(round_up(page_bytes_, kPageAlignment), kPageAlignment);
  const auto bytes = static_cast<std::uint64_t>(most_pages()) * sizeof(std::byte*);
  host_table_ = PinnedBuffer(bytes);
  table_ = DeviceBuffer(memory, bytes, "the cache's table");
}

void LaneCache::take_pages(std::int64_t count) {
  DeviceBuffer& slab =
      slabs_.emplace_back(memory_, static_cast<std::uint64_t>(count * page_bytes_), "cached keys and values");
  for (std::int64_t page = 0; page < count; ++page) where_.push_back(slab.data() + page * page_bytes_);
  pages_.add_pages(count);
}

bool LaneCache::start(const LaneStart& start, cudaStream_t stream) {
  expect(start.positions <= capacity_, "LaneCache: positions that a lane may have");
  const std::int64_t lacking = pages_.lacking(start);
  if (lacking > limit_ - pages_.num_pages()) return false;
  if (lacking > 0) {
    const std::int64_t most = limit_ - pages_.num_pages();
    take_pages(std::min(most, std::max(lacking, kSlabBytes / page_bytes_)));
  }
  const auto copy = pages_.start(start);
  changed_ = true;
  if (!copy) return true;
  check(cudaMemcpyAsync(where_[static_cast<std::size_t>(copy->to)],
                        where_[static_cast<std::size_t>(copy->from)], static_cast<std::size_t>(page_bytes_),
                        cudaMemcpyDeviceToDevice, stream));
  return true;
}

void LaneCache::trim(std::int64_t lane, std::int64_t positions) {
  pages_.trim(lane, positions);
  changed_ = true;
}

void LaneCache::upload(cudaStream_t stream) {
  if (!changed_) return;
  auto* const table = reinterpret_cast<std::byte**>(host_table_.data());
  for (std::int64_t lane = 0; lane < lanes_; ++lane) {
    std::byte** next = table + lane * pages_per_lane_;
    for (const std::int32_t page : pages_.of(lane)) *next++ = where_[static_cast<std::size_t>(page)];
    std::fill(next, table + (lane + 1) * pages_per_lane_, nullptr);
  }
  check(cudaMemcpyAsync(table_.data(), table, table_.bytes(), cudaMemcpyHostToDevice, stream));
  changed_ = false;
}

CacheArgs LaneCache::args(std::int64_t layer) const {
  const Offsets& offsets = offsets_[static_cast<std::size_t>(layer)];
  return {.pages = table_.as<std::byte*>(),
          .pages_per_lane = pages_per_lane_,
          .keys = offsets.keys,
          .values = offsets.values,
          .capacity = capacity_};
}

}  // namespace swiftprune::cuda
