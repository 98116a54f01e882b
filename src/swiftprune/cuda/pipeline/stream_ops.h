// What the streams of calibration windows (pipeline/streams/) do to rows of hidden states, on the device.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "swiftprune/cuda/forward/block.h"
#include "swiftprune/cuda/statistics/calibration.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune::cuda {

// An expert of the block as it stands there.
struct DeviceExpert {
  const BlockWeights* block = nullptr;
  std::int64_t index = 0;
};

// Windows of one pass share their rows: about so many tokens.
inline constexpr std::int64_t kTokensPerPass = 4096;
std::int64_t rows_per_pass(const TokenWindows& windows);

// Calls body(first_row, rows) over all rows, whole windows at a time.
void for_passes(const TokenWindows& windows, const std::function<void(std::int64_t, std::int64_t)>& body);

// Room for the inputs of a rank's windows that wait for the sums of those before (Moments); experts: for the tokens of one
// expert, too, however few of each window.
std::int64_t most_held_rows(const TokenWindows& windows, bool experts);
DeviceBuffer room_for_held(DeviceMemory& memory, std::int64_t rows, std::int64_t cols, DType dtype);

// Embedded windows on the device [N, row_size] F32.
DeviceMatrix embed(DeviceMemory& memory, const Model& model, const TokenWindows& windows,
                   cudaStream_t stream);

// The same shape and dtype, contiguous, on the device.
void copy(DeviceView from, DeviceView to, cudaStream_t stream);

class DeviceStreamOps {
 public:
  using Block = BlockWeights;
  using Hidden = DeviceMatrix;  // [N, row_size] F32 of all windows
  using Stats = DeviceStats;
  using Observer = DeviceObserver;
  using Expert = DeviceExpert;

  // scratch: with room for weighted inputs where tokens are weighted.
  DeviceStreamOps(DeviceMemory& memory, Products& products, BlockForward& forward,
                  const StatisticsScratch& scratch, const Model& model, const TokenWindows& windows,
                  cudaStream_t stream);
  // Memory for the kept inputs of output projections, for streams that go sub-layer by sub-layer.
  void make_room_for_inner();
  // Memory for hidden states that stay while a block is looked at.
  void make_room_for_look();
  // Memory for the tokens of one expert at a time.
  void make_room_for_experts();

  const ModelConfig& config() const { return model_.config(); }
  DeviceMatrix embed() const { return cuda::embed(memory_, model_, windows_, stream_); }
  DeviceMatrix clone(const DeviceMatrix& hidden) const;
  void assign(const DeviceMatrix& from, const DeviceMatrix& to) const {
    copy(from.view(), to.view(), stream_);
  }
  void for_rows(const std::function<void(std::int64_t, std::int64_t)>& body) const {
    for_passes(windows_, body);
  }
  static DeviceView rows(const DeviceMatrix& hidden, std::int64_t first, std::int64_t count) {
    return hidden.view().row_block(first, count);
  }

  void forward(const BlockWeights& block, DeviceView hidden, const DeviceObserver* observer, bool stays);
  // The steps of a block, as in BlockForward: results stand until the same step runs again.
  DeviceView input_of(const BlockWeights& block, LinearInput input, DeviceView hidden) {
    return forward_.input_of(block, input, hidden);
  }
  DeviceView attention(const BlockWeights& block, DeviceView x, DeviceView hidden) {
    return forward_.attention(block, x, hidden);
  }
  DeviceView mlp(const BlockWeights& block, DeviceView x) { return forward_.mlp(block, x); }
  DeviceView project(const BlockWeights& block, LinearInput which, DeviceView x) {
    return forward_.project(block, which, x);
  }
  void add_projected(const BlockWeights& block, LinearInput which, DeviceView y, DeviceView hidden) {
    forward_.add_projected(block, which, y, hidden);
  }
  void add_output(const BlockWeights& block, LinearInput which, DeviceView y, DeviceView hidden) {
    forward_.add_projected(block, which, y, hidden);
  }
  void project_and_add(const BlockWeights& block, LinearInput which, DeviceView x, DeviceView hidden) {
    forward_.project_and_add(block, which, x, hidden);
  }
  static bool norms_output(const BlockWeights& block, LinearInput which) {
    return BlockForward::norms_output(block, which);
  }

  // A result that is to stand while the same step runs again.
  DeviceView hold(DeviceView x) const;
  static DeviceView view(DeviceView x) { return x; }
  DeviceView keep_inner(std::int64_t first, DeviceView x);
  DeviceView inner_rows(std::int64_t first, std::int64_t count) const;

  static bool has_gram(const DeviceStats& stats) { return stats.gram() != nullptr; }
  void add(DeviceStats& stats, DeviceView x) const;
  void add_relative(DeviceStats& stats, DeviceView x, DeviceView out) const;
  void add_aligned(DeviceStats& stats, DeviceView x, DeviceView dense) const;
  void add_aligned_output(DeviceStats& stats, const BlockWeights&, LinearInput, DeviceView x,
                          DeviceView dense, DeviceView rows, DeviceView dense_rows,
                          const DeviceView* dense_out) const;

  // -- A block's experts (pipeline/streams/expert_stream.h).
  std::int64_t most_expert_rows() const { return forward_.rows(); }
  static std::int64_t num_experts(const BlockWeights& block) { return block.config().experts->count; }
  DeviceMatrix zeros_like(const DeviceMatrix& hidden) const;
  std::vector<float> row_sizes(const DeviceMatrix& hidden) const;
  std::vector<ExpertTokens> route(const BlockWeights& block, DeviceView x) {
    return forward_.experts().route(block, x);
  }
  DeviceView shared_inner(const BlockWeights& block, DeviceView x) { return forward_.mlp(block, x); }
  void add_shared(const BlockWeights& block, DeviceView x, DeviceView y) {
    forward_.add_shared(block, x, y, nullptr);
  }
  DeviceView gather(const DeviceMatrix& hidden, std::span<const std::int64_t> rows) const;
  static void use(const BlockWeights& block, std::int64_t expert,
                  const std::function<void(const DeviceExpert&)>& body) {
    body({&block, expert});
  }
  DeviceView inner(const DeviceExpert& expert, DeviceView x) {
    return forward_.experts().inner(*expert.block, expert.index, x);
  }
  DeviceView project_expert(const DeviceExpert& expert, DeviceView inner) {
    return forward_.experts().project(*expert.block, expert.index, inner);
  }
  void add_gated(DeviceView values, const ExpertTokens& tokens, const DeviceMatrix& outputs) const;
  void add_window(DeviceStats& stats, DeviceView x) const;
  void add_empty_window(DeviceStats& stats) const {
    stats.add_window(products_, scratch_, view_of(nullptr, forward_.compute(), 0, stats.inputs()));
  }
  void add_weighted_window(DeviceStats& stats, DeviceView x, DeviceView dense,
                           std::span<const float> weights) const;

 private:
  const std::int32_t* upload_rows(std::span<const std::int64_t> rows) const;
  // 1/√ of the products of the rows' sizes, for weights of tokens.
  void find_roots(DeviceView x, const DeviceView* y) const;  // y contiguous
  std::int64_t num_rows() const { return windows_.num_windows() * windows_.seqlen; }

  DeviceMemory& memory_;
  Products& products_;
  BlockForward& forward_;
  const StatisticsScratch& scratch_;
  const Model& model_;
  const TokenWindows& windows_;
  cudaStream_t stream_;
  DeviceBuffer inner_;  // [N, I] input of the output projection in hand
  std::int64_t inner_cols_ = 0;
  DeviceBuffer roots_;
  DeviceMatrix look_;             // [rows of a pass, row_size]
  DeviceMatrix gathered_;         // hidden states of an expert's tokens
  DeviceBuffer rows_, gates_;     // of these tokens
  DeviceBuffer sizes_, largest_;  // [N] of row_sizes()
};

}  // namespace swiftprune::cuda
