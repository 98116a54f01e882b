#include "swiftprune/model/decoder_block.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/error.h"

namespace swiftprune {

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

Matrix DecoderBlock::linear(const Backend& backend, std::size_t index, ConstMatrixView x) const {
  return run_linear(linears_[index], backend, x, compute_);
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

}  // namespace swiftprune
