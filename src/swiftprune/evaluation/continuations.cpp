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

// Positions of the longest sequence of the long or of the short units.
std::int64_t longest_of(std::span<const std::vector<ScoredSequence>> items, std::span<const Unit> units,
                        bool is_long) {
  std::int64_t longest = 1;
  for (const Unit& unit : units) {
    if (unit.is_long != is_long) continue;
    for (const std::size_t i : unit.sequences) {
      longest = std::max(longest, std::ssize(items[unit.item][i].ids) - 1);
    }
  }
  return longest;
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

  std::span<const std::int32_t> ids() const { return ids_; }
  std::span<const Segment> segments() const { return segments_; }

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

void score_targets(TextForwards& forwards, std::span<const ItemBatch::Target> targets,
                   ContinuationScores& scores) {
  const auto most = static_cast<std::size_t>(forwards.rows_a_score());
  std::vector<std::int64_t> rows;
  std::vector<std::int32_t> ids, best;
  std::vector<double> log_probs;
  for (std::size_t first = 0; first < targets.size(); first += most) {
    check_interrupt();
    const auto part = targets.subspan(first, std::min(most, targets.size() - first));
    rows.clear(), ids.clear();
    for (const ItemBatch::Target& target : part) rows.push_back(target.row), ids.push_back(target.id);
    log_probs.resize(part.size()), best.resize(part.size());
    forwards.score(0, rows, ids, log_probs, best);
    for (std::size_t i = 0; i < part.size(); ++i) {
      SequenceScore& score = scores.items[part[i].item][part[i].sequence];
      score.log_prob += log_probs[i];
      score.greedy = score.greedy && best[i] == ids[i];
    }
  }
}

// A batch's scores, of the rank that computed it, to all.
void share_scores(Communicator& ranks, int owner, std::span<const Unit> units, ContinuationScores& scores) {
  std::vector<double> numbers;  // log_prob and greedy of each sequence
  for (const Unit& unit : units) {
    for (const std::size_t i : unit.sequences) {
      const SequenceScore& score = scores.items[unit.item][i];
      numbers.insert(numbers.end(), {score.log_prob, score.greedy ? 1.0 : 0.0});
    }
  }
  ranks.broadcast(owner, std::as_writable_bytes(std::span(numbers)));
  auto next = numbers.begin();
  for (const Unit& unit : units) {
    for (const std::size_t i : unit.sequences) {
      scores.items[unit.item][i] = {next[0], next[1] != 0.0};
      next += 2;
    }
  }
}

}  // namespace

ContinuationScores score_continuations(const Model& model, TextForwards& forwards,
                                       std::span<const std::vector<ScoredSequence>> items,
                                       const ProgressFn& progress, Communicator& ranks) {
  ContinuationScores scores;
  for (const std::vector<ScoredSequence>& item : items) {
    expect(!item.empty(), "score_continuations: items with sequences");
    scores.items.emplace_back(item.size());
    for (const ScoredSequence& s : item) scores.num_unshared += std::ssize(s.ids) - 1;
  }
  const std::int64_t num_layers = model.config().num_layers();
  const std::int64_t share = std::max(kTaskBatchTokens, scores.num_unshared / kTaskBatches);
  const std::vector<Unit> units = units_of(model, items);
  const std::span<const Unit> all(units);
  std::vector<std::span<const Unit>> batches;
  for (std::size_t next = 0; next < units.size();) {
    ItemBatch batch;
    const std::size_t begin = next;
    std::int64_t max_rows = forwards.prepare(longest_of(items, units, units[begin].is_long));
    ranks.broadcast(0, std::as_writable_bytes(std::span(&max_rows, 1)));
    while (next < units.size() && batch.num_rows() < std::min(max_rows, share) &&
           units[next].is_long == units[begin].is_long) {
      batch.add(units[next].item, items[units[next].item], units[next].sequences);
      ++next;
    }
    const auto owner = static_cast<int>(std::ssize(batches) % ranks.size());
    batches.push_back(all.subspan(begin, next - begin));
    if (owner != ranks.rank()) continue;
    std::int64_t layers_done = 0;
    scores.num_forwarded += forwards.run(0, batch.ids(), batch.segments(), [&] {
      if (!progress) return;
      progress("tasks",
               static_cast<std::int64_t>(begin) * num_layers +
                   ++layers_done * static_cast<std::int64_t>(next - begin),
               std::ssize(units) * num_layers);
    });
    score_targets(forwards, batch.targets(), scores);
  }
  for (std::size_t b = 0; b < batches.size(); ++b)
    share_scores(ranks, static_cast<int>(b) % ranks.size(), batches[b], scores);
  add_counts(ranks, std::span(&scores.num_forwarded, 1));
  return scores;
}

}  // namespace swiftprune
