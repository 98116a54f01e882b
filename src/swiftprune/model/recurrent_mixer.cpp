#include "swiftprune/model/recurrent_mixer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

template <class Body>
void for_rows(std::int64_t rows, const Body& body) {
  parallel_for(rows, kRowsATask, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t n = first; n < last; ++n) body(n);
  });
}

double softplus(double x) { return x > 0.0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

// Each run of `size` elements of a row becomes one of length `length`.
void scale_to_length(std::int64_t size, float length, MatrixView x) {
  for_rows(x.rows, [&](std::int64_t n) {
    for (float* head = x.row(n); head < x.row(n) + x.cols; head += size) {
      double sum = 0.0;
      for (std::int64_t i = 0; i < size; ++i) sum += double{head[i]} * double{head[i]};
      const auto factor = static_cast<float>(double{length} / std::sqrt(sum + double{kMixerLengthEps}));
      for (std::int64_t i = 0; i < size; ++i) head[i] *= factor;
    }
  });
}

// What the linears of a gated DeltaNet give, in one order: mixed [N, q | k | v], z [N, H·V], b and a [N, H].
struct DeltaInputs {
  Matrix storage[4];
  MatrixView mixed, z, b, a;
};

DeltaInputs delta_inputs(const GatedDeltaNet& m, std::span<const MatrixView> projected) {
  DeltaInputs in;
  if (!m.grouped) {
    expect(projected.size() == 4, "gated DeltaNet: four projections");
    in.mixed = projected[0];
    in.z = projected[1];
    in.b = projected[2];
    in.a = projected[3];
    return in;
  }
  expect(projected.size() == 2, "gated DeltaNet: two projections");
  const std::int64_t rows = projected[0].rows, group = m.value_heads / m.key_heads;
  const std::int64_t keys = m.key_heads * m.key_size, values = group * m.value_size;
  const std::int64_t sizes[] = {2 * keys + m.value_heads * m.value_size, m.value_heads * m.value_size,
                                m.value_heads, m.value_heads};
  MatrixView* views[] = {&in.mixed, &in.z, &in.b, &in.a};
  for (std::size_t i = 0; i < 4; ++i) {
    in.storage[i] = Matrix(rows, sizes[i]);
    *views[i] = in.storage[i].view();
  }
  for_rows(rows, [&](std::int64_t n) {
    for (std::int64_t h = 0; h < m.key_heads; ++h) {
      const float* from = projected[0].row(n) + h * 2 * (m.key_size + values);
      std::copy_n(from, m.key_size, in.mixed.row(n) + h * m.key_size);
      std::copy_n(from + m.key_size, m.key_size, in.mixed.row(n) + keys + h * m.key_size);
      std::copy_n(from + 2 * m.key_size, values, in.mixed.row(n) + 2 * keys + h * values);
      std::copy_n(from + 2 * m.key_size + values, values, in.z.row(n) + h * values);
      const float* gates = projected[1].row(n) + h * 2 * group;
      std::copy_n(gates, group, in.b.row(n) + h * group);
      std::copy_n(gates + group, group, in.a.row(n) + h * group);
    }
  });
  return in;
}

// The parts that one projection gives of a Mamba-2, each times its scale.
void scale_parts(const Mamba2& m, MatrixView x) {
  const std::int64_t size = m.heads * m.head_size, shared = m.groups * m.state_size;
  const std::int64_t sizes[] = {size, size, shared, shared, m.heads};
  std::int64_t first = 0;
  for (std::size_t part = 0; part < m.scales.size(); ++part) {
    const float scale = m.scales[part];
    const MatrixView of_part = x.col_block(first, sizes[part]);
    first += sizes[part];
    if (scale == 1.0f) continue;
    for_rows(x.rows, [&](std::int64_t n) {
      for (float& value : of_part.row_span(n)) value *= scale;
    });
  }
}

Matrix state_of(std::int64_t heads, std::int64_t keys, std::int64_t values) {
  return Matrix::zeros(heads * keys, values);
}

}  // namespace

std::vector<MixerTensor> tensors_of(RecurrentMixer& mixer) {
  TimeConvolution& convolution = convolution_of(mixer);
  std::vector<MixerTensor> tensors = {{&convolution.weight, {convolution.channels, 1, convolution.taps}}};
  const auto add = [&](std::string& name, std::int64_t size) {
    if (!name.empty()) tensors.push_back({&name, {size}});
  };
  add(convolution.bias, convolution.channels);
  if (auto* delta = std::get_if<GatedDeltaNet>(&mixer)) {
    add(delta->decay, delta->value_heads);
    add(delta->step_bias, delta->value_heads);
    add(delta->norm, delta->value_size);
  }
  if (auto* mamba = std::get_if<Mamba2>(&mixer)) {
    for (std::string* name : {&mamba->decay, &mamba->step_bias, &mamba->skip}) add(*name, mamba->heads);
    add(mamba->norm, mamba->heads * mamba->head_size);
  }
  return tensors;
}

std::int64_t state_numbers(const RecurrentMixer& mixer) {
  const TimeConvolution& convolution = convolution_of(mixer);
  std::int64_t numbers = (convolution.taps - 1) * convolution.channels;
  if (const auto* m = std::get_if<GatedDeltaNet>(&mixer))
    numbers += m->value_heads * m->key_size * m->value_size;
  if (const auto* m = std::get_if<Mamba2>(&mixer)) numbers += m->heads * m->state_size * m->head_size;
  return numbers;
}

MixerWeights load_mixer(const Checkpoint& checkpoint, const RecurrentMixer& mixer) {
  MixerWeights weights;
  const TimeConvolution& convolution = convolution_of(mixer);
  const std::vector<float> filters = checkpoint.load_tensor(
      convolution.weight, std::array<std::int64_t, 3>{convolution.channels, 1, convolution.taps});
  weights.taps = Matrix(convolution.taps, convolution.channels);
  for (std::int64_t c = 0; c < convolution.channels; ++c) {
    for (std::int64_t j = 0; j < convolution.taps; ++j)
      weights.taps.at(j, c) = filters[at(c * convolution.taps + j)];
  }
  const auto load = [&](const std::string& name, std::int64_t size, std::vector<float>& values) {
    if (!name.empty()) values = checkpoint.load_vector(name, size);
  };
  load(convolution.bias, convolution.channels, weights.bias);
  if (const auto* m = std::get_if<GatedDeltaNet>(&mixer)) {
    load(m->decay, m->value_heads, weights.decay);
    load(m->step_bias, m->value_heads, weights.step_bias);
    load(m->norm, m->value_size, weights.norm);
  }
  if (const auto* m = std::get_if<Mamba2>(&mixer)) {
    load(m->decay, m->heads, weights.decay);
    load(m->step_bias, m->heads, weights.step_bias);
    load(m->skip, m->heads, weights.skip);
    load(m->norm, m->heads * m->head_size, weights.norm);
  }
  return weights;
}

RecurrentBlock::RecurrentBlock(const Checkpoint& checkpoint, const RecurrentMixer& mixer, float eps)
    : mixer_(mixer), eps_(eps), weights_(load_mixer(checkpoint, mixer)) {}

Matrix RecurrentBlock::mix(const Backend& backend, std::span<const MatrixView> projected,
                           RecurrentState& state) const {
  return std::visit([&](const auto& mixer) { return mix(backend, mixer, projected, state); }, mixer_);
}

Matrix RecurrentBlock::convolved(const Backend& backend, ConstMatrixView x, RecurrentState& state) const {
  if (state.past.empty()) state.past = Matrix::zeros(weights_.taps.rows() - 1, weights_.taps.cols());
  Matrix y(x.rows, x.cols);
  backend.causal_convolution(x, weights_.taps.view(), weights_.bias, state.past.view(), y.view());
  return y;
}

Matrix RecurrentBlock::mix(const Backend& backend, const ShortConvolution& m,
                           std::span<const MatrixView> projected, RecurrentState& state) const {
  const MatrixView x = projected.front();
  const std::int64_t size = m.convolution.channels;
  Matrix product(x.rows, size);
  for_rows(x.rows, [&](std::int64_t n) {
    for (std::int64_t i = 0; i < size; ++i) product.at(n, i) = x.at(n, i) * x.at(n, 2 * size + i);
  });
  Matrix y = convolved(backend, product.view(), state);
  for_rows(x.rows, [&](std::int64_t n) {
    for (std::int64_t i = 0; i < size; ++i) y.at(n, i) *= x.at(n, size + i);
  });
  return y;
}

Matrix RecurrentBlock::mix(const Backend& backend, const GatedDeltaNet& m,
                           std::span<const MatrixView> projected, RecurrentState& state) const {
  const DeltaInputs in = delta_inputs(m, projected);
  const std::int64_t rows = in.mixed.rows, keys = m.key_heads * m.key_size;
  Matrix mixed = convolved(backend, in.mixed, state);
  backend.activate(Activation::kSilu, mixed.view());
  const MatrixView q = mixed.view().col_block(0, keys), k = mixed.view().col_block(keys, keys);
  const MatrixView v = mixed.view().col_block(2 * keys, m.value_heads * m.value_size);
  scale_to_length(m.key_size, 1.0f / std::sqrt(static_cast<float>(m.key_size)), q);
  scale_to_length(m.key_size, 1.0f, k);
  Matrix decay(rows, m.value_heads), step(rows, m.value_heads);
  for_rows(rows, [&](std::int64_t n) {
    for (std::int64_t h = 0; h < m.value_heads; ++h) {
      const double rate = std::exp(double{weights_.decay[at(h)]});
      decay.at(n, h) = static_cast<float>(
          std::exp(-rate * softplus(double{in.a.at(n, h)} + double{weights_.step_bias[at(h)]})));
      step.at(n, h) = static_cast<float>(1.0 / (1.0 + std::exp(-double{in.b.at(n, h)})));
    }
  });
  if (state.state.empty()) state.state = state_of(m.value_heads, m.key_size, m.value_size);
  Matrix y(rows, v.cols);
  backend.recurrence(q, k, v, decay.view(), step.view(),
                     {m.value_heads, m.key_heads, m.key_size, m.value_size, true}, state.state.view(),
                     y.view());
  const MatrixView heads{y.data(), rows * m.value_heads, m.value_size, m.value_size};
  backend.rms_norm(heads, weights_.norm, 0.0f, eps_, heads);
  Matrix gate = copy_of(in.z);
  backend.gated_activate(Activation::kSilu, gate.view(), y.view());
  return gate;
}

Matrix RecurrentBlock::mix(const Backend& backend, const Mamba2& m, std::span<const MatrixView> projected,
                           RecurrentState& state) const {
  const MatrixView x = projected.front();
  const std::int64_t size = m.heads * m.head_size, shared = m.groups * m.state_size;
  scale_parts(m, x);
  Matrix mixed = convolved(backend, x.col_block(size, size + 2 * shared), state);
  backend.activate(Activation::kSilu, mixed.view());
  const MatrixView v = mixed.view().col_block(0, size);
  const MatrixView dt = x.col_block(2 * size + 2 * shared, m.heads);
  Matrix decay(x.rows, m.heads), step(x.rows, m.heads);
  for_rows(x.rows, [&](std::int64_t n) {
    for (std::int64_t h = 0; h < m.heads; ++h) {
      const double time =
          std::max(double{m.least_step}, softplus(double{dt.at(n, h)} + double{weights_.step_bias[at(h)]}));
      decay.at(n, h) = static_cast<float>(std::exp(-std::exp(double{weights_.decay[at(h)]}) * time));
      step.at(n, h) = static_cast<float>(time);
    }
  });
  if (state.state.empty()) state.state = state_of(m.heads, m.state_size, m.head_size);
  Matrix y(x.rows, size);
  backend.recurrence(mixed.view().col_block(size + shared, shared), mixed.view().col_block(size, shared), v,
                     decay.view(), step.view(), {m.heads, m.groups, m.state_size, m.head_size, false},
                     state.state.view(), y.view());
  for_rows(x.rows, [&](std::int64_t n) {
    for (std::int64_t i = 0; i < size; ++i) y.at(n, i) += weights_.skip[at(i / m.head_size)] * v.at(n, i);
  });
  const auto norm = [&](MatrixView rows) {
    const std::int64_t part = size / m.groups;
    for (std::int64_t g = 0; g < m.groups && !weights_.norm.empty(); ++g) {
      const MatrixView of_group = rows.col_block(g * part, part);
      backend.rms_norm(of_group, std::span(weights_.norm).subspan(at(g * part), at(part)), 0.0f, eps_,
                       of_group);
    }
  };
  if (m.norm_before_gate) norm(y.view());
  Matrix gated = copy_of(x.col_block(0, size));
  backend.gated_activate(Activation::kSilu, gated.view(), y.view());
  if (!m.norm_before_gate) norm(gated.view());
  return gated;
}

}  // namespace swiftprune
