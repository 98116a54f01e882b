// Where the experts of one layer after another are looked at and refitted: the mechanism behind the decisions of
// remove_experts.h. The processor has one (cpu_expert_shop.cpp), a GPU another (cuda/pipeline/expert_shop.cpp). Numbers
// come back to the host, one or a few a token; who stays and what counts how much is decided there.
//
// Order for each layer with experts: start(), products(), sum_dense(), residual_sizes(), set_token_weights(); then, where
// the score asks for it, rounds of start_changes() and changes(); then sum(), errors(), refit() of each member,
// lacking_by_member() and add_biases(); then finish_layer(). Of a layer that an earlier run finished: start(), products(),
// sum(), use_down(), add_biases(), finish_layer().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "swiftprune/model/experts.h"
#include "swiftprune/pipeline/drivers/remove_experts.h"
#include "swiftprune/ranks/communicator.h"

namespace swiftprune {

// What is known of a run before its first layer.
struct ExpertRun {
  const Model& model;
  const TokenWindows& windows;  // of all ranks; a shop has its own alone
  const RemoveExpertsOptions& options;
  ShrinkSeconds& seconds;  // the shop adds what loading took
};

// The experts in hand and their tokens.
struct MemberTokens {
  std::vector<std::int64_t> members;  // of the layer's experts, rising
  std::vector<ExpertTokens> tokens;   // of each member
  std::vector<std::int32_t> next;     // [N] the best member that was not chosen; -1: none
};

// The weights of the members' outputs in these tokens' sums: [count, members], zeros where a token does not use one.
Matrix gates_of(const MemberTokens& sent, const Share& tokens);

// The same with the router that sends them there.
struct RoutedExperts : MemberTokens {
  Router router;
  Matrix scores;    // [N, members]
  Routing routing;  // by member
};

// The tokens that each member would be chosen for next.
std::vector<std::vector<std::int64_t>> tokens_by_next(const MemberTokens& sent);

// What a member's removal changes of one of its tokens' outputs: y' − y = of_y·y + of_f·f + of_next·f_next, with f the
// member's own output and f_next that of RoutedExperts::next.
struct OutputChange {
  double of_y = 0.0, of_f = 0.0, of_next = 0.0;
};

// Of rows, one number each.
struct RowSizes {
  std::vector<double> norms;    // √Σ x²
  std::vector<double> largest;  // max |x|
};
struct RowSquares {
  std::vector<double> squares, products;
};

class ExpertShop {
 public:
  virtual ~ExpertShop() = default;

  // Which of the run's tokens it has, all of whose windows are a rank's: all other calls are about those, counted from the
  // first of them. What is summed over tokens in refit() and inner_moments() is summed over all ranks' (add_in_order()).
  virtual Share tokens() const = 0;

  // The layer's block comes into hand; without experts the hidden states pass it. With: they become those behind the
  // attention and the shared expert, and the experts' inputs x stand.
  virtual void start(std::int64_t layer) = 0;
  // x Wᵀ [N, E] of the router's weight W [E, hidden].
  virtual Matrix products(ConstMatrixView weight) = 0;

  // y_dense = Σ g_j f_j(x) of all experts. seen(j, first, sizes): f of member j's tokens from `first` on.
  using SizesFn = std::function<void(std::size_t member, std::int64_t first, const RowSizes& sizes)>;
  virtual void sum_dense(const MemberTokens& all, const SizesFn& seen) = 0;
  // Of the hidden states with y_dense, [N] each.
  virtual RowSizes residual_sizes() = 0;
  // [N] by which tokens count in refit().
  virtual void set_token_weights(std::span<const double> weights) = 0;

  // y = Σ g_j f_j(x), and the outputs of MemberTokens::next. of_tokens: also Σ y² and Σ y·(y − y_dense), [N] each.
  virtual RowSquares start_changes(const MemberTokens& now, bool of_tokens) = 0;
  // |y' − y_dense|² − |y − y_dense|² of each member's tokens; changes: of each member's tokens, too.
  virtual std::vector<std::vector<double>> changes(const MemberTokens& now,
                                                   std::span<const std::vector<OutputChange>> changes) = 0;

  // y = Σ g_j f_j(x)
  virtual void sum(const MemberTokens& kept) = 0;
  // [N] squares |y_dense|² and products |y − y_dense|².
  virtual RowSquares errors() = 0;
  // The member's down projection [hidden, width], refitted on what y lacks of y_dense and rounded to the file's dtype;
  // y follows. damping: relative to the Gram matrix's mean diagonal.
  virtual Matrix refit(const MemberTokens& kept, std::size_t member) = 0;
  // The same with a down projection that is known already, of the file's dtype: y follows as it did in refit().
  virtual void use_down(const MemberTokens& kept, std::size_t member, ConstMatrixView down) = 0;
  // Σ_t w_t·g_tj·(y_dense − y)_t [members, hidden], w the tokens' weights and g_tj that of member j's output; of all ranks'
  // tokens.
  virtual Matrix lacking_by_member(const MemberTokens& kept) = 0;
  // y += g_j·changes_j, of each member's row.
  virtual void add_biases(const MemberTokens& kept, ConstMatrixView changes) = 0;
  // The hidden states become those behind the layer.
  virtual void finish_layer() = 0;

  // Of narrow_experts.h, in place of what comes between set_token_weights() and errors(); the default is that of a device
  // that narrows none. Σ z zᵀ [width, width] of the member's tokens, z the inner values by gate and token's weight.
  virtual Matrix inner_moments(const MemberTokens& all, std::size_t member);
  // y = 0; then y += g_j·f_j'(x), f' with these channels alone and the down projection [hidden, kept].
  virtual void start_narrow();
  virtual void add_narrow(const MemberTokens& all, std::size_t member, std::span<const std::int64_t> kept,
                          ConstMatrixView down);
};

// Makes the shop of a device for one run. What `run` refers to outlives it.
ExpertShopMaker cpu_expert_shop(const Backend& backend);
// The tokens of all ranks, each of which has a shop for its own: what is decided by them is decided by every rank alike.
// run.options.ranks: which they are; one has its shop as it is.
std::unique_ptr<ExpertShop> make_shared_shop(const ExpertShopMaker& make_shop, const ExpertRun& run);

}  // namespace swiftprune
