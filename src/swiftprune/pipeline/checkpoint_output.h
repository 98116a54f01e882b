// Pruned tensors go straight to their place in a new checkpoint; every other tensor is copied byte for byte. An
// expert's weight that is part of a tensor of many goes to its place in there.
#pragma once

#include <mutex>
#include <set>
#include <string>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/journal.h"

namespace swiftprune {

class CheckpointOutput final : public PruneOutput {
 public:
  // With a journal, finished blocks go to it, so that a killed run can be resumed. finished: blocks that the
  // writer took over from such a run.
  CheckpointOutput(const Checkpoint& source, CheckpointWriter& writer, Journal* journal = nullptr,
                   std::span<const FinishedBlock> finished = {});

  bool takes(const std::string& name) const override;
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes) override;
  void finish(const FinishedBlock& block) override;
  void read(const std::string& name, std::span<float> values) override;
  // After prune(): what was not pruned.
  void copy_rest();

 private:
  void mark(const std::string& name);
  void take_over(const std::string& name);  // from an earlier run
  // The part's place in the tensor that holds it, and the expert's elements of that tensor.
  struct Slice {
    ExpertTensors::Place place;
    std::int64_t first = 0, count = 0;
  };
  static Slice slice_of(const StoredWeights::Part& part);
  void write_fused(const StoredWeights::Part& part, std::int64_t first, std::span<const std::byte> bytes);

  const Checkpoint& source_;
  StoredWeights stored_;
  CheckpointWriter& writer_;
  Journal* journal_;
  std::mutex mutex_;
  std::set<std::string> written_;
};

}  // namespace swiftprune
