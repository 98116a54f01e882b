// make_shared_shop() of expert_shop.h. Each rank's shop has the tokens of its windows; what goes in is cut to them, what
// comes out is put together, so that the driver of every rank sees the tokens of all.
#include <algorithm>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/index.h"
#include "swiftprune/pipeline/drivers/expert_shop.h"

namespace swiftprune {
namespace {

class SharedExpertShop final : public ExpertShop {
 public:
  SharedExpertShop(std::unique_ptr<ExpertShop> own, const ExpertRun& run)
      : own_(std::move(own)), ranks_(*run.options.ranks) {
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      std::int64_t count = own_->tokens().count;
      ranks_.broadcast(rank, std::as_writable_bytes(std::span(&count, 1)));
      begins_.push_back(begins_.back() + count);
    }
    expect(begins_.back() == run.windows.num_windows() * run.windows.seqlen &&
               begin_of(ranks_.rank()) == own_->tokens().first,
           "ranks: each has the tokens behind those of the one before");
  }

  Share tokens() const override { return {0, begins_.back()}; }
  void start(std::int64_t layer) override { own_->start(layer); }

  Matrix products(ConstMatrixView weight) override {
    const Matrix own = own_->products(weight);
    Matrix all(begins_.back(), weight.rows);
    std::copy_n(own.data(), own.numel(), all.row(begin_of(ranks_.rank())));
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      const MatrixView rows = all.view().row_block(begin_of(rank), begin_of(rank + 1) - begin_of(rank));
      if (rows.rows > 0)
        ranks_.broadcast(rank, std::as_writable_bytes(std::span(rows.data, at(rows.numel()))));
    }
    return all;
  }

  void sum_dense(const MemberTokens& all, const SizesFn& seen) override {
    std::vector<std::vector<double>> norms(all.members.size()), largest(all.members.size());
    own_->sum_dense(of_rank(all), [&](std::size_t j, std::int64_t, const RowSizes& sizes) {
      norms[j].insert(norms[j].end(), sizes.norms.begin(), sizes.norms.end());
      largest[j].insert(largest[j].end(), sizes.largest.begin(), sizes.largest.end());
    });
    norms = by_member(all, std::move(norms));
    largest = by_member(all, std::move(largest));
    for (std::size_t j = 0; j < norms.size(); ++j) seen(j, 0, {std::move(norms[j]), std::move(largest[j])});
  }

  RowSizes residual_sizes() override {
    const RowSizes own = own_->residual_sizes();
    return {by_token(own.norms), by_token(own.largest)};
  }

  void set_token_weights(std::span<const double> weights) override {
    own_->set_token_weights(weights.subspan(at(begin_of(ranks_.rank())), at(own_->tokens().count)));
  }

  RowSquares start_changes(const MemberTokens& now, bool of_tokens) override {
    return of_all(own_->start_changes(of_rank(now), of_tokens), of_tokens);
  }

  std::vector<std::vector<double>> changes(const MemberTokens& now,
                                           std::span<const std::vector<OutputChange>> changes) override {
    std::vector<std::vector<OutputChange>> own;
    for (std::size_t j = 0; j < changes.size(); ++j) {
      const Share mine = places(now.tokens[j], ranks_.rank());
      own.emplace_back(changes[j].begin() + mine.first, changes[j].begin() + mine.first + mine.count);
    }
    return by_member(now, own_->changes(of_rank(now), own));
  }

  void sum(const MemberTokens& kept) override { own_->sum(of_rank(kept)); }
  RowSquares errors() override { return of_all(own_->errors(), true); }
  Matrix refit(const MemberTokens& kept, std::size_t member) override {
    return own_->refit(of_rank(kept, member), 0);
  }
  void use_down(const MemberTokens& kept, std::size_t member, ConstMatrixView down) override {
    own_->use_down(of_rank(kept, member), 0, down);
  }
  Matrix lacking_by_member(const MemberTokens& kept) override {
    return own_->lacking_by_member(of_rank(kept));
  }
  void add_biases(const MemberTokens& kept, ConstMatrixView changes) override {
    own_->add_biases(of_rank(kept), changes);
  }
  void finish_layer() override { own_->finish_layer(); }
  Matrix inner_moments(const MemberTokens& all, std::size_t member) override {
    return own_->inner_moments(of_rank(all, member), 0);
  }
  void start_narrow() override { own_->start_narrow(); }
  void add_narrow(const MemberTokens& all, std::size_t member, std::span<const std::int64_t> kept,
                  ConstMatrixView down) override {
    own_->add_narrow(of_rank(all, member), 0, kept, down);
  }

 private:
  std::int64_t begin_of(int rank) const { return begins_[static_cast<std::size_t>(rank)]; }

  // Which of a member's tokens are the rank's.
  Share places(const ExpertTokens& tokens, int rank) const {
    const auto place = [&](std::int64_t row) {
      return std::lower_bound(tokens.rows.begin(), tokens.rows.end(), row) - tokens.rows.begin();
    };
    return {place(begin_of(rank)), place(begin_of(rank + 1)) - place(begin_of(rank))};
  }

  ExpertTokens of_rank(const ExpertTokens& tokens) const {
    const Share mine = places(tokens, ranks_.rank());
    ExpertTokens own = part_of(tokens, mine.first, mine.count);
    for (std::int64_t& row : own.rows) row -= begin_of(ranks_.rank());
    return own;
  }
  MemberTokens of_rank(const MemberTokens& all) const {
    MemberTokens own{all.members, {}, {}};
    for (const ExpertTokens& tokens : all.tokens) own.tokens.push_back(of_rank(tokens));
    const auto first = all.next.begin() + begin_of(ranks_.rank());
    own.next.assign(first, first + own_->tokens().count);
    return own;
  }
  // One member alone.
  MemberTokens of_rank(const MemberTokens& all, std::size_t member) const {
    return {{all.members[member]}, {of_rank(all.tokens[member])}, {}};
  }

  // [N] of each rank's tokens -> of all.
  std::vector<double> by_token(const std::vector<double>& own) const {
    std::vector<double> all(at(begins_.back()));
    std::copy(own.begin(), own.end(), all.begin() + begin_of(ranks_.rank()));
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      const auto count = at(begin_of(rank + 1) - begin_of(rank));
      ranks_.broadcast(rank, std::as_writable_bytes(std::span(all).subspan(at(begin_of(rank)), count)));
    }
    return all;
  }
  RowSquares of_all(const RowSquares& own, bool of_tokens) const {
    return of_tokens ? RowSquares{by_token(own.squares), by_token(own.products)} : RowSquares{};
  }

  // A number for each of the members' tokens, of each rank's -> of all.
  std::vector<std::vector<double>> by_member(const MemberTokens& all,
                                             const std::vector<std::vector<double>>& own) const {
    std::vector<std::vector<double>> result(own.size());
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      std::vector<double> numbers;
      if (rank == ranks_.rank()) {
        for (const std::vector<double>& of_member : own)
          numbers.insert(numbers.end(), of_member.begin(), of_member.end());
      } else {
        std::int64_t count = 0;
        for (const ExpertTokens& tokens : all.tokens) count += places(tokens, rank).count;
        numbers.resize(at(count));
      }
      ranks_.broadcast(rank, std::as_writable_bytes(std::span(numbers)));
      auto first = numbers.begin();
      for (std::size_t j = 0; j < result.size(); ++j) {
        const std::int64_t count = places(all.tokens[j], rank).count;
        result[j].insert(result[j].end(), first, first + count);
        first += count;
      }
    }
    return result;
  }

  std::unique_ptr<ExpertShop> own_;
  Communicator& ranks_;
  std::vector<std::int64_t> begins_ = {0};  // the first token of each rank, and the end of all
};

}  // namespace

std::unique_ptr<ExpertShop> make_shared_shop(const ExpertShopMaker& make_shop, const ExpertRun& run) {
  std::unique_ptr<ExpertShop> own = make_shop(run);
  if (run.options.ranks->size() == 1) return own;
  return std::make_unique<SharedExpertShop>(std::move(own), run);
}

}  // namespace swiftprune
