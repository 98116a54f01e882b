// The calibration windows on their way through a block's experts, one expert after the other, so that one of them and
// its statistics are in memory, whatever their number. An expert sees the tokens that the router sends it; the hidden
// states before the experts stay until the last is done, and their inputs are made from them again for each. With the
// dense model beside the pruned one (two_streams.h), tokens go where the pruned model's router sends them, and each
// expert is compared with itself in the dense model on the same tokens. The order of work for every device; what it does
// to rows of hidden states is its Ops.
//
// In memory, beside the hidden states of the streams: as many outputs, and a few thousand tokens of one expert. Those that
// are computed together are of one part of the text (rank_windows.h), so that ranks may share it out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/model/experts.h"
#include "swiftprune/pipeline/streams/rank_windows.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

// Tokens of an expert that statistics are taken of.
struct ExpertRows {
  std::int64_t expert = 0;
  bool pooled = false;  // all tokens, else those that the router sends to it
  // Window by window, for statistics that depend on the order of windows; else as many at a time as the Ops take.
  bool by_window = false;
};

template <class Ops>
class ExpertStream {
 public:
  using Block = typename Ops::Block;
  using Hidden = typename Ops::Hidden;
  using Stats = typename Ops::Stats;
  using Expert = typename Ops::Expert;

  // windows: a rank's; part_ends: of their tokens (expert_part_ends()).
  ExpertStream(Ops& ops, const TokenWindows& windows, std::vector<std::int64_t> part_ends)
      : ops_(ops), windows_(windows), part_ends_(std::move(part_ends)) {}

  // hidden [N, hidden]: before the block -> behind its attention.
  void pass_attention(const Block& block, Hidden& hidden) {
    expect(!ops_.config().parallel_residual, "experts read the hidden states behind attention");
    ops_.for_rows([&](std::int64_t first, std::int64_t count) {
      const auto rows = ops_.rows(hidden, first, count);
      const auto mixed = ops_.attention(block, ops_.input_of(block, LinearInput::kAttention, rows), rows);
      ops_.project_and_add(block, LinearInput::kAttentionOutput, Ops::view(mixed), rows);
    });
  }

  // The shared expert's down projection, both hidden states being behind attention.
  void collect_shared(Stats& stats, const Block& block, Hidden& hidden, const Block& dense,
                      Hidden& dense_hidden) {
    ops_.for_rows([&](std::int64_t first, std::int64_t count) {
      const auto inner = [&](const Block& of, Hidden& from) {
        const auto x = ops_.input_of(of, LinearInput::kMlp, ops_.rows(from, first, count));
        return ops_.shared_inner(of, Ops::view(x));
      };
      const auto x = ops_.hold(inner(block, hidden));
      const auto dense_x = inner(dense, dense_hidden);
      ops_.add_aligned_output(stats, dense, LinearInput::kMlpOutput, Ops::view(x), Ops::view(dense_x),
                              ops_.rows(hidden, first, count), ops_.rows(dense_hidden, first, count),
                              nullptr);
    });
  }

  // Behind attention; what is given here must outlive finish(). passes: the experts' outputs are added up, and
  // finish() makes the hidden states the block's output; the shared expert's are added here.
  void start(const Block& block, Hidden& hidden, bool passes) {
    dense_.reset();
    own_.reset();  // before the next one's memory is taken
    own_ = side(block, hidden, passes);
  }
  void start_beside(const Block& dense, Hidden& dense_hidden) {
    dense_ = side(dense, dense_hidden, own_->outputs.has_value());
    dense_->sizes = ops_.row_sizes(dense_hidden);
  }

  std::vector<std::int64_t> num_tokens() const {  // by expert
    std::vector<std::int64_t> counts;
    for (const ExpertTokens& tokens : own_->tokens) counts.push_back(std::ssize(tokens.rows));
    return counts;
  }

  // The expert's inputs and its down projection's. Null: not wanted.
  void collect(const ExpertRows& rows, const Expert& expert, Stats* input, Stats* inner) {
    if (input == nullptr && inner == nullptr) return;
    for_chunks(rows, [&](std::int64_t, std::span<const std::int64_t> chunk) {
      if (chunk.empty()) {
        for (Stats* stats : {input, inner}) {
          if (stats != nullptr) ops_.add_empty_window(*stats);
        }
        return;
      }
      const auto x = inputs_of(*own_, chunk);
      if (input != nullptr) ops_.add_window(*input, Ops::view(x));
      if (inner == nullptr) return;
      const auto z = ops_.inner(expert, Ops::view(x));
      ops_.add_window(*inner, Ops::view(z));
    });
  }

  // With the dense model beside: of one of the two. A token counts by the square of its weight g in the expert's sum
  // (by 1 where pooled), inputs of the down projection also as in two_streams.h.
  void collect_aligned(const ExpertRows& rows, const Expert& expert, LinearInput which, Stats& stats) {
    const bool output = is_output(which);
    const ExpertTokens& tokens = own_->tokens[at(rows.expert)];
    ops_.use(*dense_->block, rows.expert, [&](const Expert& dense) {
      for_chunks(rows, [&](std::int64_t first, std::span<const std::int64_t> chunk) {
        if (chunk.empty()) return ops_.add_empty_window(stats);
        const auto values = [&](const Side& of, const Expert& with) {
          auto x = inputs_of(of, chunk);
          return output ? ops_.inner(with, Ops::view(x)) : std::move(x);
        };
        const auto x = ops_.hold(values(*own_, expert));
        const auto dense_x = values(*dense_, dense);
        std::vector<float> weights(chunk.size(), 1.0f);
        for (std::size_t i = 0; i < chunk.size(); ++i) {
          const float gate = rows.pooled ? 1.0f : tokens.gates[at(first) + i];
          weights[i] = gate * gate;
          if (output) weights[i] /= dense_->sizes[at(chunk[i])];
        }
        ops_.add_weighted_window(stats, Ops::view(x), Ops::view(dense_x), weights);
      });
    });
  }

  // What the expert makes of its tokens; the dense model's own joins the dense stream.
  void add_outputs(std::int64_t index, const Expert& expert) {
    add_outputs(*own_, index, expert);
    if (!dense_ || dense_->tokens[at(index)].rows.empty()) return;
    ops_.use(*dense_->block, index, [&](const Expert& dense) { add_outputs(*dense_, index, dense); });
  }

  void finish() {
    for (std::optional<Side>* side : {&own_, &dense_}) {
      if (*side && (*side)->outputs) {
        ops_.for_rows([&](std::int64_t first, std::int64_t count) {
          ops_.add_output(*(*side)->block, LinearInput::kMlpOutput,
                          ops_.rows(*(*side)->outputs, first, count),
                          ops_.rows(*(*side)->hidden, first, count));
        });
      }
      side->reset();
    }
  }

 private:
  struct Side {
    const Block* block = nullptr;
    Hidden* hidden = nullptr;
    std::optional<Hidden> outputs;  // [N, hidden]
    std::vector<ExpertTokens> tokens;
    std::vector<float> sizes;  // of each token's hidden state (root_mean_square.h), where they are read
  };
  using ChunkFn = std::function<void(std::int64_t first, std::span<const std::int64_t> rows)>;

  Side side(const Block& block, Hidden& hidden, bool passes) {
    Side side{&block, &hidden, std::nullopt, {}, {}};
    if (passes) side.outputs.emplace(ops_.zeros_like(hidden));
    side.tokens.resize(at(ops_.num_experts(block)));
    ops_.for_rows([&](std::int64_t first, std::int64_t count) {
      const auto x = ops_.input_of(block, LinearInput::kMlp, ops_.rows(hidden, first, count));
      const std::vector<ExpertTokens> tokens = ops_.route(block, Ops::view(x));
      for (std::size_t e = 0; e < tokens.size(); ++e) {
        for (const std::int64_t row : tokens[e].rows) side.tokens[e].rows.push_back(first + row);
        side.tokens[e].gates.insert(side.tokens[e].gates.end(), tokens[e].gates.begin(),
                                    tokens[e].gates.end());
      }
      if (passes) ops_.add_shared(block, Ops::view(x), ops_.rows(*side.outputs, first, count));
    });
    return side;
  }

  auto inputs_of(const Side& side, std::span<const std::int64_t> rows) {
    const auto hidden = ops_.gather(*side.hidden, rows);
    return ops_.input_of(*side.block, LinearInput::kMlp, Ops::view(hidden));
  }

  void for_chunks(const ExpertRows& rows, const ChunkFn& body) {
    const std::int64_t all_rows = windows_.num_windows() * windows_.seqlen;
    std::vector<std::int64_t> all;
    if (rows.pooled) {
      all.resize(at(all_rows));
      std::iota(all.begin(), all.end(), std::int64_t{0});
    }
    const std::span<const std::int64_t> chosen = rows.pooled ? all : own_->tokens[at(rows.expert)].rows;
    std::int64_t first = 0;
    std::int64_t window_end = 0;
    while (first < std::ssize(chosen) || (rows.by_window && window_end < all_rows)) {
      check_interrupt();
      window_end += windows_.seqlen;
      const std::int64_t last =
          rows.by_window ? std::lower_bound(chosen.begin(), chosen.end(), window_end) - chosen.begin()
                         : end_in_part(chosen, first, ops_.most_expert_rows(), part_ends_);
      body(first, chosen.subspan(at(first), at(last - first)));
      first = last;
    }
  }

  void add_outputs(Side& side, std::int64_t index, const Expert& expert) {
    const ExpertTokens& tokens = side.tokens[at(index)];
    for (std::int64_t first = 0; first < std::ssize(tokens.rows);) {
      check_interrupt();
      const std::int64_t last = end_in_part(tokens.rows, first, ops_.most_expert_rows(), part_ends_);
      const ExpertTokens part = part_of(tokens, first, last - first);
      first = last;
      const auto x = inputs_of(side, part.rows);
      const auto inner = ops_.inner(expert, Ops::view(x));
      const auto values = ops_.project_expert(expert, Ops::view(inner));
      ops_.add_gated(Ops::view(values), part, *side.outputs);
    }
  }

  Ops& ops_;
  const TokenWindows& windows_;
  const std::vector<std::int64_t> part_ends_;
  std::optional<Side> own_, dense_;
};

}  // namespace swiftprune
