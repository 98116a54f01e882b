// The calibration windows run through the model block by block: one forward that is observed. The order of
// work for every device; what it does to rows of hidden states is its Ops (cpu_stream_ops.h; cuda/ has its
// own).
#pragma once

#include <array>

#include "swiftprune/model/model_config.h"

namespace swiftprune {

template <class Ops>
class WholeStream {
 public:
  using Stats = typename Ops::Stats;
  // By LinearInput; null where an input is not wanted.
  using StatsOfInputs = std::array<Stats*, kNumLinearInputs>;

  explicit WholeStream(Ops& ops) : ops_(ops), hidden_(ops.embed()) {}

  // The windows pass the block, which is packed. Its linears' inputs are added to the statistics.
  void pass(const typename Ops::Block& block, const StatsOfInputs& stats = {}) { run(block, stats, false); }
  // The same, but the windows still stand before the block afterwards.
  void look(const typename Ops::Block& block, const StatsOfInputs& stats) { run(block, stats, true); }

  const typename Ops::Hidden& hidden() const { return hidden_; }  // [N, hidden]
  typename Ops::Hidden& hidden() { return hidden_; }

 private:
  void run(const typename Ops::Block& block, const StatsOfInputs& stats, bool stays) {
    const typename Ops::Observer observer = [&](LinearInput input, auto x) {
      if (Stats* of_input = stats[static_cast<std::size_t>(input)]) ops_.add(*of_input, x);
    };
    bool observed = false;
    for (const Stats* of_input : stats) observed |= of_input != nullptr;
    ops_.for_rows([&](std::int64_t first, std::int64_t count) {
      ops_.forward(block, ops_.rows(hidden_, first, count), observed ? &observer : nullptr, stays);
    });
  }

  Ops& ops_;
  typename Ops::Hidden hidden_;
};

}  // namespace swiftprune
