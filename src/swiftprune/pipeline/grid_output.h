// Linears on a grid of few bits are packed as the solver found them, each in the smallest form that holds it, and go to
// a hidden folder; when all are there, and with them every tensor's size, the packed model is written
// (sparse/packed_checkpoint.h). Nothing is rounded on the way.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/journal.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {

// What the hidden folder holds: of each linear that the plan prunes its values in the checkpoint's dtype, or its packed
// bytes under "<name>.packed", U8, with room for the largest form.
std::vector<PlannedTensor> stage_plan(const Checkpoint& source, const Plan& plan);

class GridOutput final : public PruneOutput {
 public:
  // stage: of stage_plan(); never finished. finished: blocks that it took over from a killed run.
  GridOutput(const Checkpoint& source, const Plan& plan, CheckpointWriter& stage, Journal& journal,
             std::span<const FinishedBlock> finished);

  bool keeps_grids() const override { return true; }
  void write_quantized(const std::string& name, const QuantizedWeight& weight) override;
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes) override;
  void finish(const FinishedBlock& block) override { journal_.add(block); }
  void read(const std::string& name, std::span<float> values) override;

  // After prune(): the packed model's tensors, each in the smallest form that holds it, the tables in the bits
  // that `options` asks for, and all others as they were, but experts in one tensor, which become a tensor each. Its other files are left to the caller.
  std::unique_ptr<CheckpointWriter> write_packed(const std::filesystem::path& folder,
                                                 const PackOptions& options, PackReport& report) const;

 private:
  PackedTensor staged(const std::string& name) const;
  std::int64_t staged_bytes(const std::string& name) const;

  const Checkpoint& source_;
  StoredWeights stored_;
  CheckpointWriter& stage_;
  Journal& journal_;
  std::map<std::string, QuantGrid> grids_;  // by tensor
  std::set<std::string> values_;            // tensors that were pruned without a grid
};

}  // namespace swiftprune
