// Blocks with a recurrent mixer in attention's place or beside it.
#include <algorithm>
#include <limits>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/model/decoder_block.h"

namespace swiftprune {
namespace {

// One sequence's rows of what the input projections give.
void mix_rows(const Backend& backend, const RecurrentBlock& mixer, std::span<const MatrixView> projected,
              std::int64_t first, std::int64_t count, RecurrentState& state, MatrixView out) {
  std::vector<MatrixView> rows;
  for (const MatrixView& part : projected) rows.push_back(part.row_block(first, count));
  const Matrix y = mixer.mix(backend, rows, state);
  for (std::int64_t n = 0; n < count; ++n) std::copy_n(y.row(n), y.cols(), out.row(first + n));
}

}  // namespace

Matrix DecoderBlock::mix(const Backend& backend, ConstMatrixView x,
                         const BlockForwardOptions& options) const {
  std::vector<Matrix> storage;
  std::vector<MatrixView> projected;
  if (config_.beside) {
    storage.push_back(linear(backend, config_.qkv.size(), x));
  } else {
    for (std::size_t i = 0; i < config_.qkv.size(); ++i) storage.push_back(linear(backend, i, x));
  }
  for (Matrix& part : storage) projected.push_back(part.view());
  Matrix out(x.rows, config_.beside ? config_.beside->output.inputs : config_.attention_output.inputs);
  if (!options.segments.empty()) {
    mix_segments(backend, projected, options.segments, out.view());
    return out;
  }
  // However long; the heads of a single one share the threads.
  for_runs(runs_of(options, x.rows), std::numeric_limits<std::int64_t>::max(), [&](const CachedRun& run) {
    expect(run.position == 0 || run.cache != nullptr, "only a cache holds earlier positions");
    RecurrentState fresh;
    RecurrentState& state = run.cache == nullptr ? fresh : run.cache->recurrent;
    if (run.position == 0) state = {};
    mix_rows(backend, *recurrent_, projected, run.first_row, run.length, state, out.view());
  });
  return out;
}

void DecoderBlock::mix_segments(const Backend& backend, std::span<const MatrixView> projected,
                                std::span<const Segment> segments, MatrixView out) const {
  std::vector<RecurrentState> ends(segments.size());  // of those that others continue
  std::vector<bool> is_continued(segments.size(), false);
  for (const Segment& s : segments) {
    if (s.prefix >= 0) is_continued[static_cast<std::size_t>(s.prefix)] = true;
  }
  const auto run = [&](bool continues) {
    parallel_for(std::ssize(segments), 1, [&](std::int64_t first, std::int64_t last) {
      for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
        const Segment& s = segments[i];
        if ((s.prefix >= 0) != continues) continue;
        RecurrentState state;
        if (continues) state = ends[static_cast<std::size_t>(s.prefix)].clone();
        mix_rows(backend, *recurrent_, projected, s.first_row, s.length, state, out);
        if (is_continued[i]) ends[i] = std::move(state);
      }
    });
  };
  run(false);
  run(true);
}

}  // namespace swiftprune
