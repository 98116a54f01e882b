// The experts of a block: tokens are grouped by the experts that the router chose for them, and an expert without
// tokens is not touched. Experts that are few bytes, and those that generate, stay in memory; else they are
// converted from the mapped file one by one as they are used, so that a layer may be larger than memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/model/expert_tensors.h"
#include "swiftprune/model/router.h"

namespace swiftprune {

// One expert, ready to run: f(x) = down(act(gate x)·up x), or down(act(up x)) where there are no gates.
class Expert {
 public:
  Expert(const ExpertTensors& tensors, const ModelConfig& model, const ExpertsConfig& experts,
         std::int64_t index, WeightUse use);
  void pack(const Backend& backend, ComputeType compute);

  Matrix inner(const Backend& backend, ConstMatrixView x) const;        // [n, hidden] -> [n, I]
  Matrix project(const Backend& backend, ConstMatrixView inner) const;  // [n, I] -> [n, hidden]
  // After a change of weights call pack() again.
  BlockLinear& linear(ExpertPart part) {
    return part == ExpertPart::kGate ? gate_ : part == ExpertPart::kUp ? up_ : down_;
  }
  std::int64_t num_bytes() const;
  std::int64_t width() const { return down_.tensors.inputs; }  // I

 private:
  Activation activation_;
  std::optional<ClampedSwiglu> clamped_;
  bool gated_;
  BlockLinear gate_, up_, down_;  // gate_: where gated
  ComputeType compute_ = ComputeType::kF32;
};

// The tokens of each expert: rows of x, rising, and their weights.
struct ExpertTokens {
  std::vector<std::int64_t> rows;
  std::vector<float> gates;
};
std::vector<ExpertTokens> tokens_by_expert(const Routing& routing, std::int64_t num_experts);
// Entropy of the tokens' distribution over the experts, of log E: 1 when all are used alike.
double routing_entropy(std::span<const std::int64_t> tokens);
// Tokens [first, first + count) of them.
ExpertTokens part_of(const ExpertTokens& tokens, std::int64_t first, std::int64_t count);
// x's rows, one after the other.
Matrix gather_rows(ConstMatrixView x, std::span<const std::int64_t> rows);
// y's rows += gate · values' rows
void add_rows(ConstMatrixView values, const ExpertTokens& tokens, MatrixView y);

class Experts {
 public:
  // Throws Error{kBadInput} naming the tensor. checkpoint, model and experts must outlive this.
  Experts(const Checkpoint& checkpoint, const ModelConfig& model, const ExpertsConfig& experts,
          WeightUse use);

  void pack(const Backend& backend, ComputeType compute);
  const Router& router() const { return router_; }
  const ExpertTensors& tensors() const { return tensors_; }
  std::int64_t count() const { return experts_.count; }

  // y [N, hidden] += Σ_j g_j·f_j(x), x [N, hidden]
  void add_outputs(const Backend& backend, ConstMatrixView x, MatrixView y) const;
  // The expert's weights as float, from the file.
  Expert load_float(std::int64_t expert) const {
    return Expert(tensors_, model_, experts_, expert, WeightUse::kFloat);
  }
  // The expert for one use; from memory where it stays there.
  void use(const Backend& backend, std::int64_t expert, const std::function<void(const Expert&)>& body) const;
  // Bytes of weights that `tokens` tokens read at most.
  std::int64_t bytes_for(std::int64_t tokens) const;

 private:
  Expert load(std::int64_t index) const { return Expert(tensors_, model_, experts_, index, use_); }

  const ModelConfig& model_;
  const ExpertsConfig& experts_;
  WeightUse use_;
  Router router_;
  ExpertTensors tensors_;
  std::vector<Expert> resident_;  // all of them, or none
  ComputeType compute_ = ComputeType::kF32;
};

}  // namespace swiftprune
