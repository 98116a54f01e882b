#include "swiftprune/model/decoder_block.h"

#include <algorithm>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
// Query, key and value of N tokens; views into the fused product where its layout allows it.
struct DecoderBlock::Qkv {
  Matrix q_storage, k_storage, v_storage;
  MatrixView q, k, v;
};

void DecoderBlock::load_norm(const Checkpoint& checkpoint, const NormTensors& tensors, std::int64_t size,
                             Norm& norm) const {
  norm.present = true;
  if (!tensors.gain.empty()) norm.gain = checkpoint.load_vector(tensors.gain, size);
  if (!tensors.bias.empty()) norm.bias = checkpoint.load_vector(tensors.bias, size);
}

DecoderBlock::DecoderBlock(const Checkpoint& checkpoint, const ModelConfig& model, std::int64_t layer,
                           WeightUse use)
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
    linears_.push_back(std::move(linear));
  }
  load_norm(checkpoint, config_.attention_norm, model.hidden_size, attention_norm_);
  load_norm(checkpoint, config_.mlp_norm, model.hidden_size, mlp_norm_);
  if (config_.post_attention_norm) {
    load_norm(checkpoint, *config_.post_attention_norm, model.hidden_size, post_attention_norm_);
  }
  if (config_.post_mlp_norm) load_norm(checkpoint, *config_.post_mlp_norm, model.hidden_size, post_mlp_norm_);
  if (config_.query_norm) load_norm(checkpoint, *config_.query_norm, model.head_size, query_norm_);
  if (config_.key_norm) load_norm(checkpoint, *config_.key_norm, model.head_size, key_norm_);
}

void DecoderBlock::tune(Autotuner& tuner, std::int64_t num_tokens, ComputeType compute) {
  for (BlockLinear& linear : linears_) {
    if (linear.compact) linear.compact = tuner.faster(linear.compact->weight(), num_tokens, compute);
  }
}

void DecoderBlock::pack(const Backend& backend, ComputeType compute) {
  compute_ = compute;
  for (BlockLinear& linear : linears_) {
    if (!linear.compact) linear.packed = backend.pack(linear.weight.view(), compute);
  }
}

void DecoderBlock::pack(const Backend& backend, ComputeType compute, LinearInput input) {
  for (BlockLinear& linear : linears_) {
    if (linear.tensors.input == input) linear.packed = backend.pack(linear.weight.view(), compute);
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
  expect(x.stride == x.cols, "head norms act on contiguous rows");
  const MatrixView heads{x.data, x.numel() / model_.head_size, model_.head_size, model_.head_size};
  apply_norm(backend, norm, heads, heads);
}

Matrix DecoderBlock::linear(const Backend& backend, std::size_t index, ConstMatrixView x) const {
  const BlockLinear& l = linears_[index];
  Matrix y(x.rows, l.tensors.outputs);
  if (l.compact) {
    l.compact->forward(x, l.bias, y.view(), compute_);
    return y;
  }
  expect(l.packed != nullptr, "pack() comes before forward()");
  backend.linear(x, *l.packed, l.bias, y.view());
  return y;
}

DecoderBlock::Qkv DecoderBlock::project_qkv(const Backend& backend, ConstMatrixView x) const {
  const std::int64_t d = model_.head_size;
  const std::int64_t q_size = model_.heads_in(config_) * d;
  const std::int64_t kv_size = model_.kv_heads_in(config_) * d;
  Qkv qkv;
  switch (model_.qkv_layout) {
    case QkvLayout::kSeparate:
      qkv.q_storage = linear(backend, 0, x);
      qkv.k_storage = linear(backend, 1, x);
      qkv.v_storage = linear(backend, 2, x);
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

void DecoderBlock::attend(const Backend& backend, const std::vector<RopeTable>& ropes, MatrixView q,
                          MatrixView k, ConstMatrixView v, std::int64_t first_position, KvCache* cache,
                          MatrixView out) const {
  if (config_.rope >= 0) {
    const RopeTable& table = ropes[static_cast<std::size_t>(config_.rope)];
    backend.rope(q, table, model_.head_size, first_position);
    backend.rope(k, table, model_.head_size, first_position);
  }
  const AttentionParams params = attention_params(first_position);
  if (cache == nullptr) {
    expect(first_position == 0, "only a cache holds earlier positions");
    backend.attention(q, k, v, params, out);
    return;
  }
  const std::int64_t total = first_position + q.rows;
  expect(total <= cache->keys.rows(), "the cache holds the new positions");
  for (std::int64_t n = 0; n < q.rows; ++n) {
    std::copy_n(k.row(n), k.cols, cache->keys.row(first_position + n));
    std::copy_n(v.row(n), v.cols, cache->values.row(first_position + n));
  }
  const Matrix& keys = cache->keys;
  const Matrix& values = cache->values;
  backend.attention(q, keys.view().row_block(0, total), values.view().row_block(0, total), params, out);
}

AttentionParams DecoderBlock::attention_params(std::int64_t first_position) const {
  return {model_.heads_in(config_), model_.kv_heads_in(config_), model_.head_size, model_.attention_scale,
          model_.attention_softcap, config_.attention_window,    first_position};
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
  if (config_.rope >= 0) {
    const RopeTable& table = ropes[static_cast<std::size_t>(config_.rope)];
    for_segments([&](const Segment& s) {
      const std::int64_t position = prefix_of(s).length;
      backend.rope(qkv.q.row_block(s.first_row, s.length), table, model_.head_size, position);
      backend.rope(qkv.k.row_block(s.first_row, s.length), table, model_.head_size, position);
    });
  }
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
                               const BlockForwardOptions& options) const {
  Qkv qkv = project_qkv(backend, x);
  if (query_norm_.present) apply_head_norm(backend, query_norm_, qkv.q);
  if (key_norm_.present) apply_head_norm(backend, key_norm_, qkv.k);
  Matrix out(x.rows, config_.attention_output.inputs);
  if (!options.segments.empty()) {
    attend_segments(backend, ropes, qkv, options.segments, out.view());
    return out;
  }
  const std::int64_t length = options.sequence_length;
  const std::int64_t num_sequences = x.rows / length;
  const auto run = [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t s = first; s < last; ++s) {
      KvCache* cache = options.caches.empty() ? nullptr : &options.caches[static_cast<std::size_t>(s)];
      const std::int64_t position = options.first_positions.empty()
                                        ? options.first_position
                                        : options.first_positions[static_cast<std::size_t>(s)];
      attend(backend, ropes, qkv.q.row_block(s * length, length), qkv.k.row_block(s * length, length),
             qkv.v.row_block(s * length, length), position, cache, out.view().row_block(s * length, length));
    }
  };
  // Long sequences keep all threads busy one by one; short ones (decoding) go side by side.
  constexpr std::int64_t kShort = 64;
  if (length <= kShort) {
    parallel_for(num_sequences, 1, run);
  } else {
    run(0, num_sequences);
  }
  return out;
}

Matrix DecoderBlock::mlp(const Backend& backend, ConstMatrixView x) const {
  const std::size_t first_up = config_.qkv.size() + 1;
  Matrix first = linear(backend, first_up, x);
  if (!model_.gated_mlp) {
    backend.activate(model_.activation, first.view());
    return first;
  }
  if (config_.up.size() == 2) {
    const Matrix up = linear(backend, first_up + 1, x);
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

Matrix DecoderBlock::input_of(const Backend& backend, LinearInput input, ConstMatrixView hidden) const {
  expect(input == LinearInput::kAttention || input == LinearInput::kMlp, "input_of: a normed input");
  Matrix x(hidden.rows, hidden.cols);
  apply_norm(backend, input == LinearInput::kAttention ? attention_norm_ : mlp_norm_, hidden, x.view());
  return x;
}

Matrix DecoderBlock::project(const Backend& backend, LinearInput which, ConstMatrixView x) const {
  const std::size_t output_index = config_.qkv.size();
  const std::size_t down_index = output_index + 1 + config_.up.size();
  expect(which == LinearInput::kAttentionOutput || which == LinearInput::kMlpOutput,
         "project: an output projection");
  return linear(backend, which == LinearInput::kAttentionOutput ? output_index : down_index, x);
}

const DecoderBlock::Norm& DecoderBlock::output_norm(LinearInput which) const {
  return which == LinearInput::kAttentionOutput ? post_attention_norm_ : post_mlp_norm_;
}

bool DecoderBlock::norms_output(LinearInput which) const { return output_norm(which).present; }

void DecoderBlock::add_output(const Backend& backend, LinearInput which, MatrixView y,
                              MatrixView hidden) const {
  const Norm& norm = output_norm(which);
  if (norm.present) apply_norm(backend, norm, y, y);
  backend.add(y, hidden);
}

void DecoderBlock::forward(const Backend& backend, const std::vector<RopeTable>& ropes, MatrixView hidden,
                           const BlockForwardOptions& options) const {
  using enum LinearInput;
  expect(!options.segments.empty() ||
             (options.sequence_length > 0 && hidden.rows % options.sequence_length == 0),
         "whole sequences");
  expect(options.caches.empty() ||
             static_cast<std::int64_t>(options.caches.size()) * options.sequence_length == hidden.rows,
         "one cache for each sequence");
  const auto observe = [&](LinearInput input, ConstMatrixView x) {
    if (options.observer != nullptr) (*options.observer)(input, x);
  };

  Matrix x = input_of(backend, kAttention, hidden);
  observe(kAttention, x.view());
  const Matrix mixed = attention(backend, ropes, x.view(), options);
  observe(kAttentionOutput, mixed.view());
  Matrix attention_out = project(backend, kAttentionOutput, mixed.view());

  // With a parallel residual the MLP reads the block's input, else the input plus attention.
  if (!model_.parallel_residual) add_output(backend, kAttentionOutput, attention_out.view(), hidden);
  x = input_of(backend, kMlp, hidden);
  observe(kMlp, x.view());
  const Matrix inner = mlp(backend, x.view());
  observe(kMlpOutput, inner.view());
  if (options.observe_only) return;
  if (model_.parallel_residual) add_output(backend, kAttentionOutput, attention_out.view(), hidden);
  add_output(backend, kMlpOutput, project(backend, kMlpOutput, inner.view()).view(), hidden);
}

std::vector<std::string> DecoderBlock::tensor_names(const BlockConfig& block) {
  std::vector<std::string> names;
  for (const LinearTensors& linear : linears_of(block)) {
    names.push_back(linear.name + ".weight");
    if (linear.bias) names.push_back(linear.name + ".bias");
  }
  const auto add_norm = [&](const NormTensors& norm) {
    if (!norm.gain.empty()) names.push_back(norm.gain);
    if (!norm.bias.empty()) names.push_back(norm.bias);
  };
  add_norm(block.attention_norm);
  add_norm(block.mlp_norm);
  for (const auto* norm :
       {&block.post_attention_norm, &block.post_mlp_norm, &block.query_norm, &block.key_norm}) {
    if (*norm) add_norm(**norm);
  }
  return names;
}

}  // namespace swiftprune
