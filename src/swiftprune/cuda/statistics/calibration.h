// Statistics of one linear input on the device: what calibration/activation_stats.h adds up, with the same
// meaning.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/cuda/runtime/stream_spans.h"
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
  DeviceView dense_residual{};  // F32, of the same stride
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

// Passes that wait begin at multiples of so many rows, so that their products find the alignment that they have elsewhere.
inline constexpr std::int64_t kHeldRows = 128;

// Gram matrices [I, I], cross moments [I, I] and residual moments [hidden, I] of the input in hand, F32;
// their memory is taken once and serves one input after another.
struct Moments {
  DeviceBuffer gram, cross, residual;
  // With several ranks: the inputs of this rank's windows, those of the dense stream or, where there is none, as the Gram
  // matrix counts them, and the residual's errors, until they are added.
  DeviceBuffer held_x, held_dense, held_error;
};

// A run's ranks, as statistics know them. The sums pass from rank to rank, so that the windows are added in their order,
// in this rank's after those of the ranks before it: the bits are those of one rank.
class StatisticsRanks {
 public:
  // spans: for the timeline; outlives this.
  StatisticsRanks(Communicator& ranks, const TokenWindows& all_windows, std::int64_t first,
                  StreamSpans& spans)
      : first_window(first),
        num_windows(all_windows.num_windows()),
        seqlen(all_windows.seqlen),
        link_(*ranks.device_link()),
        spans_(spans),
        rank_(ranks.rank()),
        size_(ranks.size()) {}

  const std::int64_t first_window;  // of this rank
  const std::int64_t num_windows;   // of all ranks
  const std::int64_t seqlen;

  // What passes does so on a stream of its own, beside the products; between start() and finish(), which wait for what
  // `stream` was given before, and make it, and the caller, wait for what passed.
  void start(cudaStream_t stream);
  // The sums of the ranks before this one come, add() adds to them on `stream`, and they go on: the last rank has all.
  void pass_on(void* sums, std::uint64_t bytes, cudaStream_t stream, const std::function<void()>& add);
  // Of the rank `root`, or of the last one, to all.
  void share(void* data, std::uint64_t bytes, int root);
  void share(void* data, std::uint64_t bytes) { share(data, bytes, size_ - 1); }
  // values += those of all other ranks: a whole number on the device.
  void add_count(void* value, std::int64_t own);
  void finish(cudaStream_t stream);
  bool is_first() const { return rank_ == 0; }

  // For what passes in another order than sums.
  DeviceLink& link() const { return link_; }
  // Work for exchange() waits for what `stream` was given, and `stream` for what exchange() was given.
  void hold_exchange(cudaStream_t stream);
  void hold(cudaStream_t stream);
  cudaStream_t exchange() const { return exchange_; }

 private:
  StreamSpans::Span span() { return {spans_, exchange_, "exchange", "exchange", -1}; }

  DeviceLink& link_;
  StreamSpans& spans_;
  const int rank_, size_;
  Stream exchange_;
  Event arrived_, added_;
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

  // x [whole windows of seqlen rows, I], in their order; counted: as the Gram matrix is to count them.
  void add_windows(Products& products, const StatisticsScratch& scratch, DeviceView x, DeviceView counted,
                   std::int64_t seqlen);
  // x [T, I]: one window, which may be without tokens.
  void add_window(Products& products, const StatisticsScratch& scratch, DeviceView x);
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
  // Of a pass: x in windows of so many rows, x as the Gram matrix counts it, and where they are wanted what the dense
  // stream and the residual have.
  struct Pass {
    DeviceView x{};
    std::int64_t seqlen = 0;
    DeviceView counted{}, dense{}, error{};
  };
  bool waits() const { return ranks_ != nullptr; }
  DeviceView held(const DeviceBuffer& buffer, DType dtype, std::int64_t rows, std::int64_t cols) const;
  void add(Products& products, const StatisticsScratch& scratch, const Pass& pass);
  void hold(const Pass& pass);
  void add_sums(const StatisticsScratch& scratch, const Pass& pass);
  void add_window_sums(const StatisticsScratch& scratch, DeviceView x);
  void add_gram_rows(Products& products, const Pass& pass, std::int64_t first, std::int64_t count) const;
  void add_cross_rows(Products& products, const Pass& pass, std::int64_t first, std::int64_t count) const;
  void add_residual_rows(Products& products, const Pass& pass, std::int64_t first, std::int64_t count) const;
  template <class AddRows>
  void pass_rows(float* sums, std::int64_t rows, const AddRows& add_rows) const;
  void share_sample(DType dtype);
  // Where the ranks' numbers of tokens are added.
  void* token_count() const { return sums_.data() + sums_.bytes() - sizeof(std::int64_t); }
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
  DeviceBuffer sums_;  // energy, ewma, sum: [I] double each; at the end token_count()
  float* gram_ = nullptr;
  float* cross_ = nullptr;
  float* residual_ = nullptr;
  std::vector<double> host_;
  DeviceMemory& memory_;
  DeviceBuffer sample_memory_;
  DeviceView sample_{};
};

}  // namespace swiftprune::cuda
