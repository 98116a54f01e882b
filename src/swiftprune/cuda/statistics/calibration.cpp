#include "swiftprune/cuda/statistics/calibration.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/refinement/refinement_kernels.h"
#include "swiftprune/cuda/statistics/statistics_kernels.h"

namespace swiftprune::cuda {
namespace {

constexpr int kSums = 3;
constexpr std::int64_t kPanels = 4;  // of the lower triangle: 62 % of the work of the square

// body(first, count) of the rows of sums that are added together, and pass from rank to rank together.
template <class Body>
void for_panels(std::int64_t rows, const Body& body) {
  const std::int64_t panel = round_up(ceil_div(rows, kPanels), 128);
  for (std::int64_t first = 0; first < rows; first += panel) body(first, std::min(panel, rows - first));
}

std::uint64_t bytes_of(std::int64_t numel, std::int64_t size) {
  return static_cast<std::uint64_t>(numel * size);
}

}  // namespace

StatisticsScratch::StatisticsScratch(DeviceMemory& memory, DType compute, std::int64_t rows,
                                     std::int64_t inputs, std::int64_t weighted, std::int64_t hidden)
    : compute_(compute),
      sums_(memory, static_cast<std::uint64_t>(statistics_scratch(rows, inputs)), "statistics of one pass") {
  constexpr std::string_view kWhat = "weighted activations of one pass";
  if (weighted > 0) x_ = DeviceBuffer(memory, bytes_of(rows * weighted, size_of(compute)), kWhat);
  if (hidden > 0) residual_ = DeviceBuffer(memory, bytes_of(rows * hidden, size_of(compute)), kWhat);
}

void StatisticsRanks::hold_exchange(cudaStream_t stream) {
  added_.record(stream);
  added_.hold(exchange_);
}

void StatisticsRanks::hold(cudaStream_t stream) {
  arrived_.record(exchange_);
  arrived_.hold(stream);
}

void StatisticsRanks::start(cudaStream_t stream) { hold_exchange(stream); }

void StatisticsRanks::pass_on(void* sums, std::uint64_t bytes, cudaStream_t stream,
                              const std::function<void()>& add) {
  if (rank_ > 0) {
    const auto span = this->span();
    link_.receive(rank_ - 1, sums, bytes, exchange_);
    hold(stream);
  }
  add();
  hold_exchange(stream);
  if (rank_ + 1 == size_) return;
  const auto span = this->span();
  link_.send(rank_ + 1, sums, bytes, exchange_);
}

void StatisticsRanks::share(void* data, std::uint64_t bytes, int root) {
  if (data == nullptr || bytes == 0) return;
  const auto span = this->span();
  link_.broadcast(root, data, bytes, exchange_);
}

void StatisticsRanks::add_count(void* value, std::int64_t own) {
  copy_to_device(std::span<const std::int64_t>(&own, 1), value, exchange_);
  link_.sum(value, 1, exchange_);
}

void StatisticsRanks::finish(cudaStream_t stream) {
  hold(stream);
  link_.wait(exchange_);
}

DeviceStats::DeviceStats(DeviceMemory& memory, std::int64_t max_inputs, cudaStream_t stream,
                         StatisticsRanks* ranks)
    : stream_(stream),
      ranks_(ranks),
      sums_(memory, bytes_of(kSums * max_inputs + 1, sizeof(double)), "sums over activations"),
      memory_(memory) {}

void DeviceStats::start(std::int64_t inputs, const StatNeeds& needs, const Moments& moments,
                        std::int64_t residual_size, float residual_factor) {
  needs_ = needs;
  inputs_ = inputs;
  num_tokens_ = num_windows_ = 0;
  sample_ = {};
  moments_ = &moments;
  held_.clear();
  held_rows_ = 0;
  host_.assign(static_cast<std::size_t>(kSums * inputs), 0.0);
  expect(sums_.bytes() >= host_.size() * sizeof(double), "DeviceStats: room for the sums");
  check(cudaMemsetAsync(sums_.data(), 0, sums_.bytes(), stream_));
  const auto take = [&](const DeviceBuffer& buffer, std::int64_t rows) {
    const std::uint64_t bytes = bytes_of(rows * inputs, sizeof(float));
    expect(buffer.bytes() >= bytes, "DeviceStats: room for the moments");
    check(cudaMemsetAsync(buffer.data(), 0, bytes, stream_));
    return buffer.as<float>();
  };
  gram_ = needs.gram ? take(moments.gram, inputs) : nullptr;
  cross_ = needs.alignment ? take(moments.cross, inputs) : nullptr;
  residual_size_ = residual_size;
  residual_factor_ = residual_factor;
  residual_ = needs.alignment && residual_size > 0 ? take(moments.residual, residual_size) : nullptr;
}

void DeviceStats::make_room_for_sample(DType dtype, std::int64_t rows) {
  const std::uint64_t bytes = bytes_of(rows * inputs_, size_of(dtype));
  if (sample_memory_.bytes() < bytes) sample_memory_ = DeviceBuffer(memory_, bytes, "a sample of inputs");
  sample_ = view_of(sample_memory_.data(), dtype, rows, inputs_);
}

void DeviceStats::add_window_sums(const StatisticsScratch& scratch, DeviceView x) {
  auto* sums = sums_.as<double>();
  StatisticsArgs args;
  args.x = x.data;
  args.dtype = x.dtype;
  args.rows = x.rows;
  args.cols = x.cols;
  args.energy = sums;
  if (needs_.ewma_energy) {
    args.ewma = sums + inputs_;
    args.ewma_weight = ewma_window_weight(num_windows_);
  }
  if (needs_.sum) args.sum = sums + 2 * inputs_;
  args.scratch = scratch.sums();
  add_statistics(args, stream_);
  if (needs_.sample && num_windows_ == 0) {
    make_room_for_sample(x.dtype, std::min(x.rows, kSampledTokens));
    check(cudaMemcpyAsync(sample_.data, x.data, bytes_of(sample_.numel(), size_of(x.dtype)),
                          cudaMemcpyDeviceToDevice, stream_));
  }
  num_tokens_ += x.rows;
  ++num_windows_;
}

void DeviceStats::add_windows(Products& products, const StatisticsScratch& scratch, DeviceView x,
                              DeviceView counted, std::int64_t seqlen) {
  add(products, scratch, {.x = x, .seqlen = seqlen, .counted = counted});
}

void DeviceStats::add_window(Products& products, const StatisticsScratch& scratch, DeviceView x) {
  add(products, scratch, {.x = x, .seqlen = x.rows, .counted = x});
}

void DeviceStats::add_sums(const StatisticsScratch& scratch, const Pass& pass) {
  if (pass.x.rows == 0) return add_window_sums(scratch, pass.x);
  for (std::int64_t first = 0; first < pass.x.rows; first += pass.seqlen)
    add_window_sums(scratch, pass.x.row_block(first, pass.seqlen));
}

// With several ranks what is added waits until combine().
void DeviceStats::add(Products& products, const StatisticsScratch& scratch, const Pass& pass) {
  if (waits()) return hold(pass);
  add_sums(scratch, pass);
  if (pass.x.rows == 0) return;
  const auto add_panels = [&](std::int64_t rows, auto add_rows) {
    for_panels(rows, [&](std::int64_t first, std::int64_t count) {
      (this->*add_rows)(products, pass, first, count);
    });
  };
  if (gram_ != nullptr) add_panels(inputs_, &DeviceStats::add_gram_rows);
  if (cross_ != nullptr) add_panels(inputs_, &DeviceStats::add_cross_rows);
  if (pass.error.data != nullptr) add_panels(residual_size_, &DeviceStats::add_residual_rows);
}

void DeviceStats::add_gram_rows(Products& products, const Pass& pass, std::int64_t first,
                                std::int64_t count) const {
  const std::int64_t width = first + count;  // the lower triangle's
  products.run(
      {.a = pass.counted.col_block(first, count),
       .b = pass.counted.col_block(0, width),
       .c = view_of(gram_, DType::kF32, inputs_, inputs_).row_block(first, count).col_block(0, width),
       .a_transposed = true,
       .beta = 1.0f});
}

void DeviceStats::add_cross_rows(Products& products, const Pass& pass, std::int64_t first,
                                 std::int64_t count) const {
  products.run({.a = pass.dense.col_block(first, count),
                .b = pass.x,
                .c = view_of(cross_, DType::kF32, inputs_, inputs_).row_block(first, count),
                .a_transposed = true,
                .beta = 1.0f});
}

void DeviceStats::add_residual_rows(Products& products, const Pass& pass, std::int64_t first,
                                    std::int64_t count) const {
  products.run({.a = pass.error.col_block(first, count),
                .b = pass.x,
                .c = view_of(residual_, DType::kF32, residual_size_, inputs_).row_block(first, count),
                .a_transposed = true,
                .alpha = residual_factor_,
                .beta = 1.0f});
}

void DeviceStats::add_aligned(Products& products, const StatisticsScratch& scratch, const AlignedRows& rows,
                              std::int64_t seqlen) {
  Pass pass{.x = rows.x, .seqlen = seqlen, .counted = {}, .dense = rows.dense_x, .error = {}};
  if (rows.roots != nullptr) {
    pass.x = scratch.x(rows.x.rows, rows.x.cols);
    scaled_difference(rows.x.data, rows.x.dtype, nullptr, rows.x.dtype, rows.roots, pass.x.rows, pass.x.cols,
                      pass.x.data, pass.x.dtype, stream_);
    scaled_difference(rows.dense_x.data, rows.dense_x.dtype, nullptr, rows.dense_x.dtype, rows.roots,
                      pass.x.rows, pass.x.cols, pass.dense.data, pass.dense.dtype, stream_);
  }
  if (residual_ != nullptr && rows.residual.data != nullptr) {
    pass.error = scratch.residual(pass.x.rows, residual_size_);
    scaled_difference(rows.dense_residual.data, DType::kF32, rows.residual.data, DType::kF32, rows.roots,
                      pass.x.rows, residual_size_, pass.error.data, pass.error.dtype, stream_,
                      rows.residual.stride);
  }
  pass.counted = pass.x;
  add(products, scratch, pass);
}

// Behind what is held already.
DeviceView DeviceStats::held(const DeviceBuffer& buffer, DType dtype, std::int64_t rows,
                             std::int64_t cols) const {
  const std::uint64_t row_bytes = bytes_of(cols, size_of(dtype));
  expect(buffer.bytes() >= static_cast<std::uint64_t>(held_rows_ + rows) * row_bytes,
         "DeviceStats: room for inputs that wait");
  return view_of(buffer.data() + static_cast<std::uint64_t>(held_rows_) * row_bytes, dtype, rows, cols);
}

void DeviceStats::hold(const Pass& pass) {
  const auto keep = [&](DeviceView from, const DeviceBuffer& buffer) {
    const DeviceView to = held(buffer, from.dtype, from.rows, from.cols);
    check(cudaMemcpyAsync(to.data, from.data, bytes_of(from.numel(), size_of(from.dtype)),
                          cudaMemcpyDeviceToDevice, stream_));
    return to;
  };
  Pass kept{.x = pass.x, .seqlen = pass.seqlen, .counted = pass.counted, .dense = {}, .error = {}};
  if (pass.x.rows > 0) {
    kept.x = kept.counted = keep(pass.x, moments_->held_x);
    expect(pass.counted.data == pass.x.data || cross_ == nullptr,
           "DeviceStats: with a dense stream all sums count alike");
    if (pass.counted.data != pass.x.data) kept.counted = keep(pass.counted, moments_->held_dense);
    if (cross_ != nullptr) kept.dense = keep(pass.dense, moments_->held_dense);
    if (pass.error.data != nullptr) kept.error = keep(pass.error, moments_->held_error);
  }
  held_.push_back(kept);
  held_rows_ += round_up(pass.x.rows, kHeldRows);
}

// Some rows after the other: a rank adds to the next while they are under way.
template <class AddRows>
void DeviceStats::pass_rows(float* sums, std::int64_t rows, const AddRows& add_rows) const {
  if (sums == nullptr) return;
  for_panels(rows, [&](std::int64_t first, std::int64_t count) {
    ranks_->pass_on(sums + first * inputs_, bytes_of(count * inputs_, sizeof(float)), stream_, [&] {
      for (const Pass& pass : held_) {
        if (pass.x.rows > 0) add_rows(pass, first, count);
      }
    });
  });
}

void DeviceStats::combine(Products& products, const StatisticsScratch& scratch) {
  if (!waits()) return;
  ranks_->start(stream_);
  num_windows_ = ranks_->first_window;
  const std::uint64_t sum_bytes = host_.size() * sizeof(double);
  ranks_->pass_on(sums_.data(), sum_bytes, stream_, [&] {
    for (const Pass& pass : held_) add_sums(scratch, pass);
  });
  pass_rows(cross_, inputs_, [&](const Pass& pass, std::int64_t first, std::int64_t count) {
    add_cross_rows(products, pass, first, count);
  });
  pass_rows(residual_, residual_size_, [&](const Pass& pass, std::int64_t first, std::int64_t count) {
    add_residual_rows(products, pass, first, count);
  });
  pass_rows(gram_, inputs_, [&](const Pass& pass, std::int64_t first, std::int64_t count) {
    add_gram_rows(products, pass, first, count);
  });
  ranks_->share(sums_.data(), sum_bytes);
  ranks_->share(cross_, bytes_of(inputs_ * inputs_, sizeof(float)));
  ranks_->share(residual_, bytes_of(residual_size_ * inputs_, sizeof(float)));
  ranks_->share(gram_, bytes_of(inputs_ * inputs_, sizeof(float)));
  if (needs_.sample) share_sample(scratch.compute());
  num_windows_ = ranks_->num_windows;
  ranks_->add_count(token_count(), num_tokens_);
  ranks_->finish(stream_);
  held_.clear();
  held_rows_ = 0;
}

// The first rank has the first window.
void DeviceStats::share_sample(DType dtype) {
  const std::int64_t rows = std::min(ranks_->seqlen, kSampledTokens);
  const std::uint64_t bytes = bytes_of(rows * inputs_, size_of(dtype));
  if (!ranks_->is_first()) make_room_for_sample(dtype, rows);
  ranks_->share(sample_.data, bytes, 0);
}

void DeviceStats::finish(std::string_view input) {
  if (gram_ != nullptr) symmetrize(gram_, inputs_, stream_);
  check(cudaMemcpyAsync(host_.data(), sums_.data(), host_.size() * sizeof(double), cudaMemcpyDeviceToHost,
                        stream_));
  if (waits())
    check(cudaMemcpyAsync(&num_tokens_, token_count(), sizeof(num_tokens_), cudaMemcpyDeviceToHost, stream_));
  check(cudaStreamSynchronize(stream_));
  for (std::int64_t i = 0; i < inputs_; ++i) {
    if (!std::isfinite(host_[static_cast<std::size_t>(i)])) {
      bad_input(
          "{}: input channel {} is not finite on the calibration text, expected finite activations; "
          "is a weight NaN or infinite? (swiftprune inspect shows it), or try --compute f32",
          input, i);
    }
  }
}

void DeviceStats::take_part(const DeviceStats& whole, std::int64_t first, std::int64_t count,
                            const Moments& moments) {
  expect(first >= 0 && count > 0 && first + count <= whole.inputs_ && !whole.needs_.sample && !waits(),
         "take_part: inputs of finished statistics");
  start(count, whole.needs_, moments, whole.residual_size_, whole.residual_factor_);
  num_tokens_ = whole.num_tokens_;
  num_windows_ = whole.num_windows_;
  const auto copy = [&](void* to, const void* from, std::int64_t size, std::int64_t rows) {
    check(cudaMemcpy2DAsync(to, bytes_of(count, size), from, bytes_of(whole.inputs_, size),
                            bytes_of(count, size), static_cast<std::size_t>(rows), cudaMemcpyDeviceToDevice,
                            stream_));
  };
  copy(sums_.data(), whole.sums_.as<double>() + first, sizeof(double), kSums);
  for (std::int64_t i = 0; i < kSums; ++i) {
    std::copy_n(whole.host_.begin() + i * whole.inputs_ + first, count, host_.begin() + i * count);
  }
  const std::int64_t corner = first * whole.inputs_ + first;
  if (gram_ != nullptr) copy(gram_, whole.gram_ + corner, sizeof(float), count);
  if (cross_ != nullptr) copy(cross_, whole.cross_ + corner, sizeof(float), count);
  if (residual_ != nullptr) copy(residual_, whole.residual_ + first, sizeof(float), residual_size_);
}

LayerStats DeviceStats::view() const {
  const auto n = static_cast<std::size_t>(inputs_);
  const std::span<const double> all(host_);
  LayerStats stats;
  stats.num_tokens = num_tokens_;
  stats.energy = all.first(n);
  if (needs_.ewma_energy) stats.ewma_energy = all.subspan(n, n);
  if (needs_.sum) stats.sum = all.subspan(2 * n, n);
  return stats;
}

}  // namespace swiftprune::cuda
