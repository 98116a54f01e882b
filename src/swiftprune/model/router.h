// Which experts each token uses, and with which weights: every kind of router that RouterConfig can say.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/model/model_config.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

// The experts of N tokens, by falling rank, and the weights g of their outputs.
struct Routing {
  std::int64_t top_k = 0;
  std::vector<std::int32_t> experts;  // [N, top_k]
  std::vector<float> gates;           // [N, top_k]

  std::int64_t num_tokens() const { return top_k == 0 ? 0 : std::ssize(experts) / top_k; }
  std::span<const std::int32_t> experts_of(std::int64_t token) const {
    return std::span(experts).subspan(static_cast<std::size_t>(token * top_k),
                                      static_cast<std::size_t>(top_k));
  }
  std::span<const float> gates_of(std::int64_t token) const {
    return std::span(gates).subspan(static_cast<std::size_t>(token * top_k), static_cast<std::size_t>(top_k));
  }
};

class Router {
 public:
  // Throws Error{kBadInput} naming the tensor.
  Router(const Checkpoint& checkpoint, const ExpertsConfig& experts, std::int64_t hidden_size);

  const RouterConfig& config() const { return config_; }
  std::int64_t num_experts() const { return weight_.rows(); }
  // The same router over these experts alone, rising.
  Router with(std::span<const std::int64_t> kept) const;

  ConstMatrixView weight() const { return weight_.view(); }  // [E, hidden]

  // x [N, hidden] -> [N, E] softmax or sigmoid of the logits, without the correction bias.
  Matrix scores(const Backend& backend, ConstMatrixView x) const;
  // The same of x's products with the weight, in place.
  void score(MatrixView products) const;
  // scores [N, E]
  Routing route(ConstMatrixView scores) const;

  // One token's experts by falling rank; ties go to the lower index. How many: the size of `experts`, at least
  // top_k, of which those behind the first top_k are the next best of the chosen groups; -1 where there are no more.
  void choose(std::span<const float> scores, std::span<std::int32_t> experts) const;
  // The weights of these experts of one token.
  void weigh(std::span<const float> scores, std::span<const std::int32_t> experts,
             std::span<float> gates) const;
  // By how much weigh()'s result changes when an expert of this score is no longer there: a softmax over the others is
  // larger; 1 where the weights are renormalised or scores do not depend on each other.
  double rescaled_without(float score) const;
  // What ranks an expert: its score and the correction bias.
  float rank(std::span<const float> scores, std::int64_t expert) const {
    const auto e = static_cast<std::size_t>(expert);
    return scores[e] + (correction_.empty() ? 0.0f : correction_[e]);
  }

 private:
  Router() = default;
  std::vector<bool> chosen_groups(std::span<const float> scores) const;

  RouterConfig config_;
  Matrix weight_;  // [E, hidden]
  std::vector<float> bias_, correction_;
};

// Why there can be no such router over that many experts: more chosen than there are, groups that do not divide them,
// fewer in the chosen groups than are to be chosen. Nothing when there can.
std::optional<std::string> router_problem(const RouterConfig& router, std::int64_t num_experts);

}  // namespace swiftprune
