// Statistics of one input of a block's linears over the calibration windows: what scores and refinements
// read.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/scoring/layer_stats.h"

namespace swiftprune {

// One window of the pruned stream beside the dense one.
struct AlignedWindow {
  ConstMatrixView x{};         // [T, I] inputs of the pruned stream
  ConstMatrixView dense_x{};   // [T, I] of the dense stream
  ConstMatrixView residual{};  // [T, hidden] of the pruned stream, before the output is added; may be empty
  ConstMatrixView dense_residual{};  // [T, hidden]
  std::span<const float> weights{};  // [T] of the tokens in all sums, >= 0; empty: 1
};

// Inputs of the first window that StatNeeds::sample keeps, at most.
inline constexpr std::int64_t kSampledTokens = 1024;

// How much window number `window` (from 0) moves the EWMA over the windows: the mean of the first eight, then
// a memory of about eight.
double ewma_window_weight(std::int64_t window);

class ActivationStats {
 public:
  // residual_size: hidden size where residual moments are wanted, else 0. compute: how Gram and other moments
  // are multiplied; the linears of a bf16 forward round their inputs in the same way. waits: windows are kept until
  // combine().
  ActivationStats(std::int64_t num_inputs, const StatNeeds& needs, std::int64_t residual_size = 0,
                  ComputeType compute = ComputeType::kF32, bool waits = false);

  // x [T, I]: the inputs of one window; windows come in their order (the EWMA depends on it). for_gram: the
  // same tokens as the Gram matrix is to count them; empty: x. A window may be without tokens.
  void add_window(const Backend& backend, ConstMatrixView x, ConstMatrixView for_gram = {});
  // The same with the moments against the dense stream, where they are needed.
  void add_window(const Backend& backend, const AlignedWindow& window);
  // Of windows that were shared out to ranks, those of a rank before those of the next: afterwards every rank has the
  // sums over all of them, the same bits as one process that has all windows. The sums pass from rank to rank in the
  // order of the windows, some rows of a matrix at a time, so that all ranks work on them at once.
  void combine(const Backend& backend, Communicator& ranks);
  // After the last window. Throws Error{kBadInput} naming `input` when an activation was not finite.
  void finish(std::string_view input);

  // Position p becomes what input order[p] was, in all of them. After finish().
  void reorder(std::span<const std::int64_t> order);

  LayerStats view() const;
  bool has_gram() const { return needs_.gram; }
  bool has_alignment() const { return needs_.alignment; }
  std::int64_t num_inputs() const { return std::ssize(energy_); }

 private:
  // A window's inputs as they enter the sums.
  struct Inputs {
    ConstMatrixView x{}, for_gram{}, dense{}, residual_error{};  // the last two may be empty
  };
  struct WaitingWindow {
    std::int64_t tokens = 0;
    std::vector<double> energy;
    Matrix x;  // where StatNeeds::sum needs it
    std::unique_ptr<MomentOperand> for_gram, dense, residual_error;
  };
  void add(const Backend& backend, const Inputs& inputs);
  void add_sums(std::int64_t tokens, std::span<const double> window_energy, ConstMatrixView x);
  // Of the waiting windows, on top of those of the ranks before.
  void pass_sums(Communicator& ranks);
  template <class AddRows>
  void pass_rows(const Backend& backend, Communicator& ranks, Matrix& sums, bool lower,
                 const AddRows& add_rows);
  void share_sums(Communicator& ranks);

  StatNeeds needs_;
  ComputeType compute_;
  bool waits_ = false;
  std::vector<WaitingWindow> waiting_;
  std::int64_t num_tokens_ = 0;
  std::int64_t num_windows_ = 0;
  std::vector<double> energy_, ewma_energy_, sum_;
  Matrix gram_, cross_, residual_, sample_;
};

}  // namespace swiftprune
