// A model that stays in device memory to generate: all blocks, the head, and keys and values of each lane. What ResidentModel is on the CPU.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <vector>

#include "swiftprune/cuda/forward/head.h"
#include "swiftprune/cuda/forward/lane_cache.h"
#include "swiftprune/cuda/forward/streaming.h"
#include "swiftprune/cuda/sparse/tuning.h"
#include "swiftprune/cuda/stages.h"
#include "swiftprune/model/sequence_engine.h"

namespace swiftprune::cuda {

class DeviceModel {
 public:
  // lanes: sequences at a time; capacity: positions of each at most. Keeps a reference to the model.
  DeviceModel(const Model& model, ComputeType compute, std::int64_t lanes, std::int64_t capacity,
              const GpuOptions& device);

  std::int64_t num_lanes() const { return std::ssize(positions_); }
  std::int64_t capacity() const { return capacity_; }
  std::int64_t position(std::int64_t lane) const { return positions_[static_cast<std::size_t>(lane)]; }
  // The caches take so many bytes at most (0: what --gpu-memory leaves), and lanes what they need of them; before the
  // first lane starts. Throws Error{kUsage} or Error{kDevice} where that is nothing.
  void share_memory(std::uint64_t cache_bytes);
  // As SequenceEngine's. Memory that turns out not to be there is an error, unless lanes share it.
  std::optional<std::int64_t> start(const LaneStart& start);
  void trim(std::int64_t lane) { cache_.trim(slot(lane), position(lane)); }
  void drop(std::int64_t lane) {
    positions_[static_cast<std::size_t>(lane)] = 0;
    trim(lane);
  }
  CacheMemory cache_memory() const { return {cache_.used_bytes(), cache_.limit_bytes()}; }
  void swap(std::int64_t a, std::int64_t b);  // the two change places

  // Appends the same number of tokens to each of the lanes [first, first + count): ids [count·length], lane
  // by lane. The logits of their last tokens [count, vocab], valid until the next call. The lanes stand at
  // one position, or one token each is appended.
  ConstMatrixView append(std::int64_t first, std::int64_t count, std::span<const std::int32_t> ids);
  // As SequenceGenerator's, for all lanes.
  std::int64_t bytes_per_step(std::int64_t position) const;

 private:
  // A recorded step, replayed: launching its hundreds of kernels one by one takes longer than they do when
  // the model is small.
  struct Graph {
    Graph() = default;
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;
    ~Graph();
    cudaGraphExec_t graph = nullptr;
    int runs = 0;
  };
  std::int64_t slot(std::int64_t lane) const { return slots_[static_cast<std::size_t>(lane)]; }
  void tune(const GpuOptions& device);
  void load_tokens(std::int64_t first, std::int64_t count, std::span<const std::int32_t> ids);
  void run_blocks(std::int64_t rows, const CachedRows& cached);
  void pass(std::int64_t first, std::int64_t count, std::span<const std::int32_t> ids);
  DeviceView step(std::int64_t first, std::span<const std::int32_t> ids);
  ConstMatrixView download(DeviceView logits);

  const Model& model_;
  int device_;
  std::int64_t capacity_;
  std::vector<std::int64_t> positions_;  // [lane]
  std::vector<std::int32_t> slots_;      // [lane]: where its keys and values lie
  DeviceMemory memory_;
  Stream stream_;
  DType dtype_;
  Products products_;
  DeviceHead head_;
  BlockForward forward_;
  std::optional<DeviceTuner> tuner_;  // holds the library that blocks' second forms use
  std::vector<BlockWeights> blocks_;
  LaneCache cache_;
  bool shares_memory_ = false;
  std::vector<DeviceCache> caches_;  // [layer]
  DeviceMatrix hidden_, last_;
  DeviceBuffer places_;   // [2, lanes]: slots, then positions of the sequences of a pass
  DeviceBuffer scratch_;  // of cached_attention
  PinnedBuffer host_hidden_, host_places_, host_logits_;
  std::map<std::int64_t, Graph> steps_;  // by the number of sequences
};

}  // namespace swiftprune::cuda
