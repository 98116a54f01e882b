// Statistics of one linear input on the device: what calibration/activation_stats.h adds up, with the same
// meaning.
#pragma once

#include <vector>

#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/ranks/communicator.h"
#include "swiftprune/ranks/device_link.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune::cuda {

// Rows of the pruned stream beside the dense one (calibration/activation_stats.h, AlignedWindow).
struct AlignedRows {
  DeviceView x{};
  DeviceView dense_x{};
  DeviceView residual{};        // F32; data null where no residual moments are wanted
  DeviceView dense_residual{};  // F32
  // [rows] square roots of the tokens' weights, or null; dense_x is multiplied by them in place.
  const float* roots = nullptr;
};

// Buffers that all statistics share: those of one pass over rows.
class StatisticsScratch {
 public:
  // most rows of a pass, most inputs; weighted: most inputs whose tokens are weighted, 0: none are; hidden: 0
  // without residual moments
  StatisticsScratch(DeviceMemory& memory, DType compute, std::int64_t rows, std::int64_t inputs,
                    std::int64_t weighted, std::int64_t hidden);
  void* sums() const { return sums_.data(); }
  DType compute() const { return compute_; }
  DeviceView x(std::int64_t rows, std::int64_t cols) const { return part(x_, rows, cols); }
  DeviceView residual(std::int64_t rows, std::int64_t cols) const { return part(residual_, rows, cols); }

 private:
  DeviceView part(const DeviceBuffer& buffer, std::int64_t rows, std::int64_t cols) const {
    return view_of(buffer.data(), compute_, rows, cols);
  }
  DType compute_;
  DeviceBuffer sums_, x_, residual_;
};

// Gram matrices [I, I], cross moments [I, I] and residual moments [hidden, I] of the input in hand, F32;
// their memory is taken once and serves one input after another.
struct Moments {
  DeviceBuffer gram, cross, residual;
  // With several ranks: the inputs of this rank's windows, those of the dense stream, and the residual's errors,
  // until they are added.
  DeviceBuffer held_x, held_dense, held_error;
};

// A run's ranks, as statistics know them. The sums pass from rank to rank, so that the windows are added in their order,
// in this rank's after those of the ranks before it: the bits are those of one rank.
struct StatisticsRanks {
  StatisticsRanks(Communicator& ranks, const TokenWindows& all_windows, std::int64_t first)
      : link(*ranks.device_link()),
        rank(ranks.rank()),
        size(ranks.size()),
        first_window(first),
        num_windows(all_windows.num_windows()),
        seqlen(all_windows.seqlen) {}
  DeviceLink& link;
  int rank = 0, size = 1;
  std::int64_t first_window = 0;  // of this rank
  std::int64_t num_windows = 0;   // of all ranks
  std::int64_t seqlen = 0;
  Stream exchange;  // what passes does so beside the products
  Event ready, arrived, added;
};

class DeviceStats {
 public:
  // ranks: null for one; outlives this.
  DeviceStats(DeviceMemory& memory, std::int64_t max_inputs, cudaStream_t stream,
              StatisticsRanks* ranks = nullptr);
  // Begins again. moments: where the matrices go that `needs` names. residual_size: 0 without residual
  // moments; residual_factor: of the residual, where the output joins it times 1/residual_factor.
  void start(std::int64_t inputs, const StatNeeds& needs, const Moments& moments, std::int64_t residual_size,
             float residual_factor = 1.0f);

  // x [T, I]: one window, which may be without tokens; windows come in their order.
  void add_window(const StatisticsScratch& scratch, DeviceView x);
  // x [whole windows of seqlen rows, I]
  void add_windows(const StatisticsScratch& scratch, DeviceView x, std::int64_t seqlen);
  // Adds xᵀx of any number of rows.
  void add_gram(Products& products, DeviceView x);
  void add_aligned(Products& products, const StatisticsScratch& scratch, const AlignedRows& rows,
                   std::int64_t seqlen);
  // With several ranks, after the last window of this one: the sums of all. Waits for the device.
  void combine(Products& products, const StatisticsScratch& scratch);
  // After the last window: symmetric Gram, and the sums on the host. Throws Error{kBadInput} naming `input`
  // when an activation was not finite.
  void finish(std::string_view input);

  // Inputs [first, first + count) of finished statistics, as finished ones of their own.
  void take_part(const DeviceStats& whole, std::int64_t first, std::int64_t count, const Moments& moments);

  LayerStats view() const;  // without matrices
  std::int64_t inputs() const { return inputs_; }
  float* gram() const { return gram_; }
  float* cross() const { return cross_; }
  float* residual() const { return residual_; }
  const double* device_energy() const { return sums_.as<double>(); }
  // The first of the inputs [n, I], where `needs` asks for a sample.
  DeviceView sample() const { return sample_; }

 private:
  // Of a pass: x, and where they are wanted what the dense stream and the residual have.
  struct Pass {
    DeviceView x{}, dense{}, error{};
  };
  bool waits() const { return ranks_ != nullptr; }
  DeviceView held(const DeviceBuffer& buffer, DType dtype, std::int64_t rows, std::int64_t cols) const;
  void hold(const Pass& pass);
  void add_sums(const StatisticsScratch& scratch, DeviceView x, std::int64_t seqlen);
  void add_gram_rows(Products& products, const Pass& pass, std::int64_t first, std::int64_t count) const;
  void add_cross_rows(Products& products, const Pass& pass, std::int64_t first, std::int64_t count) const;
  void add_residual_rows(Products& products, const Pass& pass, std::int64_t first, std::int64_t count) const;
  template <class Body>
  void pass_on(void* sums, std::uint64_t bytes, const Body& body) const;
  template <class AddRows>
  void pass_rows(float* sums, std::int64_t rows, const AddRows& add_rows) const;
  void share(void* data, std::uint64_t bytes, int root) const;
  void share_sample(DType dtype);
  void make_room_for_sample(DType dtype, std::int64_t rows);

  StatNeeds needs_;
  std::int64_t inputs_ = 0;
  cudaStream_t stream_;
  StatisticsRanks* ranks_;
  const Moments* moments_ = nullptr;  // where what waits is held
  std::vector<Pass> held_;
  std::int64_t held_rows_ = 0;
  std::int64_t residual_size_ = 0;
  float residual_factor_ = 1.0f;
  std::int64_t num_tokens_ = 0, num_windows_ = 0;
  DeviceBuffer sums_;  // energy, ewma, sum: [I] double each
  float* gram_ = nullptr;
  float* cross_ = nullptr;
  float* residual_ = nullptr;
  std::vector<double> host_;
  DeviceMemory& memory_;
  DeviceBuffer sample_memory_;
  DeviceView sample_{};
};

}  // namespace swiftprune::cuda
