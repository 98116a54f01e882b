#include "swiftprune/model/decoder_block.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/model/norm_gain.h"
#include "swiftprune/model/xielu.h"
#include "swiftprune/sparse/packed_checkpoint.h"

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

void DecoderBlock::load_norm(const Checkpoint& checkpoint, const NormTensors& tensors, std::int64_t size,
                             Norm& norm) const {
  norm.present = true;
  if (!tensors.gain.empty()) norm.gain = load_gain(checkpoint, tensors, size);
  add_gain_offset(model_, norm.gain);
  if (!tensors.bias.empty()) norm.bias = checkpoint.load_vector(tensors.bias, size);
}

DecoderBlock::DecoderBlock(const Checkpoint& checkpoint, const ModelConfig& model, std::int64_t layer,
                           WeightUse use, const Adapter* adapter)
    : model_(model), config_(model.blocks[static_cast<std::size_t>(layer)]) {
  for (const LinearTensors& tensors : linears_of(config_)) {
    BlockLinear linear;
    linear.tensors = tensors;
    const std::string name = tensors.name + ".weight";
    linear.compact = find_packed(checkpoint, name, tensors.outputs, tensors.inputs);
    if (!linear.compact && use == WeightUse::kCompact) linear.compact = pack_dense(checkpoint, name);
    if (linear.compact) {
      linear.dtype = linear.compact->weight().shape().dtype;
    } else {
      linear.dtype = checkpoint.at(name).dtype;
      linear.weight = checkpoint.load_matrix(name, tensors.outputs, tensors.inputs);
    }
    if (tensors.bias) linear.bias = checkpoint.load_vector(tensors.name + ".bias", tensors.outputs);
    if (adapter != nullptr) linear.low_rank = adapter->load(tensors.name);
    linears_.push_back(std::move(linear));
  }
  if (config_.experts) {
    experts_.emplace(checkpoint, model, *config_.experts, use);
    if (const std::string& gate = config_.experts->shared_gate; !gate.empty()) {
      const Matrix row = checkpoint.load_matrix(gate, 1, model.hidden_size);
      shared_gate_.assign(row.values().begin(), row.values().end());
    }
  }
  if (config_.xielu) xielu_ = load_xielu(checkpoint, *config_.xielu);
  if (config_.has_state()) recurrent_.emplace(checkpoint, config_.mixer(), model.norm_eps);
  if (config_.layer_input) layer_inputs_.emplace(checkpoint, model, layer);
  if (!config_.output_scale.empty()) output_scale_ = checkpoint.load_vector(config_.output_scale, 1).front();
  if (!config_.sinks.empty()) sinks_ = checkpoint.load_vector(config_.sinks, model.heads_in(config_));
  if (const auto& latent = config_.latent) {
    load_norm(checkpoint, latent->norm, latent->rank, latent_norm_);
    if (latent->query_rank > 0)
      load_norm(checkpoint, latent->query_norm, latent->query_rank, latent_query_norm_);
  }
  if (config_.attention_norm)
    load_norm(checkpoint, *config_.attention_norm, model.hidden_size, attention_norm_);
  if (config_.mlp_norm) load_norm(checkpoint, *config_.mlp_norm, model.hidden_size, mlp_norm_);
  if (config_.post_attention_norm) {
    load_norm(checkpoint, *config_.post_attention_norm, model.hidden_size, post_attention_norm_);
  }
  if (config_.post_mlp_norm) load_norm(checkpoint, *config_.post_mlp_norm, model.hidden_size, post_mlp_norm_);
  if (config_.query_norm) {
    load_norm(checkpoint, *config_.query_norm, model.query_norm_size(config_), query_norm_);
  }
  if (config_.key_norm) load_norm(checkpoint, *config_.key_norm, model.key_norm_size(config_), key_norm_);
  if (config_.norms_values) {
    value_norm_.present = true;
    value_norm_.gain.assign(static_cast<std::size_t>(model.head_size_in(config_)), 1.0f);
  }
}

void DecoderBlock::tune(Autotuner& tuner, std::int64_t num_tokens, ComputeType compute) {
  for (BlockLinear& linear : linears_) {
    if (linear.compact) linear.compact = tuner.faster(linear.compact->weight(), num_tokens, compute);
  }
}

void DecoderBlock::pack(const Backend& backend, ComputeType compute) {
  compute_ = compute;
  for (BlockLinear& linear : linears_) pack_linear(backend, compute, linear);
  if (experts_) experts_->pack(backend, compute);
}

void DecoderBlock::pack(const Backend& backend, ComputeType compute, LinearInput input) {
  if (experts_ && input == LinearInput::kMlp) experts_->pack(backend, compute);
  for (BlockLinear& linear : linears_) {
    if (linear.tensors.input == input) pack_linear(backend, compute, linear);
  }
}

void DecoderBlock::apply_norm(const Backend& backend, const Norm& norm, ConstMatrixView x,
                              MatrixView y) const {
  if (model_.norm == NormKind::kRms) {
    backend.rms_norm(x, norm.gain, model_.norm_gain_offset, model_.norm_eps, y);
  } else {
    backend.layer_norm(x, norm.gain, norm.bias, model_.norm_eps, y);
  }
}

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

Matrix DecoderBlock::linear(const Backend& backend, std::size_t index, ConstMatrixView x) const {
  return run_linear(linears_[index], backend, x, compute_);
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

Matrix DecoderBlock::mlp(const Backend& backend, ConstMatrixView x) const {
  return experts_ ? copy_of(x) : dense_mlp(backend, x);
}

Matrix DecoderBlock::project_shared(const Backend& backend, ConstMatrixView x, ConstMatrixView inner) const {
  Matrix y = linear(backend, first_up() + config_.up.size(), inner);
  for (std::int64_t n = 0; n < x.rows && !shared_gate_.empty(); ++n) {
    double logit = 0.0;
    for (std::int64_t i = 0; i < x.cols; ++i) {
      logit += double{x.at(n, i)} * double{shared_gate_[static_cast<std::size_t>(i)]};
    }
    const auto gate = static_cast<float>(1.0 / (1.0 + std::exp(-logit)));
    for (float& value : y.view().row_span(n)) value *= gate;
  }
  return y;
}

Matrix DecoderBlock::shared_output(const Backend& backend, ConstMatrixView x) const {
  if (config_.up.empty()) return Matrix::zeros(x.rows, x.cols);
  return project_shared(backend, x, dense_mlp(backend, x).view());
}

Matrix DecoderBlock::dense_mlp(const Backend& backend, ConstMatrixView x) const {
  if (config_.up.empty()) return Matrix(x.rows, 0);
  Matrix first = linear(backend, first_up(), x);
  if (!model_.gated_mlp) {
    activate(backend, first.view());
    return first;
  }
  if (config_.up.size() == 2) {
    const Matrix up = linear(backend, first_up() + 1, x);
    backend.gated_activate(model_.activation, first.view(), up.view());
    return first;
  }
  const std::int64_t size = config_.down.inputs;
  backend.gated_activate(model_.activation, first.view().col_block(0, size),
                         first.view().col_block(size, size));
  Matrix gated(x.rows, size);
  for (std::int64_t n = 0; n < x.rows; ++n) std::copy_n(first.row(n), size, gated.row(n));
  return gated;
}

void DecoderBlock::activate(const Backend& backend, MatrixView x) const {
  if (!config_.xielu) return backend.activate(model_.activation, x);
  const auto [alpha_p, alpha_n, beta, eps] = xielu_;
  for (std::int64_t n = 0; n < x.rows; ++n) {
    for (float& value : x.row_span(n)) {
      const float curve = value > 0.0f ? alpha_p * value * value
                                       : (alpha_n + beta) * (std::expm1(std::min(value, eps)) - value);
      value = curve + beta * value;
    }
  }
}

Matrix DecoderBlock::input_of(const Backend& backend, LinearInput input, ConstMatrixView rows) const {
  const ConstMatrixView hidden = hidden_of(model_, rows);
  expect(input == LinearInput::kAttention || input == LinearInput::kMlp, "input_of: a normed input");
  const Norm& norm = input == LinearInput::kAttention ? attention_norm_ : mlp_norm_;
  if (!norm.present) return copy_of(hidden);
  Matrix x(hidden.rows, hidden.cols);
  apply_norm(backend, norm, hidden, x.view());
  return x;
}

Matrix DecoderBlock::project(const Backend& backend, LinearInput which, ConstMatrixView x) const {
  expect(which == LinearInput::kAttentionOutput || which == LinearInput::kMlpOutput,
         "project: an output projection");
  if (experts_ && which == LinearInput::kMlpOutput) {
    Matrix y = shared_output(backend, x);
    experts_->add_outputs(backend, x, y.view());
    return y;
  }
  const bool of_mixer = which == LinearInput::kAttentionOutput;
  if (!(of_mixer ? config_.has_mixer() : config_.has_mlp())) return Matrix::zeros(x.rows, model_.hidden_size);
  if (!of_mixer) return linear(backend, first_up() + config_.up.size(), x);
  if (!config_.beside) return linear(backend, output_index(), x);
  const std::int64_t heads = config_.attention_output.inputs;
  Matrix y = linear(backend, output_index(), copy_of(x.col_block(0, heads)).view());
  const Matrix mixed =
      linear(backend, output_index() + 1, copy_of(x.col_block(heads, x.cols - heads)).view());
  backend.add(mixed.view(), y.view());
  return y;
}

const DecoderBlock::Norm& DecoderBlock::output_norm(LinearInput which) const {
  return which == LinearInput::kAttentionOutput ? post_attention_norm_ : post_mlp_norm_;
}

bool DecoderBlock::norms_output(LinearInput which) const { return output_norm(which).present; }

void DecoderBlock::add_output(const Backend& backend, LinearInput which, MatrixView y,
                              MatrixView rows) const {
  const MatrixView hidden = hidden_of(model_, rows);
  const Norm& norm = output_norm(which);
  if (norm.present) apply_norm(backend, norm, y, y);
  if (model_.residual_scale != 1.0f) {
    for (std::int64_t n = 0; n < y.rows; ++n) {
      for (float& value : y.row_span(n)) value *= model_.residual_scale;
    }
  }
  backend.add(y, hidden);
  if (which != LinearInput::kMlpOutput) return;
  if (layer_inputs_) layer_inputs_->add(backend, rows);
  if (output_scale_ == 1.0f) return;
  for (std::int64_t n = 0; n < hidden.rows; ++n) {
    for (float& value : hidden.row_span(n)) value *= output_scale_;
  }
}

void DecoderBlock::forward(const Backend& backend, const std::vector<RopeTable>& ropes, MatrixView hidden,
                           const BlockForwardOptions& options) const {
  using enum LinearInput;
  expect(!options.segments.empty() || !options.runs.empty() ||
             (options.sequence_length > 0 && hidden.rows % options.sequence_length == 0),
         "whole sequences");
  const auto observe = [&](LinearInput input, ConstMatrixView x) {
    if (options.observer != nullptr) (*options.observer)(input, x);
  };

  Matrix x, attention_out;
  if (config_.has_mixer()) {
    x = input_of(backend, kAttention, hidden);
    observe(kAttention, x.view());
    const Matrix mixed = attention(backend, ropes, x.view(), hidden, options);
    observe(kAttentionOutput, mixed.view());
    if (options.observe_only && !config_.has_mlp()) return;
    attention_out = project(backend, kAttentionOutput, mixed.view());
  }

  // With a parallel residual the MLP reads the block's input, else the input plus attention.
  if (!model_.parallel_residual && config_.has_mixer())
    add_output(backend, kAttentionOutput, attention_out.view(), hidden);
  if (!config_.has_mlp()) return;
  x = input_of(backend, kMlp, hidden);
  observe(kMlp, x.view());
  Matrix inner;
  if (!config_.up.empty()) {
    inner = dense_mlp(backend, x.view());
    observe(kMlpOutput, inner.view());
  }
  if (options.observe_only) return;
  if (model_.parallel_residual) add_output(backend, kAttentionOutput, attention_out.view(), hidden);
  Matrix out;
  if (experts_) {
    out = config_.up.empty() ? Matrix::zeros(x.rows(), x.cols())
                             : project_shared(backend, x.view(), inner.view());
    experts_->add_outputs(backend, x.view(), out.view());
  } else {
    out = project(backend, kMlpOutput, inner.view());
  }
  add_output(backend, kMlpOutput, out.view(), hidden);
}

std::vector<std::string> DecoderBlock::tensor_names(const BlockConfig& block) {
  std::vector<std::string> names;
  for (const LinearTensors& linear : linears_of(block)) {
    names.push_back(linear.name + ".weight");
    if (linear.bias) names.push_back(linear.name + ".bias");
  }
  const auto add_norm = [&](const NormTensors& norm) {
    for (std::string& name : norm.names()) names.push_back(std::move(name));
  };
  if (block.experts) {
    const ExpertsConfig& experts = *block.experts;
    for (const std::string* name : {&experts.router.weight, &experts.router.bias,
                                    &experts.router.correction_bias, &experts.shared_gate}) {
      if (!name->empty()) names.push_back(*name);
    }
  }
  if (block.attention_norm) add_norm(*block.attention_norm);
  const bool shared =
      block.attention_norm && block.mlp_norm && block.attention_norm->names() == block.mlp_norm->names();
  if (block.mlp_norm && !shared) add_norm(*block.mlp_norm);
  if (!block.sinks.empty()) names.push_back(block.sinks);
  if (const auto& x = block.xielu) {
    for (const std::string* name : {&x->alpha_p, &x->alpha_n, &x->beta, &x->eps}) names.push_back(*name);
  }
  if (block.has_state()) {
    RecurrentMixer mixer = block.mixer();
    for (const MixerTensor& tensor : tensors_of(mixer)) names.push_back(*tensor.name);
  }
  if (block.layer_input) {
    names.push_back(block.layer_input->gate);
    names.push_back(block.layer_input->projection);
    add_norm(block.layer_input->norm);
  }
  if (!block.output_scale.empty()) names.push_back(block.output_scale);
  if (block.latent) {
    add_norm(block.latent->norm);
    if (block.latent->query_rank > 0) add_norm(block.latent->query_norm);
  }
  for (const auto* norm :
       {&block.post_attention_norm, &block.post_mlp_norm, &block.query_norm, &block.key_norm}) {
    if (*norm) add_norm(**norm);
  }
  return names;
}

}  // namespace swiftprune
