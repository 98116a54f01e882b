#include "swiftprune/evaluation/continuations.h"

#include <algorithm>

namespace swiftprune {
namespace {

// Tokens that these sequences start with; the last token of a sequence is never run.
std::int64_t common_length(std::span<const ScoredSequence> sequences, std::span<const std::size_t> indices) {
  const std::vector<std::int32_t>& first = sequences[indices[0]].ids;
  std::int64_t common = std::ssize(first) - 1;
  for (const std::size_t i : indices) {
    const std::vector<std::int32_t>& ids = sequences[i].ids;
    common = std::min(common, std::ssize(ids) - 1);
    common = std::mismatch(first.begin(), first.begin() + common, ids.begin()).first - first.begin();
  }
  return common;
}

// Sequences of an item that run together. Some rotary embeddings (longrope) have other frequencies for long
// sequences, so that a beginning is not the same in a long one and in a short one.
struct Unit {
  std::size_t item = 0;
  bool is_long = false;
  std::vector<std::size_t> sequences;
};

std::vector<Unit> units_of(const Model& model, std::span<const std::vector<ScoredSequence>> items) {
  std::int64_t long_from = model.config().max_positions;
  for (const RopeConfig& rope : model.config().ropes) {
    if (!rope.long_inverse_frequency.empty()) long_from = std::min(long_from, rope.long_from);
  }
  std::vector<Unit> units;
  for (const bool is_long : {false, true}) {
    for (std::size_t item = 0; item < items.size(); ++item) {
      Unit unit{item, is_long, {}};
      for (std::size_t i = 0; i < items[item].size(); ++i) {
        if ((std::ssize(items[item][i].ids) - 1 > long_from) == is_long) unit.sequences.push_back(i);
      }
      if (!unit.sequences.empty()) units.push_back(std::move(unit));
    }
  }
  return units;
}

// Rows of several items, as they go through a block together.
class ItemBatch {
 public:
  struct Target {  // the row that predicts a scored token
    std::int64_t row;
    std::int32_t id;
    std::size_t item, sequence;
  };

  // indices: which of the item's sequences
  void add(std::size_t item, std::span<const ScoredSequence> sequences,
           std::span<const std::size_t> indices) {
    const std::int64_t common = common_length(sequences, indices);
    const std::int64_t first_row = num_rows();
    const std::int64_t prefix = common > 0 ? append(sequences[indices[0]].ids, 0, common, -1) : -1;
    for (const std::size_t i : indices) {
      const ScoredSequence& s = sequences[i];
      expect(s.num_context >= 1 && s.num_context < std::ssize(s.ids),
             "score_continuations: context and more");
      const std::int64_t suffix_row = num_rows();
      if (std::ssize(s.ids) - 1 > common) append(s.ids, common, std::ssize(s.ids) - 1, prefix);
      for (std::int64_t t = s.num_context; t < std::ssize(s.ids); ++t) {
        const std::int64_t row = t - 1 < common ? first_row + t - 1 : suffix_row + t - 1 - common;
        targets_.push_back({row, s.ids[static_cast<std::size_t>(t)], item, i});
      }
    }
  }

  std::int64_t num_rows() const { return std::ssize(ids_); }
  std::span<const Target> targets() const { return targets_; }

  Matrix embed(const Model& model) const {
    Matrix hidden(num_rows(), model.config().hidden_size);
    for (const Segment& s : segments_) {
      const std::int64_t position = s.prefix < 0 ? 0 : segments_[static_cast<std::size_t>(s.prefix)].length;
      model.embed(
          std::span(ids_).subspan(static_cast<std::size_t>(s.first_row), static_cast<std::size_t>(s.length)),
          s.length, position, hidden.view().row_block(s.first_row, s.length));
    }
    return hidden;
  }

  // Passes of about kTokensPerPass rows; a prefix and what continues it stay together.
  void forward(const Backend& backend, const std::vector<RopeTable>& ropes, const DecoderBlock& block,
               MatrixView hidden) const {
    for (std::size_t begin = 0; begin < segments_.size();) {
      std::vector<Segment> pass;
      std::int64_t rows = 0;
      std::size_t end = begin;
      while (end < segments_.size() && (rows < kTokensPerPass || segments_[end].prefix >= 0)) {
        Segment s = segments_[end++];
        rows += s.length;
        s.first_row -= segments_[begin].first_row;
        if (s.prefix >= 0) s.prefix -= static_cast<std::int64_t>(begin);
        pass.push_back(s);
      }
      check_interrupt();
      BlockForwardOptions options;
      options.segments = pass;
      block.forward(backend, ropes, hidden.row_block(segments_[begin].first_row, rows), options);
      begin = end;
    }
  }

  std::int64_t longest() const {
    std::int64_t positions = 0;
    for (const Segment& s : segments_) {
      const std::int64_t before = s.prefix < 0 ? 0 : segments_[static_cast<std::size_t>(s.prefix)].length;
      positions = std::max(positions, before + s.length);
    }
    return positions;
  }

 private:
  std::int64_t append(const std::vector<std::int32_t>& ids, std::int64_t first, std::int64_t last,
                      std::int64_t prefix) {
    segments_.push_back({num_rows(), last - first, prefix});
    ids_.insert(ids_.end(), ids.begin() + first, ids.begin() + last);
    return std::ssize(segments_) - 1;
  }

  std::vector<std::int32_t> ids_;
  std::vector<Segment> segments_;
  std::vector<Target> targets_;
};

void score_targets(const Model& model, const Backend& backend, const ModelHead& head, const Matrix& hidden,
                   std::span<const ItemBatch::Target> targets, ContinuationScores& scores) {
  Matrix rows(kLogitRows, hidden.cols()), logits(kLogitRows, model.config().vocab_size);
  std::vector<std::int32_t> ids(kLogitRows), best(kLogitRows);
  std::vector<double> log_probs(kLogitRows);
  for (std::size_t first = 0; first < targets.size(); first += kLogitRows) {
    check_interrupt();
    const std::size_t count = std::min<std::size_t>(kLogitRows, targets.size() - first);
    const auto part = targets.subspan(first, count);
    for (std::size_t i = 0; i < count; ++i) {
      std::copy_n(hidden.row(part[i].row), hidden.cols(), rows.row(static_cast<std::int64_t>(i)));
      ids[i] = part[i].id;
    }
    const auto n = static_cast<std::int64_t>(count);
    head.logits(backend, rows.view().row_block(0, n), logits.view().row_block(0, n));
    backend.target_log_probs(logits.view().row_block(0, n), std::span(ids).first(count),
                             std::span(log_probs).first(count), std::span(best).first(count));
    for (std::size_t i = 0; i < count; ++i) {
      SequenceScore& score = scores.items[part[i].item][part[i].sequence];
      score.log_prob += log_probs[i];
      score.greedy = score.greedy && best[i] == ids[i];
    }
  }
}

}  // namespace

ContinuationScores score_continuations(const Model& model, const Backend& backend,
                                       std::span<const std::vector<ScoredSequence>> items,
                                       const ForwardOptions& options) {
  ContinuationScores scores;
  for (const std::vector<ScoredSequence>& item : items) {
    expect(!item.empty(), "score_continuations: items with sequences");
    scores.items.emplace_back(item.size());
    for (const ScoredSequence& s : item) scores.num_unshared += std::ssize(s.ids) - 1;
  }
  const ModelHead head = model.load_head(backend, options.compute);
  const std::int64_t row_bytes = model.config().hidden_size * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t max_rows = std::max<std::int64_t>(1, options.hidden_bytes / row_bytes);
  const std::int64_t num_layers = model.config().num_layers();
  const std::vector<Unit> units = units_of(model, items);
  for (std::size_t next = 0; next < units.size();) {
    ItemBatch batch;
    const std::size_t begin = next;
    while (next < units.size() && batch.num_rows() < max_rows &&
           units[next].is_long == units[begin].is_long) {
      batch.add(units[next].item, items[units[next].item], units[next].sequences);
      ++next;
    }
    Matrix hidden = batch.embed(model);
    const std::vector<RopeTable> ropes = model.rope_tables(batch.longest());
    for (std::int64_t layer = 0; layer < num_layers; ++layer) {
      DecoderBlock block = model.load_block(layer);
      block.pack(backend, options.compute);
      batch.forward(backend, ropes, block, hidden.view());
      model.release_block(layer);
      if (options.progress) {
        const auto in_batch = static_cast<std::int64_t>(next - begin);
        options.progress("tasks", static_cast<std::int64_t>(begin) * num_layers + (layer + 1) * in_batch,
                         std::ssize(units) * num_layers);
      }
    }
    score_targets(model, backend, head, hidden, batch.targets(), scores);
    scores.num_forwarded += batch.num_rows();
  }
  return scores;
}

}  // namespace swiftprune
