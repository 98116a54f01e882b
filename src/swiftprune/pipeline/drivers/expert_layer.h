// One layer with experts in a device's shop (expert_shop.h): where its tokens go, what scores read of its experts, and what
// the removal of each changes.
#pragma once

#include <cstdint>
#include <vector>

#include "swiftprune/pipeline/drivers/expert_shop.h"

namespace swiftprune {

class ExpertLayer {
 public:
  // The shop has started the layer.
  ExpertLayer(ExpertShop& shop, const Router& router);

  RoutedExperts route(std::vector<std::int64_t> members) const;
  // All that scores read of the dense layer but the changes. Tokens count by 1/|hidden state behind it|², as the next
  // norm divides by it.
  ExpertEvidence observe(const RoutedExperts& all, std::int64_t layer);
  // What each member's removal changes of the outputs, beside the dense layer's: [members]
  //   Σ_t w_t (|y' − y_dense|² − |y − y_dense|²),
  // y the members' outputs, y' the same without the one and with the router's next choice in its place.
  std::vector<double> changes(const RoutedExperts& now);
  // What is to be added to the members' output biases [members, hidden]: fit_expert_biases() of what y lacks of y_dense.
  // Of members with false in `fitted`: zeros.
  Matrix bias_changes(const RoutedExperts& now, const std::vector<bool>& fitted, double damping);
  // |y − y_dense|² of tokens by their weights, of |y_dense|².
  double relative_error();

 private:
  void add_changes_of_others(const RoutedExperts& now, const RowSquares& of,
                             std::vector<double>& result) const;

  ExpertShop& shop_;
  const Router& router_;
  const std::int64_t hidden_size_;
  const Matrix products_;        // [N, E] x Wᵀ of the router's weight
  std::vector<double> weights_;  // [N] of tokens
};

}  // namespace swiftprune
