// The engine on the CPU.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "swiftprune/model/resident_model.h"
#include "swiftprune/model/sequence_engine.h"

namespace swiftprune {

class BatchEngine : public SequenceEngine {
 public:
  // lanes: sequences at a time; capacity: positions of each at most. Keeps references to the model and the
  // backend. Keys and values take memory as positions fill up.
  BatchEngine(const Model& model, const Backend& backend, ComputeType compute, std::int64_t lanes,
              std::int64_t capacity, Autotuner* tuner);

  std::int64_t num_lanes() const override { return num_lanes_; }
  std::int64_t capacity() const override { return capacity_; }
  std::int64_t position(std::int64_t lane) const { return positions_[static_cast<std::size_t>(lane)]; }
  void restart(std::int64_t lane) override { positions_[static_cast<std::size_t>(lane)] = 0; }
  std::int64_t keep(std::int64_t lane, std::int64_t positions) override;
  void swap(std::int64_t a, std::int64_t b) override;
  ConstMatrixView prefill(std::int64_t lane, std::span<const std::int32_t> ids) override;
  ConstMatrixView prefill_all(std::int64_t lane, std::span<const std::int32_t> ids) override;
  ConstMatrixView decode(std::span<const std::int32_t> ids) override;

 private:
  Matrix run_prompt(std::int64_t lane, std::span<const std::int32_t> ids);  // hidden states [T, hidden]
  ConstMatrixView head(const Matrix& hidden);

  const Model& model_;
  const Backend& backend_;
  std::int64_t num_lanes_, capacity_;
  ResidentModel resident_;
  std::vector<std::int64_t> positions_;  // [lane]
  Matrix logits_;
};

}  // namespace swiftprune
