// Where sensitivities (sensitivities.h) are measured, one decoder block after another: the mechanism behind
// the order of work. The processor has one (cpu_probe_shop.cpp), a GPU another (cuda/). Changes are means
// over the probe's tokens of |y' - y|²/|y|² (relative_change.h).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/model/model.h"
#include "swiftprune/pipeline/choices/row_budgets.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

// What is known before the first block, so that a shop can make room for everything once.
struct ProbeRun {
  const Model& model;
  const Plan& plan;
  TokenWindows windows;     // those that the Gram matrices come from
  std::int64_t tokens = 0;  // of the first window, whose hidden states are compared
  ComputeType compute = ComputeType::kF32;
  std::vector<bool> probed{};  // by layer: the others only let the windows pass
};

class ProbeShop {
 public:
  virtual ~ProbeShop() = default;

  // The block that all other calls are about. The next one may be fetched meanwhile.
  virtual void load(std::int64_t layer) = 0;
  // What row budgets read of the block.
  virtual RowEffects::Readers readers() = 0;
  // Of a block that is not probed, nothing else: windows and tokens pass.
  virtual void pass_by() {
    enter();
    pass({});
  }
  // The probe's tokens as they come in are kept, and those with one earlier block pruned pass the block.
  virtual void enter() = 0;
  // The windows pass the block; energies and Gram matrices of these inputs are collected.
  virtual void pass(const std::array<bool, kNumLinearInputs>& inputs) = 0;
  // The linears that read one input, by its collected statistics, each beside its dense weight.
  virtual void start_input(LinearInput input, const std::string& tensor) = 0;
  virtual void prune(std::size_t linear, const PruneTarget& target) = 0;

  // Behind the block, of the tokens that came in: with this linear alone pruned, and with all of them; those
  // then go on. changes() waits for what was asked for in this block, in this order.
  virtual void try_alone(std::size_t linear) = 0;
  virtual void try_all() = 0;
  virtual std::vector<double> changes() = 0;
  // After the last block: of the final normed hidden state, with each block alone pruned. Of blocks that were not
  // probed it says nothing.
  virtual std::vector<double> final_changes() = 0;
};

// Makes the shop of a device for one run, which outlives it.
using ProbeShopMaker = std::function<std::unique_ptr<ProbeShop>(const ProbeRun& run)>;
ProbeShopMaker cpu_probe_shop(const Backend& backend);

}  // namespace swiftprune
