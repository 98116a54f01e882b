// The folder of a model that lost experts: the same family, form and dtypes, experts renumbered, the router's rows,
// biases and correction biases of those that stay, config.json with the new number. transformers loads it like any
// other model of the family, unless layers keep different numbers (model/layer_sizes.h). Layers for the prediction of further tokens, which some files hold behind the last one
// and which no forward here runs, are left out, since they would need all experts.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/model/expert_tensors.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/drivers/remove_experts.h"
#include "swiftprune/pipeline/expert_folder.h"
#include "swiftprune/pipeline/journal.h"

namespace swiftprune {

// Layers as a text, and back: between ranks.
std::string layers_text(std::span<const ReducedLayer> layers);
std::vector<ReducedLayer> layers_of_text(const std::string& text);

class ExpertCheckpoint final : public ReducedExpertsOutput {
 public:
  // joined: as CheckpointWriter has it. max_shard_bytes: shards are made anew when the source has several.
  ExpertCheckpoint(const Model& model, const ExpertCounts& keep, const std::filesystem::path& folder,
                   Leftover leftover = Leftover::kDiscard, const std::string& joined = {},
                   std::uint64_t max_shard_bytes = kShardBytes);

  // With Leftover::kContinue: what an earlier run left, if there is any that can be read.
  struct Unfinished {
    nlohmann::ordered_json identity;
    std::vector<ReducedLayer> layers;
  };
  std::optional<Unfinished> unfinished() const;
  // What the unfinished run for this folder was, if there is any, before anything of it is touched.
  static std::optional<nlohmann::ordered_json> unfinished_identity(const std::filesystem::path& folder);
  // Before the first layer. identity: what must be the same to go on later; of a run that goes on: `layers` are there.
  // on_disk: of JournalLines.
  void start_journal(const nlohmann::ordered_json& identity, std::span<const ReducedLayer> layers = {},
                     std::function<std::int64_t()> on_disk = {});
  // The same of a joined one.
  void start_peer_journal(int rank, std::span<const ReducedLayer> layers);
  // An error or an interrupt leaves the finished layers for a later run; returns how many are there.
  std::int64_t keep_finished();

  // Beside the caller's work on the next layer. What goes wrong there is thrown by a later call.
  void write_down(std::int64_t layer, std::int64_t index, ConstMatrixView weight) override;
  void write_bias(std::int64_t layer, std::int64_t index, std::span<const float> bias) override;
  void keep(const ReducedLayer& layer) override;
  void finish_layer(const ReducedLayer& layer) override;
  Matrix read_down(std::int64_t layer, std::int64_t index) override;
  std::vector<float> read_bias(std::int64_t layer, std::int64_t index) override;
  // After the last layer: all other tensors.
  void copy_rest();
  CheckpointWriter& writer() { return writer_; }
  // Then config.json, the other files, the record. The folder then stands under its own name.
  void finish(const nlohmann::ordered_json& record);

  std::int64_t num_parameters() const { return folder_.num_parameters(); }  // all tensors of the new folder
  bool leaves_prediction_layers_out() const { return leaves_prediction_layers_out_; }

 private:
  // Of a ReducedLayer.
  struct KeptExperts {
    std::int64_t layer = 0;
    std::vector<std::int64_t> kept;
    std::vector<bool> refitted, biased;
  };
  // Where the output bias of the `index`th expert goes: a tensor and the first element there.
  std::pair<std::string, std::int64_t> bias_place(std::int64_t layer, std::int64_t index) const;
  std::vector<PlannedTensor> plan(std::uint64_t max_shard_bytes);
  // What becomes of a layer's tensors, with `keep` experts.
  void plan_layer(std::int64_t layer, std::int64_t keep);
  // The layer's tensors that all experts share and whose first extent is their number: the router's, fused ones.
  std::vector<std::string> shared_tensors_of(std::int64_t layer) const;
  // Those of a layer as the new folder has them: the router's and the experts'.
  std::vector<std::string> tensors_of(std::int64_t layer) const;
  // Rows of a tensor whose first extent is the number of experts.
  void copy_slices(const std::string& name, std::span<const std::int64_t> kept);
  // All of keep(), shared out to some threads: this is the `lane`th of them.
  void copy_kept(const KeptExperts& layer, std::int64_t lane);
  // The tensors of one expert under the names of the `index`th.
  void copy_separate(const KeptExperts& layer, std::size_t index);
  void copy_part(const std::string& name, std::int64_t expert, std::int64_t index);
  template <class Work>
  void beside(Work work);
  // Until what was begun is written; a layer that is then whole is told to the journal.
  void settle();
  void mark_finished(std::span<const ReducedLayer> layers);
  void write_counts(nlohmann::ordered_json& config) const;

  const Model& model_;
  ExpertFolder folder_;
  std::map<std::int64_t, std::int64_t> keep_;  // by layer
  bool leaves_prediction_layers_out_ = false;
  CheckpointWriter writer_;
  std::optional<JournalLines> journal_;
  std::optional<PeerJournal> peer_journal_;
  bool copied_ = false;
  std::int64_t finished_layers_ = 0;
  std::optional<nlohmann::ordered_json> whole_;  // a layer's line, once what runs has ended
  std::deque<std::future<void>> running_;        // last: it reads all of the above
};

}  // namespace swiftprune
