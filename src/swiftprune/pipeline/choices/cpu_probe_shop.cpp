// probe_shop.h on the processor: everything is done when a call returns.
#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/calibration/stats_part.h"
#include "swiftprune/core/error.h"
#include "swiftprune/model/observed_linear.h"
#include "swiftprune/pipeline/choices/probe_shop.h"
#include "swiftprune/pipeline/choices/sensitivities.h"
#include "swiftprune/pipeline/relative_change.h"
#include "swiftprune/pipeline/streams/cpu_stream_ops.h"
#include "swiftprune/pipeline/streams/whole_stream.h"
#include "swiftprune/refinement/admm.h"

namespace swiftprune {
namespace {

class CpuProbeShop final : public ProbeShop {
 public:
  CpuProbeShop(const ProbeRun& run, const Backend& backend)
      : run_(run),
        backend_(backend),
        ops_(run.model, backend, run.windows),
        windows_(ops_),
        ropes_(run.model.rope_tables(run.tokens)),
        refiner_(make_admm(kProbeRefiner)),
        changed_(Matrix::zeros(run.model.config().num_layers() * run.tokens, run.model.config().row_size())) {
  }

  void load(std::int64_t layer) override {
    if (block_) release();
    layer_ = layer;
    block_.emplace(run_.model.load_block(layer));
    block_->pack(backend_, run_.compute);
    pruned_ = std::vector<Matrix>(block_->linears().size());
    changes_.clear();
  }

  RowEffects::Readers readers() override { return readers_of(*block_); }

  void pass_by() override {
    pass_changed();
    windows_.pass(*block_);
  }

  void enter() override {
    input_ = copy_of(windows_.hidden().view().row_block(0, run_.tokens));
    pass_changed();
    dense_ = input_.clone();
    forward(dense_.view());
  }

  void pass(const std::array<bool, kNumLinearInputs>& inputs) override {
    WholeStream<CpuStreamOps>::StatsOfInputs stats{};
    for (const BlockLinear& linear : block_->linears()) {
      const auto input = static_cast<std::size_t>(linear.tensors.input);
      if (!inputs[input] || stats[input] != nullptr) continue;
      const std::int64_t width =
          observed_width(block_->config(), linear.tensors.input, run_.model.config().hidden_size);
      stats[input] = &stats_[input].emplace(width, StatNeeds{.energy = true, .gram = true}, 0, run_.compute);
    }
    windows_.pass(*block_, stats);
  }

  void start_input(LinearInput input, const std::string& tensor) override {
    for (std::size_t earlier = 0; earlier < static_cast<std::size_t>(input); ++earlier) {
      prepared_[earlier].reset();
      stats_[earlier].reset();
    }
    auto& stats = stats_[static_cast<std::size_t>(input)];
    stats->finish(tensor);
    prepared_[static_cast<std::size_t>(input)] = refiner_->prepare(stats->view(), backend_, tensor);
  }

  void prune(std::size_t linear, const PruneTarget& target) override {
    const BlockLinear& of = block_->linears()[linear];
    RefineTask task;
    task.weight = of.weight.view();
    task.target = target;
    const auto input = static_cast<std::size_t>(of.tensors.input);
    const LayerStats all = stats_[input]->view();
    if (of.tensors.inputs == std::ssize(all.energy)) {
      pruned_[linear] = refiner_->refine(task, *prepared_[input], backend_).weight;
      return;
    }
    const StatsPart part(all, of.tensors.first_input, of.tensors.inputs);
    const auto own = refiner_->prepare(part.stats(), backend_, of.tensors.name);
    pruned_[linear] = refiner_->refine(task, *own, backend_).weight;
  }

  void try_alone(std::size_t linear) override {
    BlockLinear& of = block_->linears()[linear];
    std::swap(of.weight, pruned_[linear]);
    auto dense_packed = std::exchange(of.packed, backend_.pack(of.weight.view(), run_.compute));
    Matrix out = input_.clone();
    forward(out.view());
    changes_.push_back(change_of(dense_.view(), out.view()));
    std::swap(of.weight, pruned_[linear]);
    of.packed = std::move(dense_packed);
  }

  void try_all() override {
    for (std::size_t i = 0; i < pruned_.size(); ++i) {
      if (!pruned_[i].empty()) block_->linears()[i].weight = std::move(pruned_[i]);
    }
    block_->pack(backend_, run_.compute);
    const MatrixView out = changed_.view().row_block(layer_ * run_.tokens, run_.tokens);
    std::copy_n(input_.data(), input_.numel(), out.data);
    forward(out);
    changes_.push_back(change_of(dense_.view(), out));
  }

  std::vector<double> changes() override { return changes_; }

  std::vector<double> final_changes() override {
    release();
    Matrix dense = copy_of(windows_.hidden().view().row_block(0, run_.tokens));
    const FinalNorm norm(run_.model.checkpoint(), run_.model.config());
    if (norm.present()) {
      norm.apply(backend_, dense.view(), dense.view());
      norm.apply(backend_, changed_.view(), changed_.view());
    }
    std::vector<double> result;
    for (std::int64_t block = 0; block < run_.model.config().num_layers(); ++block) {
      result.push_back(change_of(dense.view(), changed_.view().row_block(block * run_.tokens, run_.tokens)));
    }
    return result;
  }

 private:
  // With one earlier block pruned.
  void pass_changed() {
    for (std::int64_t block = 0; block < layer_; ++block) {
      if (run_.probed[static_cast<std::size_t>(block)])
        forward(changed_.view().row_block(block * run_.tokens, run_.tokens));
    }
  }

  double change_of(ConstMatrixView from, ConstMatrixView to) const {
    const ModelConfig& model = run_.model.config();
    return relative_change(hidden_of(model, from), hidden_of(model, to));
  }

  // The probe's tokens through the block, as it is packed.
  void forward(MatrixView hidden) {
    check_interrupt();
    BlockForwardOptions options;
    options.sequence_length = run_.tokens;
    block_->forward(backend_, ropes_, hidden, options);
  }

  void release() {
    block_.reset();
    stats_ = {};
    run_.model.release_block(layer_);
  }

  const ProbeRun& run_;
  const Backend& backend_;
  CpuStreamOps ops_;
  WholeStream<CpuStreamOps> windows_;  // of the dense model
  std::vector<RopeTable> ropes_;
  std::unique_ptr<Refiner> refiner_;
  std::int64_t layer_ = -1;
  std::optional<DecoderBlock> block_;
  std::array<std::optional<ActivationStats>, kNumLinearInputs> stats_;
  std::array<std::unique_ptr<PreparedGram>, kNumLinearInputs> prepared_;
  std::vector<Matrix> pruned_;  // by linear; empty where dense
  Matrix changed_;              // [layers·tokens, row_size]: part b has only block b pruned
  Matrix input_, dense_;        // [tokens, row_size] before and behind the block in hand
  std::vector<double> changes_;
};

}  // namespace

ProbeShopMaker cpu_probe_shop(const Backend& backend) {
  return [&backend](const ProbeRun& run) { return std::make_unique<CpuProbeShop>(run, backend); };
}

}  // namespace swiftprune
