// A run that writes a folder as `prune` does, on any device, also one that dies on the way and is gone on with.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/model/stored_weights.h"
#include "swiftprune/pipeline/checkpoint_output.h"
#include "swiftprune/pipeline/drivers/prune_shop.h"

namespace swiftprune::test {

class Killed {};

// Dies at the first tensor of block `last`.
class Dying final : public PruneOutput {
 public:
  Dying(PruneOutput& output, std::int64_t last) : output_(output), last_(last) {}
  bool keeps_grids() const override { return output_.keeps_grids(); }
  void write_quantized(const std::string& name, const QuantizedWeight& weight) override {
    if (finished_ == last_) throw Killed();
    output_.write_quantized(name, weight);
  }
  void write_part(const std::string& name, std::int64_t first, std::span<const std::byte> bytes) override {
    if (finished_ == last_) throw Killed();
    output_.write_part(name, first, bytes);
  }
  void finish(const FinishedBlock& block) override {
    ++finished_;
    output_.finish(block);
  }
  void read(const std::string& name, std::span<float> values) override { output_.read(name, values); }

 private:
  PruneOutput& output_;
  std::int64_t last_;
  std::int64_t finished_ = 0;
};

struct PruneToFolder {
  std::int64_t last = -1;                  // the block that it dies at; -1: none
  Leftover leftover = Leftover::kDiscard;  // kContinue: goes on where a run died before
};
inline PruneResult prune_to_folder(const PruneShopMaker& shop, const Model& model, const Plan& plan,
                                   const TokenWindows& windows, PruneOptions options,
                                   const std::filesystem::path& folder, const PruneToFolder& how = {}) {
  CheckpointWriter writer(folder, plan_like(model.checkpoint()), how.leftover);
  writer.keep_when_unfinished();
  const auto sync = [&] { writer.sync(); };
  std::optional<Journal> journal;
  if (how.leftover == Leftover::kContinue) {
    options.finished = read_journal(writer.temporary_folder()).value().blocks;
    journal.emplace(writer.temporary_folder(), sync);
  } else {
    journal.emplace(writer.temporary_folder(), nlohmann::ordered_json{{"run", 1}}, sync);
  }
  CheckpointOutput output(model.checkpoint(), writer, &*journal, options.finished);
  Dying dying(output, how.last);
  PruneResult result;
  try {
    result = prune(shop, model, plan, windows, options, dying);
  } catch (const Killed&) {
    journal->flush();
    throw;
  }
  output.copy_rest();
  std::filesystem::remove(writer.temporary_folder() / Journal::kFileName);
  writer.copy_other_files(model.checkpoint());
  writer.finish();
  return result;
}

// Of a linear, an expert's too, by the name that plans know it by.
inline std::vector<float> stored_values(const Checkpoint& checkpoint, const std::string& name) {
  const StoredWeights stored(checkpoint);
  const StoredWeights::Info info = stored.info(name);
  std::vector<float> values(static_cast<std::size_t>(info.numel()));
  convert_to_f32(stored.bytes(name), info.dtype, values);
  return values;
}

}  // namespace swiftprune::test
