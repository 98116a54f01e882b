// Attention of a block: queries, keys and values in every layout, rotated, and what is made of them over whole sequences,
// segments and cached runs.
#include "swiftprune/model/decoder_block.h"

#include <algorithm>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

// q [N, heads of [q | gate]] becomes the queries alone.
void split_gates(std::int64_t d, Matrix& q, Matrix& gate) {
  Matrix queries(q.rows(), q.cols() / 2);
  gate = Matrix(q.rows(), q.cols() / 2);
  for (std::int64_t n = 0; n < q.rows(); ++n) {
    for (std::int64_t i = 0; i < queries.cols(); i += d) {
      std::copy_n(q.row(n) + 2 * i, d, queries.row(n) + i);
      std::copy_n(q.row(n) + 2 * i + d, d, gate.row(n) + i);
    }
  }
  q = std::move(queries);
}

void clip(float limit, MatrixView x) {
  for (std::int64_t n = 0; n < x.rows; ++n) {
    for (float& value : x.row_span(n)) value = std::clamp(value, -limit, limit);
  }
}

}  // namespace

// Query, key and value of N tokens; views into the fused product where its layout allows it.
struct DecoderBlock::Qkv {
  Matrix q_storage, k_storage, v_storage;
  Matrix gate;  // [N, H·D] of gated heads
  MatrixView q, k, v;
};

// Each head is a row of its own.
void DecoderBlock::apply_head_norm(const Backend& backend, const Norm& norm, MatrixView x) const {
  if (config_.head_norms == HeadNorms::kTogether) return apply_norm(backend, norm, x, x);
  const std::int64_t d = model_.head_size_in(config_);
  if (config_.head_norms == HeadNorms::kEachOwn) {
    Norm of_head = norm;
    for (std::int64_t h = 0; h < x.cols / d; ++h) {
      of_head.gain.assign(norm.gain.begin() + h * d, norm.gain.begin() + (h + 1) * d);
      apply_norm(backend, of_head, x.col_block(h * d, d), x.col_block(h * d, d));
    }
    return;
  }
  expect(x.stride == x.cols, "head norms act on contiguous rows");
  const MatrixView heads{x.data, x.numel() / d, d, d};
  apply_norm(backend, norm, heads, heads);
}

void DecoderBlock::pair_halves(MatrixView x) const {
  const RopeConfig& rope = model_.ropes[static_cast<std::size_t>(config_.rope)];
  const auto half = std::ssize(rope.inverse_frequency);
  std::vector<float> pairs(static_cast<std::size_t>(2 * half));
  for (std::int64_t n = 0; n < x.rows; ++n) {
    for (float* head = x.row(n); head < x.row(n) + x.cols; head += model_.head_size_in(config_)) {
      std::copy_n(head, 2 * half, pairs.data());
      for (std::int64_t i = 0; i < half; ++i) {
        head[i] = pairs[static_cast<std::size_t>(2 * i)];
        head[half + i] = pairs[static_cast<std::size_t>(2 * i + 1)];
      }
    }
  }
}

void DecoderBlock::scale_queries(MatrixView q, std::int64_t first_position) const {
  for (std::int64_t n = 0; n < q.rows; ++n) {
    const float factor = model_.query_scaling->at(first_position + n);
    if (factor == 1.0f) continue;
    for (float& value : q.row_span(n)) value *= factor;
  }
}

void DecoderBlock::rotate(const Backend& backend, const std::vector<RopeTable>& ropes, MatrixView q,
                          MatrixView k, std::int64_t first_position) const {
  if (model_.query_scaling) scale_queries(q, first_position);
  if (config_.rope < 0) return;
  const auto rope = static_cast<std::size_t>(config_.rope);
  const auto turn = [&](MatrixView x) {
    if (model_.ropes[rope].rotates_neighbours) pair_halves(x);
    backend.rope(x, ropes[rope], model_.head_size_in(config_), first_position);
  };
  turn(q);
  if (!config_.takes_keys()) turn(k);  // those are rotated already
}

DecoderBlock::Qkv DecoderBlock::project_qkv(const Backend& backend, ConstMatrixView x,
                                            ConstMatrixView hidden) const {
  const std::int64_t d = model_.head_size_in(config_);
  const std::int64_t q_size = model_.heads_in(config_) * d;
  const std::int64_t kv_size = model_.kv_size_in(config_);
  Qkv qkv;
  switch (model_.qkv_layout) {
    case QkvLayout::kSeparate:
      qkv.q_storage = linear(backend, 0, x);
      if (config_.takes_keys()) {
        qkv.k_storage = copy_of(hidden.col_block(config_.carried_keys->first, kv_size));
        qkv.v_storage = copy_of(hidden.col_block(config_.carried_keys->first + kv_size, kv_size));
        break;
      }
      qkv.k_storage = linear(backend, 1, x);
      qkv.v_storage = config_.keys_are_values ? qkv.k_storage.clone() : linear(backend, 2, x);
      if (config_.gated_heads) split_gates(d, qkv.q_storage, qkv.gate);
      break;
    case QkvLayout::kStacked:
      qkv.q_storage = linear(backend, 0, x);
      qkv.q = qkv.q_storage.view().col_block(0, q_size);
      qkv.k = qkv.q_storage.view().col_block(q_size, kv_size);
      qkv.v = qkv.q_storage.view().col_block(q_size + kv_size, kv_size);
      return qkv;
    case QkvLayout::kInterleaved: {
      const Matrix fused = linear(backend, 0, x);
      for (Matrix* part : {&qkv.q_storage, &qkv.k_storage, &qkv.v_storage}) *part = Matrix(x.rows, q_size);
      for (std::int64_t n = 0; n < x.rows; ++n) {
        for (std::int64_t h = 0; h < model_.heads_in(config_); ++h) {
          const float* head = fused.row(n) + 3 * h * d;
          std::copy_n(head, d, qkv.q_storage.row(n) + h * d);
          std::copy_n(head + d, d, qkv.k_storage.row(n) + h * d);
          std::copy_n(head + 2 * d, d, qkv.v_storage.row(n) + h * d);
        }
      }
      break;
    }
  }
  qkv.q = qkv.q_storage.view();
  qkv.k = qkv.k_storage.view();
  qkv.v = qkv.v_storage.view();
  return qkv;
}

DecoderBlock::Qkv DecoderBlock::project_latent(const Backend& backend, ConstMatrixView x) const {
  const LatentAttention& l = *config_.latent;
  const std::int64_t heads = model_.num_heads, d = model_.head_size;
  std::size_t next = 0;
  Matrix q = linear(backend, next++, x);
  if (l.query_rank > 0) {
    backend.rms_norm(q.view(), latent_query_norm_.gain, 0.0f, l.norm_eps, q.view());
    q = linear(backend, next++, q.view());
  }
  const Matrix compressed = linear(backend, next++, x);
  Matrix c(x.rows, l.rank);
  backend.rms_norm(compressed.view().col_block(0, l.rank), latent_norm_.gain, 0.0f, l.norm_eps, c.view());
  const Matrix kv = linear(backend, next, c.view());

  // Pairs of neighbours become pairs of halves, as RopeTable has them; keys and queries alike, so products of the two
  // stay what they are.
  const auto rotated = [&](const float* from, float* to) {
    for (std::int64_t i = 0; i < l.rotary_size; ++i) {
      to[i] = from[l.rotates_neighbours ? 2 * i % l.rotary_size + (2 * i) / l.rotary_size : i];
    }
  };
  Qkv result;
  result.q_storage = Matrix(x.rows, heads * d);
  result.k_storage = Matrix(x.rows, heads * d);
  result.v_storage = Matrix::zeros(x.rows, heads * d);
  parallel_for(x.rows, 16, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t n = first; n < last; ++n) {
      for (std::int64_t h = 0; h < heads; ++h) {
        const float* query = q.row(n) + h * d;
        const float* key = kv.row(n) + h * (l.plain_size + l.value_size);
        float* to = result.q_storage.row(n) + h * d;
        rotated(query + l.plain_size, to);
        std::copy_n(query, l.plain_size, to + l.rotary_size);
        to = result.k_storage.row(n) + h * d;
        rotated(compressed.row(n) + l.rank, to);
        std::copy_n(key, l.plain_size, to + l.rotary_size);
        std::copy_n(key + l.plain_size, l.value_size, result.v_storage.row(n) + h * d);
      }
    }
  });
  result.q = result.q_storage.view();
  result.k = result.k_storage.view();
  result.v = result.v_storage.view();
  return result;
}

std::vector<CachedRun> DecoderBlock::runs_of(const BlockForwardOptions& options, std::int64_t rows) {
  if (!options.runs.empty()) return {options.runs.begin(), options.runs.end()};
  std::vector<CachedRun> runs;
  for (std::int64_t row = 0; row < rows; row += options.sequence_length)
    runs.push_back({.first_row = row, .length = options.sequence_length});
  return runs;
}

void DecoderBlock::for_runs(std::span<const CachedRun> runs, std::int64_t longest,
                            const std::function<void(const CachedRun&)>& body) {
  std::vector<const CachedRun*> alike, others;
  for (const CachedRun& run : runs) {
    const bool is_alike = run.length == runs.front().length && run.length <= longest;
    (is_alike ? alike : others).push_back(&run);
  }
  parallel_for(std::ssize(alike), 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) body(*alike[static_cast<std::size_t>(i)]);
  });
  for (const CachedRun* run : others) body(*run);
}

void DecoderBlock::attend(const Backend& backend, const std::vector<RopeTable>& ropes, const Qkv& qkv,
                          const CachedRun& run, MatrixView out) const {
  const MatrixView q = qkv.q.row_block(run.first_row, run.length);
  const MatrixView k = qkv.k.row_block(run.first_row, run.length);
  const ConstMatrixView v = qkv.v.row_block(run.first_row, run.length);
  rotate(backend, ropes, q, k, run.position);
  const AttentionParams params = attention_params(run.position);
  KvCache* cache = run.cache;
  if (cache == nullptr) {
    expect(run.position == 0, "only a cache holds earlier positions");
    backend.attention(q, k, v, params, out);
    return;
  }
  const std::int64_t total = run.position + run.length;
  expect(total <= cache->keys.rows(), "the cache holds the new positions");
  for (std::int64_t n = 0; n < run.length; ++n) {
    std::copy_n(k.row(n), k.cols, cache->keys.row(run.position + n));
    std::copy_n(v.row(n), v.cols, cache->values.row(run.position + n));
  }
  backend.attention(q, cache->keys.view().row_block(0, total), cache->values.view().row_block(0, total),
                    params, out);
}

AttentionParams DecoderBlock::attention_params(std::int64_t first_position) const {
  return {model_.heads_in(config_),
          model_.kv_heads_in(config_),
          model_.head_size_in(config_),
          model_.attention_scale,
          model_.attention_softcap,
          config_.attention_window,
          first_position,
          sinks_,
          model_.attention_slopes};
}

void DecoderBlock::attend_segments(const Backend& backend, const std::vector<RopeTable>& ropes,
                                   const Qkv& qkv, std::span<const Segment> segments, MatrixView out) const {
  const auto prefix_of = [&](const Segment& s) {
    return s.prefix < 0 ? Segment{} : segments[static_cast<std::size_t>(s.prefix)];
  };
  const auto for_segments = [&](const std::function<void(const Segment&)>& body) {
    parallel_for(std::ssize(segments), 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) body(segments[static_cast<std::size_t>(i)]);
    });
  };
  for_segments([&](const Segment& s) {
    rotate(backend, ropes, qkv.q.row_block(s.first_row, s.length), qkv.k.row_block(s.first_row, s.length),
           prefix_of(s).length);
  });
  for_segments([&](const Segment& s) {
    const MatrixView q = qkv.q.row_block(s.first_row, s.length), y = out.row_block(s.first_row, s.length);
    const Segment prefix = prefix_of(s);
    if (prefix.length == 0) {
      backend.attention(q, qkv.k.row_block(s.first_row, s.length), qkv.v.row_block(s.first_row, s.length),
                        attention_params(0), y);
      return;
    }
    const auto joined = [&](ConstMatrixView x) {
      Matrix all(prefix.length + s.length, x.cols);
      for (std::int64_t n = 0; n < all.rows(); ++n) {
        const bool before = n < prefix.length;
        std::copy_n(x.row(before ? prefix.first_row + n : s.first_row + n - prefix.length), x.cols,
                    all.row(n));
      }
      return all;
    };
    const Matrix k = joined(qkv.k), v = joined(qkv.v);
    backend.attention(q, k.view(), v.view(), attention_params(prefix.length), y);
  });
}

Matrix DecoderBlock::attention(const Backend& backend, const std::vector<RopeTable>& ropes, ConstMatrixView x,
                               MatrixView hidden, const BlockForwardOptions& options) const {
  if (!config_.has_mixer()) return Matrix(x.rows, 0);
  if (config_.recurrent) return mix(backend, x, options);
  Matrix heads = attend_all(backend, ropes, x, hidden, options);
  if (!config_.beside) return heads;
  const Matrix mixed = mix(backend, x, options);
  Matrix both(x.rows, heads.cols() + mixed.cols());
  for (std::int64_t n = 0; n < x.rows; ++n) {
    std::copy_n(heads.row(n), heads.cols(), both.row(n));
    std::copy_n(mixed.row(n), mixed.cols(), both.row(n) + heads.cols());
  }
  return both;
}

Matrix DecoderBlock::attend_all(const Backend& backend, const std::vector<RopeTable>& ropes,
                                ConstMatrixView x, MatrixView hidden,
                                const BlockForwardOptions& options) const {
  Qkv qkv = config_.latent ? project_latent(backend, x) : project_qkv(backend, x, hidden);
  if (query_norm_.present) apply_head_norm(backend, query_norm_, qkv.q);
  if (key_norm_.present) apply_head_norm(backend, key_norm_, qkv.k);
  if (value_norm_.present) apply_head_norm(backend, value_norm_, qkv.v);
  if (model_.qkv_clip > 0.0f) {
    for (const MatrixView& part : {qkv.q, qkv.k, qkv.v}) clip(model_.qkv_clip, part);
  }
  Matrix out(x.rows, qkv.q.cols);
  const auto finished = [&] {
    if (config_.carried_keys && !config_.takes_keys()) {
      const std::int64_t first = config_.carried_keys->first;
      for (std::int64_t n = 0; n < x.rows; ++n) {
        std::copy_n(qkv.k.row(n), qkv.k.cols, hidden.row(n) + first);
        std::copy_n(qkv.v.row(n), qkv.v.cols, hidden.row(n) + first + qkv.k.cols);
      }
    }
    if (!config_.gated_heads) return values_of(std::move(out));
    backend.gated_activate(Activation::kSigmoid, qkv.gate.view(), out.view());
    return std::move(qkv.gate);
  };
  if (!options.segments.empty()) {
    attend_segments(backend, ropes, qkv, options.segments, out.view());
    return finished();
  }
  constexpr std::int64_t kShort = 64;  // longer ones keep all threads busy
  for_runs(runs_of(options, x.rows), kShort, [&](const CachedRun& run) {
    attend(backend, ropes, qkv, run, out.view().row_block(run.first_row, run.length));
  });
  return finished();
}

Matrix DecoderBlock::values_of(Matrix heads) const {
  if (!config_.latent || config_.latent->value_size == model_.head_size) return heads;
  const std::int64_t size = config_.latent->value_size;
  Matrix values(heads.rows(), model_.num_heads * size);
  for (std::int64_t n = 0; n < heads.rows(); ++n) {
    for (std::int64_t h = 0; h < model_.num_heads; ++h)
      std::copy_n(heads.row(n) + h * model_.head_size, size, values.row(n) + h * size);
  }
  return values;
}

}  // namespace swiftprune
