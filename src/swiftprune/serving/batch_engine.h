// The engine on the CPU.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "swiftprune/model/lane_pages.h"
#include "swiftprune/model/resident_model.h"
#include "swiftprune/model/sequence_engine.h"

namespace swiftprune {

class BatchEngine : public SequenceEngine {
 public:
  // lanes: sequences at a time; capacity: positions of each at most. Keeps references to the model and the
  // backend. Keys and values take memory as positions fill up, cache_bytes for all lanes at most (0: as much as all may
  // come to need). A lane's rows lie one after another; lanes that begin alike have copies. Throws Error{kUsage} where
  // cache_bytes is less than a page.
  BatchEngine(const Model& model, const Backend& backend, ComputeType compute, std::int64_t lanes,
              std::int64_t capacity, Autotuner* tuner, std::uint64_t cache_bytes = 0);

  std::int64_t num_lanes() const override { return num_lanes_; }
  std::int64_t capacity() const override { return capacity_; }
  std::int64_t position(std::int64_t lane) const { return positions_[static_cast<std::size_t>(lane)]; }
  std::optional<std::int64_t> start(const LaneStart& start) override;
  void trim(std::int64_t lane) override;
  void drop(std::int64_t lane) override;
  CacheMemory cache_memory() const override;
  void swap(std::int64_t a, std::int64_t b) override;
  ConstMatrixView prefill(std::int64_t lane, std::span<const std::int32_t> ids) override;
  ConstMatrixView prefill_all(std::int64_t lane, std::span<const std::int32_t> ids) override;
  ConstMatrixView decode(std::span<const std::int32_t> ids) override;
  bool joins_prompts() const override { return true; }
  ConstMatrixView decode_beside(std::span<const std::int32_t> ids, std::int64_t lane,
                                std::span<const std::int32_t> prompt) override;

 private:
  NewTokens next(std::int64_t lane, std::span<const std::int32_t> ids) const;  // behind what the lane has
  // Hidden states [tokens, row_size]; the lanes have them then.
  Matrix run(std::span<const NewTokens> tokens);
  ConstMatrixView head(ConstMatrixView hidden);
  std::int64_t room(std::int64_t lane) const;  // positions that the lane has pages for
  void release_from(std::int64_t lane, std::int64_t position);

  const Model& model_;
  const Backend& backend_;
  std::int64_t num_lanes_, capacity_, page_bytes_;
  LanePages pages_;  // counted here; each lane has addresses of its own
  ResidentModel resident_;
  std::vector<std::int64_t> positions_;   // [lane]
  std::vector<std::int64_t> page_lanes_;  // [lane]: its number in pages_, which swaps do not change
  Matrix logits_;
};

}  // namespace swiftprune
