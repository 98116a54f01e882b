#include "swiftprune/model/experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

// Experts of a block that stay in memory as float while its windows pass.
constexpr std::int64_t kResidentBytes = std::int64_t{256} << 20;

void clamped_swiglu(const ClampedSwiglu& c, MatrixView gate, ConstMatrixView up) {
  parallel_for(gate.rows, kRowsATask, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t n = first; n < last; ++n) {
      for (std::int64_t i = 0; i < gate.cols; ++i) {
        const float g = std::min(gate.at(n, i), c.limit);
        const float u = std::clamp(up.at(n, i), -c.limit, c.limit);
        gate.at(n, i) = (u + 1.0f) * g / (1.0f + std::exp(-c.alpha * g));
      }
    }
  });
}

std::int64_t bytes_of(const BlockLinear& linear) {
  return linear.compact ? linear.compact->num_bytes()
                        : linear.weight.numel() * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace

Expert::Expert(const ExpertTensors& tensors, const ModelConfig& model, const ExpertsConfig& experts,
               std::int64_t index, WeightUse use)
    : activation_(model.activation),
      clamped_(experts.clamped),
      gated_(experts.gated),
      gate_(gated_ ? tensors.load(index, ExpertPart::kGate, use) : BlockLinear{}),
      up_(tensors.load(index, ExpertPart::kUp, use)),
      down_(tensors.load(index, ExpertPart::kDown, use)) {}

void Expert::pack(const Backend& backend, ComputeType compute) {
  compute_ = compute;
  for (BlockLinear* linear : {&gate_, &up_, &down_}) {
    if (linear == &gate_ && !gated_) continue;
    if (!linear->compact) linear->packed = backend.pack(linear->weight.view(), compute);
  }
}

Matrix Expert::inner(const Backend& backend, ConstMatrixView x) const {
  if (!gated_) {
    Matrix up = run_linear(up_, backend, x, compute_);
    backend.activate(activation_, up.view());
    return up;
  }
  Matrix gate = run_linear(gate_, backend, x, compute_);
  const Matrix up = run_linear(up_, backend, x, compute_);
  if (clamped_) {
    clamped_swiglu(*clamped_, gate.view(), up.view());
  } else {
    backend.gated_activate(activation_, gate.view(), up.view());
  }
  return gate;
}

Matrix Expert::project(const Backend& backend, ConstMatrixView inner) const {
  return run_linear(down_, backend, inner, compute_);
}

std::int64_t Expert::num_bytes() const { return bytes_of(gate_) + bytes_of(up_) + bytes_of(down_); }

std::vector<ExpertTokens> tokens_by_expert(const Routing& routing, std::int64_t num_experts) {
  std::vector<ExpertTokens> tokens(static_cast<std::size_t>(num_experts));
  for (std::int64_t t = 0; t < routing.num_tokens(); ++t) {
    for (std::size_t i = 0; i < static_cast<std::size_t>(routing.top_k); ++i) {
      ExpertTokens& of = tokens[static_cast<std::size_t>(routing.experts_of(t)[i])];
      of.rows.push_back(t);
      of.gates.push_back(routing.gates_of(t)[i]);
    }
  }
  return tokens;
}

double routing_entropy(std::span<const std::int64_t> tokens) {
  const auto total = static_cast<double>(std::accumulate(tokens.begin(), tokens.end(), std::int64_t{0}));
  if (total == 0.0 || tokens.size() < 2) return 0.0;
  double entropy = 0.0;
  for (const std::int64_t count : tokens) {
    const double share = static_cast<double>(count) / total;
    if (share > 0.0) entropy -= share * std::log(share);
  }
  return entropy / std::log(static_cast<double>(tokens.size()));
}

ExpertTokens part_of(const ExpertTokens& tokens, std::int64_t first, std::int64_t count) {
  const auto rows =
      std::span(tokens.rows).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
  const auto gates =
      std::span(tokens.gates).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
  return {{rows.begin(), rows.end()}, {gates.begin(), gates.end()}};
}

Matrix gather_rows(ConstMatrixView x, std::span<const std::int64_t> rows) {
  Matrix result(std::ssize(rows), x.cols);
  parallel_for(std::ssize(rows), kRowsATask, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i)
      std::copy_n(x.row(rows[static_cast<std::size_t>(i)]), x.cols, result.row(i));
  });
  return result;
}

void add_rows(ConstMatrixView values, const ExpertTokens& tokens, MatrixView y) {
  parallel_for(values.rows, kRowsATask, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const float gate = tokens.gates[static_cast<std::size_t>(i)];
      const float* from = values.row(i);
      float* to = y.row(tokens.rows[static_cast<std::size_t>(i)]);
      for (std::int64_t c = 0; c < y.cols; ++c) to[c] += gate * from[c];
    }
  });
}

Experts::Experts(const Checkpoint& checkpoint, const ModelConfig& model, const ExpertsConfig& experts,
                 WeightUse use)
    : model_(model),
      experts_(experts),
      use_(use),
      router_(checkpoint, experts, model.hidden_size),
      tensors_(checkpoint, experts, model.hidden_size) {
  const std::int64_t as_float = experts.count * std::ssize(parts_of(experts)) * experts.width *
                                model.hidden_size * static_cast<std::int64_t>(sizeof(float));
  if (use == WeightUse::kFloat && as_float > kResidentBytes) return;
  for (std::int64_t e = 0; e < experts.count; ++e) {
    resident_.push_back(load(e));
    tensors_.release(e);
  }
}

void Experts::pack(const Backend& backend, ComputeType compute) {
  compute_ = compute;
  for (Expert& expert : resident_) expert.pack(backend, compute);
}

void Experts::use(const Backend& backend, std::int64_t expert,
                  const std::function<void(const Expert&)>& body) const {
  if (!resident_.empty()) return body(resident_[static_cast<std::size_t>(expert)]);
  Expert loaded = load(expert);
  loaded.pack(backend, compute_);
  body(loaded);
}

void Experts::add_outputs(const Backend& backend, ConstMatrixView x, MatrixView y) const {
  const Matrix scores = router_.scores(backend, x);
  const std::vector<ExpertTokens> tokens = tokens_by_expert(router_.route(scores.view()), count());
  for (std::int64_t e = 0; e < count(); ++e) {
    const ExpertTokens& of = tokens[static_cast<std::size_t>(e)];
    if (of.rows.empty()) continue;
    use(backend, e, [&](const Expert& expert) {
      const Matrix inner = expert.inner(backend, gather_rows(x, of.rows).view());
      add_rows(expert.project(backend, inner.view()).view(), of, y);
    });
  }
}

std::int64_t Experts::bytes_for(std::int64_t tokens) const {
  if (resident_.empty()) return 0;
  std::vector<std::int64_t> sizes;
  for (const Expert& expert : resident_) sizes.push_back(expert.num_bytes());
  std::sort(sizes.rbegin(), sizes.rend());
  const std::int64_t used = std::min(count(), tokens * experts_.router.top_k);
  std::int64_t sum = router_.num_experts() * model_.hidden_size * static_cast<std::int64_t>(sizeof(float));
  for (std::int64_t i = 0; i < used; ++i) sum += sizes[static_cast<std::size_t>(i)];
  return sum;
}

}  // namespace swiftprune
