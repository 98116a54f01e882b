#include "swiftprune/pipeline/streams/expert_stream.h"

#include <algorithm>
#include <numeric>

#include "swiftprune/core/error.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/pipeline/root_mean_square.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kTokensAPass = 4096;  // of one expert at a time

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

ConstMatrixView no_rows(std::int64_t cols) { return {nullptr, 0, cols, cols}; }

}  // namespace

void ExpertStream::pass_attention(const DecoderBlock& block, Matrix& hidden) const {
  expect(!ops_.config().parallel_residual, "experts read the hidden states behind attention");
  ops_.for_rows([&](std::int64_t first, std::int64_t count) {
    const MatrixView rows = CpuStreamOps::rows(hidden, first, count);
    const Matrix mixed = ops_.attention(block, ops_.input_of(block, LinearInput::kAttention, rows), rows);
    ops_.project_and_add(block, LinearInput::kAttentionOutput, mixed.view(), rows);
  });
}

void ExpertStream::collect_shared(ActivationStats& stats, const DecoderBlock& block, Matrix& hidden,
                                  const DecoderBlock& dense, Matrix& dense_hidden) const {
  ops_.for_rows([&](std::int64_t first, std::int64_t count) {
    const auto inner = [&](const DecoderBlock& of, Matrix& from) {
      const Matrix x = ops_.input_of(of, LinearInput::kMlp, CpuStreamOps::rows(from, first, count));
      return of.shared_inner(backend_, x.view());
    };
    const Matrix x = inner(block, hidden), dense_x = inner(dense, dense_hidden);
    ops_.add_aligned_output(stats, dense, LinearInput::kMlpOutput, x.view(), dense_x.view(),
                            CpuStreamOps::rows(hidden, first, count),
                            CpuStreamOps::rows(dense_hidden, first, count), nullptr);
  });
}

ExpertStream::Side ExpertStream::side(const DecoderBlock& block, Matrix& hidden, bool passes) const {
  const Experts& experts = *block.experts();
  Side side{&block, &hidden, passes ? Matrix(hidden.rows(), hidden.cols()) : Matrix(), {}};
  side.tokens.resize(at(experts.count()));
  ops_.for_rows([&](std::int64_t first, std::int64_t count) {
    const Matrix x = ops_.input_of(block, LinearInput::kMlp, CpuStreamOps::rows(hidden, first, count));
    const Matrix scores = experts.router().scores(backend_, x.view());
    const std::vector<ExpertTokens> tokens =
        tokens_by_expert(experts.router().route(scores.view()), experts.count());
    for (std::size_t e = 0; e < tokens.size(); ++e) {
      for (const std::int64_t row : tokens[e].rows) side.tokens[e].rows.push_back(first + row);
      side.tokens[e].gates.insert(side.tokens[e].gates.end(), tokens[e].gates.begin(), tokens[e].gates.end());
    }
    if (!passes) return;
    const Matrix shared = block.shared_output(backend_, x.view());
    std::copy_n(shared.data(), shared.numel(), side.outputs.row(first));
  });
  return side;
}

void ExpertStream::start(const DecoderBlock& block, Matrix& hidden, bool passes) {
  own_ = {};
  dense_ = {};
  own_ = side(block, hidden, passes);
}

void ExpertStream::start_beside(const DecoderBlock& dense, Matrix& dense_hidden) {
  dense_ = side(dense, dense_hidden, !own_.outputs.empty());
}

std::vector<std::int64_t> ExpertStream::num_tokens() const {
  std::vector<std::int64_t> counts;
  for (const ExpertTokens& tokens : own_.tokens) counts.push_back(std::ssize(tokens.rows));
  return counts;
}

Matrix ExpertStream::inputs_of(const Side& side, std::span<const std::int64_t> rows) const {
  const Matrix hidden = gather_rows(std::as_const(*side.hidden).view(), rows);
  return ops_.input_of(*side.block, LinearInput::kMlp, hidden.view());
}

void ExpertStream::for_chunks(const Rows& rows, const ChunkFn& body) const {
  std::vector<std::int64_t> all;
  if (rows.pooled) {
    all.resize(at(own_.hidden->rows()));
    std::iota(all.begin(), all.end(), std::int64_t{0});
  }
  const std::span<const std::int64_t> chosen = rows.pooled ? all : own_.tokens[at(rows.expert)].rows;
  std::int64_t first = 0;
  std::int64_t window_end = 0;
  while (first < std::ssize(chosen) || (rows.by_window && window_end < own_.hidden->rows())) {
    check_interrupt();
    window_end += windows_.seqlen;
    const std::int64_t last =
        rows.by_window ? std::lower_bound(chosen.begin(), chosen.end(), window_end) - chosen.begin()
                       : std::min(first + kTokensAPass, std::ssize(chosen));
    body(first, chosen.subspan(at(first), at(last - first)));
    first = last;
  }
}

void ExpertStream::collect(const Rows& rows, const Expert& expert, ActivationStats* input,
                           ActivationStats* inner) const {
  if (input == nullptr && inner == nullptr) return;
  for_chunks(rows, [&](std::int64_t, std::span<const std::int64_t> chunk) {
    if (chunk.empty()) {
      if (input != nullptr) input->add_window(backend_, no_rows(own_.hidden->cols()));
      if (inner != nullptr) inner->add_window(backend_, no_rows(expert.width()));
      return;
    }
    const Matrix x = inputs_of(own_, chunk);
    if (input != nullptr) input->add_window(backend_, x.view());
    if (inner != nullptr) inner->add_window(backend_, expert.inner(backend_, x.view()).view());
  });
}

void ExpertStream::collect_aligned(const Rows& rows, const Expert& expert, LinearInput which,
                                   ActivationStats& stats) const {
  const bool output = is_output(which);
  const ExpertTokens& tokens = own_.tokens[at(rows.expert)];
  dense_.block->experts()->use(backend_, rows.expert, [&](const Expert& dense) {
    for_chunks(rows, [&](std::int64_t first, std::span<const std::int64_t> chunk) {
      if (chunk.empty()) {
        const std::int64_t cols = output ? expert.width() : own_.hidden->cols();
        return stats.add_window(backend_, AlignedWindow{.x = no_rows(cols), .dense_x = no_rows(cols)});
      }
      Matrix x = inputs_of(own_, chunk), dense_x = inputs_of(dense_, chunk);
      if (output) {
        x = expert.inner(backend_, x.view());
        dense_x = dense.inner(backend_, dense_x.view());
      }
      std::vector<float> weights(chunk.size(), 1.0f);
      for (std::size_t i = 0; i < chunk.size(); ++i) {
        if (!rows.pooled) {
          const float gate = tokens.gates[at(first) + i];
          weights[i] = gate * gate;
        }
        if (output) {
          weights[i] /=
              static_cast<float>(root_mean_square(std::as_const(*dense_.hidden).view().row_span(chunk[i])));
        }
      }
      stats.add_window(backend_, AlignedWindow{.x = x.view(), .dense_x = dense_x.view(), .weights = weights});
    });
  });
}

void ExpertStream::add_outputs(Side& side, std::int64_t index, const Expert& expert) const {
  const ExpertTokens& tokens = side.tokens[at(index)];
  for (std::int64_t first = 0; first < std::ssize(tokens.rows); first += kTokensAPass) {
    check_interrupt();
    const ExpertTokens part = part_of(tokens, first, std::min(kTokensAPass, std::ssize(tokens.rows) - first));
    const Matrix inner = expert.inner(backend_, inputs_of(side, part.rows).view());
    add_rows(expert.project(backend_, inner.view()).view(), part, side.outputs.view());
  }
}

void ExpertStream::add_outputs(std::int64_t index, const Expert& expert) {
  add_outputs(own_, index, expert);
  if (dense_.block == nullptr || dense_.tokens[at(index)].rows.empty()) return;
  dense_.block->experts()->use(backend_, index,
                               [&](const Expert& dense) { add_outputs(dense_, index, dense); });
}

void ExpertStream::finish(const Backend& backend, Side& side) {
  if (side.block != nullptr && !side.outputs.empty())
    side.block->add_output(backend, LinearInput::kMlpOutput, side.outputs.view(), side.hidden->view());
  side = {};
}

void ExpertStream::finish() {
  finish(backend_, own_);
  finish(backend_, dense_);
}

}  // namespace swiftprune
