#include "swiftprune/calibration/activation_stats.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/tensor/reorder.h"

namespace swiftprune {

namespace {

constexpr std::int64_t kColumnChunk = 128;  // columns whose sums one task holds

// [T, K]: (a_t - b_t)·√weights_t; no b: a_t·√weights_t.
Matrix weighted_difference(ConstMatrixView a, const ConstMatrixView* b, std::span<const float> roots) {
  Matrix result(a.rows, a.cols);
  parallel_for(a.rows, 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      const float root = roots.empty() ? 1.0f : roots[static_cast<std::size_t>(t)];
      const float* from = a.row(t);
      const float* less = b != nullptr ? b->row(t) : nullptr;
      float* to = result.row(t);
      for (std::int64_t k = 0; k < a.cols; ++k)
        to[k] = root * (less != nullptr ? from[k] - less[k] : from[k]);
    }
  });
  return result;
}

// x, or its weighted copy in `storage`.
ConstMatrixView weighted(ConstMatrixView x, std::span<const float> roots, Matrix& storage) {
  if (roots.empty()) return x;
  storage = weighted_difference(x, nullptr, roots);
  return std::as_const(storage).view();
}

// Rows of a matrix that pass from rank to rank at a time: whole tiles, and about eight parts, for the ranks wait for
// the first of them and at the end for the last.
std::int64_t rows_that_pass(std::int64_t rows, std::int64_t tile) {
  constexpr std::int64_t kParts = 8;
  return tile * std::max<std::int64_t>(1, ceil_div(rows, tile) / kParts);
}

void copy_rows(ConstMatrixView from, MatrixView to) {
  for (std::int64_t r = 0; r < from.rows; ++r) std::copy_n(from.row(r), from.cols, to.row(r));
}

}  // namespace

double ewma_window_weight(std::int64_t window) {
  return std::max(1.0 / 8.0, 1.0 / static_cast<double>(window + 1));
}

ActivationStats::ActivationStats(std::int64_t num_inputs, const StatNeeds& needs, std::int64_t residual_size,
                                 ComputeType compute, bool waits)
    : needs_(needs), compute_(compute), waits_(waits), energy_(static_cast<std::size_t>(num_inputs), 0.0) {
  if (needs.ewma_energy) ewma_energy_.assign(energy_.size(), 0.0);
  if (needs.sum) sum_.assign(energy_.size(), 0.0);
  if (needs.gram) gram_ = Matrix::zeros(num_inputs, num_inputs);
  if (needs.alignment) cross_ = Matrix::zeros(num_inputs, num_inputs);
  if (needs.alignment && residual_size > 0) residual_ = Matrix::zeros(residual_size, num_inputs);
}

void ActivationStats::add_window(const Backend& backend, const AlignedWindow& window) {
  expect(window.dense_x.rows == window.x.rows && window.dense_x.cols == window.x.cols,
         "add_window: the dense inputs of the same tokens");
  if (window.x.rows == 0) return add_window(backend, window.x);
  std::vector<float> roots(window.weights.begin(), window.weights.end());
  for (float& root : roots) root = std::sqrt(root);
  Matrix storage, dense_storage, error;
  Inputs inputs;
  inputs.x = inputs.for_gram = weighted(window.x, roots, storage);
  if (!cross_.empty()) inputs.dense = weighted(window.dense_x, roots, dense_storage);
  if (!residual_.empty()) {
    error = weighted_difference(window.dense_residual, &window.residual, roots);
    inputs.residual_error = std::as_const(error).view();
  }
  add(backend, inputs);
}

void ActivationStats::add_window(const Backend& backend, ConstMatrixView x, ConstMatrixView for_gram) {
  add(backend, {.x = x, .for_gram = for_gram.data == nullptr ? x : for_gram});
}

void ActivationStats::add(const Backend& backend, const Inputs& inputs) {
  const ConstMatrixView x = inputs.x;
  std::vector<double> window_energy(energy_.size(), 0.0);
  if (x.rows > 0) backend.add_energy(x, window_energy);
  const bool first = num_windows_ == 0 && waiting_.empty();
  if (needs_.sample && first) sample_ = copy_of(x.row_block(0, std::min(x.rows, kSampledTokens)));
  if (waits_) {
    WaitingWindow& window = waiting_.emplace_back();
    window.tokens = x.rows;
    window.energy = std::move(window_energy);
    if (x.rows == 0) return;
    if (needs_.sum) window.x = copy_of(x);
    if (needs_.gram || needs_.alignment) window.for_gram = backend.moment_operand(inputs.for_gram, compute_);
    // The cross moments are of x, which is what the Gram matrix counts wherever there is a dense stream.
    if (inputs.dense.data != nullptr) window.dense = backend.moment_operand(inputs.dense, compute_);
    if (inputs.residual_error.data != nullptr)
      window.residual_error = backend.moment_operand(inputs.residual_error, compute_);
    return;
  }
  add_sums(x.rows, window_energy, x);
  if (needs_.gram && x.rows > 0) backend.add_gram(inputs.for_gram, gram_.view(), compute_);
  if (inputs.dense.data != nullptr) backend.add_cross(inputs.dense, x, cross_.view(), compute_);
  if (inputs.residual_error.data != nullptr)
    backend.add_cross(inputs.residual_error, x, residual_.view(), compute_);
}

void ActivationStats::add_sums(std::int64_t tokens, std::span<const double> window_energy,
                               ConstMatrixView x) {
  for (std::size_t i = 0; i < energy_.size(); ++i) energy_[i] += window_energy[i];
  if (needs_.ewma_energy) {
    const double weight = ewma_window_weight(num_windows_);
    for (std::size_t i = 0; i < energy_.size(); ++i)
      ewma_energy_[i] += weight * (window_energy[i] - ewma_energy_[i]);
  }
  if (needs_.sum) {
    parallel_for(x.cols, kColumnChunk, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t n = 0; n < x.rows; ++n) {
        for (std::int64_t i = first; i < last; ++i) sum_[static_cast<std::size_t>(i)] += double{x.at(n, i)};
      }
    });
  }
  num_tokens_ += tokens;
  ++num_windows_;
}

void ActivationStats::combine(const Backend& backend, Communicator& ranks) {
  expect(waits_, "combine: statistics whose windows wait");
  pass_sums(ranks);
  pass_rows(backend, ranks, gram_, true,
            [&](const WaitingWindow& window, std::int64_t first, std::int64_t count) {
              backend.add_gram_rows(*window.for_gram, gram_.view(), first, count);
            });
  pass_rows(backend, ranks, cross_, false,
            [&](const WaitingWindow& window, std::int64_t first, std::int64_t count) {
              backend.add_cross_rows(*window.dense, *window.for_gram, cross_.view(), first, count);
            });
  pass_rows(backend, ranks, residual_, false,
            [&](const WaitingWindow& window, std::int64_t first, std::int64_t count) {
              backend.add_cross_rows(*window.residual_error, *window.for_gram, residual_.view(), first,
                                     count);
            });
  waiting_.clear();
  share_sums(ranks);
}

void ActivationStats::pass_sums(Communicator& ranks) {
  std::int64_t counts[] = {0, 0};  // tokens, windows
  const auto for_parts = [&](const auto& part) {
    part(std::as_writable_bytes(std::span(counts)));
    part(std::as_writable_bytes(std::span(energy_)));
    part(std::as_writable_bytes(std::span(ewma_energy_)));
    part(std::as_writable_bytes(std::span(sum_)));
  };
  if (ranks.rank() > 0) for_parts([&](auto bytes) { ranks.receive(ranks.rank() - 1, bytes); });
  num_tokens_ = counts[0];
  num_windows_ = counts[1];
  for (const WaitingWindow& window : waiting_) add_sums(window.tokens, window.energy, window.x.view());
  counts[0] = num_tokens_;
  counts[1] = num_windows_;
  if (ranks.rank() + 1 < ranks.size()) {
    for_parts([&](auto bytes) { ranks.send(ranks.rank() + 1, bytes); });
    ranks.finish_sends();
  }
}

// lower: only what is on and below the diagonal passes.
template <class AddRows>
void ActivationStats::pass_rows(const Backend& backend, Communicator& ranks, Matrix& sums, bool lower,
                                const AddRows& add_rows) {
  if (sums.empty()) return;
  const std::int64_t step = rows_that_pass(sums.rows(), backend.moment_rows(sums.rows(), compute_));
  std::vector<Matrix> on_their_way;
  for (std::int64_t first = 0; first < sums.rows(); first += step) {
    check_interrupt();
    const std::int64_t count = std::min(step, sums.rows() - first);
    const MatrixView rows =
        sums.view().row_block(first, count).col_block(0, lower ? first + count : sums.cols());
    if (ranks.rank() > 0) {
      Matrix before(rows.rows, rows.cols);
      ranks.receive(ranks.rank() - 1, std::as_writable_bytes(before.values()));
      copy_rows(before.view(), rows);
    }
    for (const WaitingWindow& window : waiting_) {
      if (window.tokens > 0) add_rows(window, first, count);
    }
    if (ranks.rank() + 1 < ranks.size()) {
      on_their_way.push_back(copy_of(rows));
      ranks.send(ranks.rank() + 1, std::as_bytes(on_their_way.back().values()));
    }
  }
  ranks.finish_sends();
}

// The last rank has all sums, the first has the first window.
void ActivationStats::share_sums(Communicator& ranks) {
  const int last = ranks.size() - 1;
  std::int64_t counts[] = {num_tokens_, num_windows_};
  ranks.broadcast(last, std::as_writable_bytes(std::span(counts)));
  num_tokens_ = counts[0];
  num_windows_ = counts[1];
  for (std::vector<double>* sums : {&energy_, &ewma_energy_, &sum_})
    ranks.broadcast(last, std::as_writable_bytes(std::span(*sums)));
  for (Matrix* sums : {&gram_, &cross_, &residual_})
    ranks.broadcast(last, std::as_writable_bytes(sums->values()));
  if (!needs_.sample) return;
  std::int64_t rows = sample_.rows();
  ranks.broadcast(0, std::as_writable_bytes(std::span(&rows, 1)));
  if (!ranks.is_first()) sample_ = Matrix(rows, std::ssize(energy_));
  ranks.broadcast(0, std::as_writable_bytes(sample_.values()));
}

void ActivationStats::finish(std::string_view input) {
  for (std::size_t i = 0; i < energy_.size(); ++i) {
    if (!std::isfinite(energy_[i])) {
      bad_input(
          "{}: input channel {} is not finite on the calibration text, expected finite activations; "
          "is a weight NaN or infinite? (swiftprune inspect shows it), or try --compute f32",
          input, i);
    }
  }
  if (needs_.gram) Backend::symmetrize(gram_.view());
}

void ActivationStats::reorder(std::span<const std::int64_t> order) {
  for (std::vector<double>* sums : {&energy_, &ewma_energy_, &sum_}) {
    if (!sums->empty()) reorder_columns(std::span(*sums), order);
  }
  for (Matrix* moments : {&gram_, &cross_, &residual_, &sample_}) {
    if (!moments->empty()) reorder_columns(moments->values(), order);
  }
  for (Matrix* moments : {&gram_, &cross_}) {
    if (!moments->empty()) reorder_rows(moments->values(), moments->cols(), order);
  }
}

LayerStats ActivationStats::view() const {
  const auto known = [](const Matrix& m) { return m.empty() ? nullptr : &m; };
  LayerStats stats;
  stats.num_tokens = num_tokens_;
  stats.energy = energy_;
  stats.ewma_energy = ewma_energy_;
  stats.sum = sum_;
  stats.gram = known(gram_);
  stats.sample = known(sample_);
  stats.compute = compute_;
  stats.cross = known(cross_);
  stats.residual = known(residual_);
  return stats;
}

}  // namespace swiftprune
