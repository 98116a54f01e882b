// model/text_forwards.h on the device: blocks stream through, the hidden states of a group of rows stay. A
// shared beginning is computed for each run that continues it; runs are padded on the right, which causal
// attention does not see, so that equal lengths go together.
#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/forward/block_stream.h"
#include "swiftprune/cuda/forward/head.h"
#include "swiftprune/cuda/pipeline/stream_ops.h"
#include "swiftprune/cuda/stages.h"
#include "swiftprune/cuda/structure/structure_kernels.h"

namespace swiftprune::cuda {
namespace {

// A whole sequence, and where the rows of its segments go.
struct Sequence {
  struct Part {
    std::int64_t first = 0;      // in the sequence
    std::int64_t first_row = 0;  // of the rows as they were given
    std::int64_t length = 0;
  };
  std::vector<std::int32_t> ids;
  std::vector<Part> parts;
};

// Longest first. A beginning's own rows come from the first sequence that continues it.
std::vector<Sequence> sequences_of(std::span<const std::int32_t> ids, std::span<const Segment> segments) {
  std::vector<bool> continued(segments.size(), false), taken(segments.size(), false);
  for (const Segment& segment : segments) {
    if (segment.prefix >= 0) continued[static_cast<std::size_t>(segment.prefix)] = true;
  }
  std::vector<Sequence> sequences;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    if (continued[i]) continue;
    Sequence sequence;
    const auto append = [&](const Segment& segment, bool wanted) {
      const auto part =
          ids.subspan(static_cast<std::size_t>(segment.first_row), static_cast<std::size_t>(segment.length));
      if (wanted) sequence.parts.push_back({std::ssize(sequence.ids), segment.first_row, segment.length});
      sequence.ids.insert(sequence.ids.end(), part.begin(), part.end());
    };
    if (segments[i].prefix >= 0) {
      const auto prefix = static_cast<std::size_t>(segments[i].prefix);
      append(segments[prefix], !taken[prefix]);
      taken[prefix] = true;
    }
    append(segments[i], true);
    sequences.push_back(std::move(sequence));
  }
  std::stable_sort(sequences.begin(), sequences.end(),
                   [](const Sequence& a, const Sequence& b) { return a.ids.size() > b.ids.size(); });
  return sequences;
}

// Sequences [first, last) that run together, in passes of sequences of about one length.
struct Group {
  std::size_t first = 0, last = 0;
  std::vector<Pass> passes;
  std::int64_t rows = 0;  // with what pads them
};

std::vector<Group> groups_of(const std::vector<Sequence>& sequences, std::int64_t max_rows) {
  std::vector<Group> groups;
  for (std::size_t i = 0; i < sequences.size();) {
    const std::int64_t length = std::ssize(sequences[i].ids);
    const std::int64_t most = std::max<std::int64_t>(1, kTokensPerPass / length);
    const auto count = std::min<std::int64_t>(most, std::ssize(sequences) - static_cast<std::int64_t>(i));
    if (groups.empty() || groups.back().rows + count * length > max_rows) groups.push_back({i, i, {}, 0});
    Group& group = groups.back();
    group.passes.push_back({group.rows, count * length, length});
    group.rows += count * length;
    i += static_cast<std::size_t>(count);
    group.last = i;
  }
  return groups;
}

class DeviceTextForwards final : public TextForwards {
 public:
  DeviceTextForwards(std::span<const Model* const> models, ComputeType compute, const GpuOptions& device)
      : device_(device.index),
        timings_(device.timings),
        memory_(device.memory_bytes),
        products_(memory_, stream_) {
    const std::int64_t vocab = models.front()->config().vocab_size;
    const std::int64_t head_rows =
        std::max<std::int64_t>(1, DeviceHead::default_rows(vocab) / std::ssize(models));
    std::int64_t widest = 0;
    for (const Model* model : models) {
      runners_.push_back(std::make_unique<Runner>(memory_, products_, *model, compute, head_rows, stream_));
      if (timings_ != nullptr) {
        runners_.back()->tuner.emplace(*device.timings, device_, memory_, products_, stream_);
      }
      widest = std::max(widest, model->config().hidden_size);
    }
    rows_a_score_ = head_rows;
    const auto room = [&](std::int64_t bytes, std::string_view what) {
      return DeviceBuffer(memory_, static_cast<std::uint64_t>(head_rows * bytes), what);
    };
    gathered_ = room(widest * static_cast<std::int64_t>(sizeof(float)), "scored rows");
    indices_ = room(sizeof(std::int32_t), "scored rows");
    targets_ = room(sizeof(std::int32_t), "targets");
    best_ = room(sizeof(std::int32_t), "likeliest tokens");
    numbers_ = room(sizeof(double), "losses");
  }

  std::size_t num_models() const override { return runners_.size(); }

  std::int64_t prepare(std::int64_t longest) override {
    check(cudaSetDevice(device_));
    longest_ = longest;
    const std::int64_t pass = std::max<std::int64_t>(1, kTokensPerPass / longest) * longest;
    std::uint64_t working = 0;
    std::int64_t row_bytes = 0;
    for (const auto& runner : runners_) {
      runner->hidden = DeviceMatrix();
      row_bytes += runner->model.config().row_size() * static_cast<std::int64_t>(sizeof(float));
    }
    for (const auto& runner : runners_) {
      const std::uint64_t before = memory_.used();
      const BlockStream blocks = stream_of(*runner, pass);
      working = std::max(working, memory_.used() - before);
    }
    const std::uint64_t free = memory_.limit() - memory_.used();
    const std::uint64_t left = free > working ? free - working : 0;
    max_rows_ = std::max<std::int64_t>(1, static_cast<std::int64_t>(left / 2) / row_bytes);
    return max_rows_;
  }

  void run(std::size_t model, const TokenWindows& windows, std::int64_t first, std::int64_t count,
           const std::function<void(std::int64_t)>& step) override {
    check(cudaSetDevice(device_));
    Runner& runner = *runners_[model];
    const auto begin = windows.ids.begin() + first * windows.seqlen;
    const TokenWindows part{windows.seqlen, {begin, begin + count * windows.seqlen}};
    runner.hidden = DeviceMatrix();
    runner.hidden = embed(memory_, runner.model, part, stream_);
    std::vector<Pass> passes;
    for_passes(part, [&](std::int64_t row, std::int64_t rows) {
      passes.push_back({row, rows, part.seqlen});
    });
    stream_of(runner, rows_per_pass(part)).run(runner.hidden.view(), passes, [&] { step(count); });
    finish_run();
  }

  std::int64_t run(std::size_t model, std::span<const std::int32_t> ids, std::span<const Segment> segments,
                   const std::function<void()>& step) override {
    check(cudaSetDevice(device_));
    Runner& runner = *runners_[model];
    const std::vector<Sequence> sequences = sequences_of(ids, segments);
    const std::vector<Group> groups = groups_of(sequences, max_rows_);
    runner.hidden = DeviceMatrix();
    runner.hidden = DeviceMatrix(memory_, DType::kF32, std::ssize(ids), runner.model.config().row_size(),
                                 "hidden states");
    std::size_t blocks_done = 0;
    for (const Group& group : groups) {
      const std::span part = std::span(sequences).subspan(group.first, group.last - group.first);
      const DeviceMatrix hidden = embed_group(runner.model, part, group);
      std::int64_t most_rows = 0;
      for (const Pass& pass : group.passes) most_rows = std::max(most_rows, pass.rows);
      stream_of(runner, most_rows).run(hidden.view(), group.passes, [&] {
        if (++blocks_done % groups.size() == 0) step();
      });
      take_rows(part, group, hidden.view(), runner.hidden.view());
      finish_run();
    }
    std::int64_t computed = 0;
    for (const Sequence& sequence : sequences) computed += std::ssize(sequence.ids);
    return computed;
  }

  std::int64_t rows_a_score() const override { return rows_a_score_; }

  void score(std::size_t model, std::span<const std::int64_t> rows, std::span<const std::int32_t> targets,
             std::span<double> log_probs, std::span<std::int32_t> best) override {
    expect(!rows.empty() && std::ssize(rows) <= rows_a_score_, "score: a bounded number of rows");
    check(cudaSetDevice(device_));
    Runner& runner = *runners_[model];
    const DeviceView hidden = runner.hidden.view();
    const std::vector<std::int32_t> indices(rows.begin(), rows.end());
    to_device(indices.data(), indices.size() * sizeof(std::int32_t), indices_);
    to_device(targets.data(), targets.size_bytes(), targets_);
    const DeviceView x =
        view_of(gathered_.data(), DType::kF32, std::ssize(rows), runner.model.config().hidden_size);
    gather(hidden.data, DType::kF32, hidden.cols, indices_.as<std::int32_t>(), x.rows, nullptr, x.cols,
           x.data, stream_);
    runner.logits = runner.head.logits(x);
    const auto* logits = static_cast<const float*>(runner.logits.data);
    target_log_probs(logits, x.rows, runner.logits.cols, 0.0f, targets_.as<std::int32_t>(),
                     numbers_.as<double>(), stream_);
    likeliest(logits, x.rows, runner.logits.cols, best_.as<std::int32_t>(), stream_);
    to_host(numbers_.data(), log_probs.data(), log_probs.size_bytes());
    to_host(best_.data(), best.data(), best.size_bytes());
    stream_.synchronize();
  }

  void divergences(std::size_t model, std::span<double> kl) override {
    check(cudaSetDevice(device_));
    const DeviceView a = runners_.front()->logits, b = runners_[model]->logits;
    expect(a.rows == std::ssize(kl) && b.rows == a.rows && a.cols == b.cols,
           "divergences: the rows that were scored");
    row_divergences(static_cast<const float*>(a.data), static_cast<const float*>(b.data), a.rows, a.cols,
                    numbers_.as<double>(), stream_);
    to_host(numbers_.data(), kl.data(), kl.size_bytes());
    stream_.synchronize();
  }

  std::vector<float> logits(std::size_t model, std::int64_t index) override {
    check(cudaSetDevice(device_));
    const DeviceView all = runners_[model]->logits;
    expect(index >= 0 && index < all.rows, "logits: a row that was scored");
    std::vector<float> row(static_cast<std::size_t>(all.cols));
    to_host(all.row(index), row.data(), row.size() * sizeof(float));
    stream_.synchronize();
    return row;
  }

 private:
  struct Runner {
    Runner(DeviceMemory& memory, Products& products, const Model& of, ComputeType wanted,
           std::int64_t head_rows, cudaStream_t stream)
        : model(of),
          compute(compute_dtype(of, wanted)),
          head(memory, products, of, compute, head_rows, stream) {}
    const Model& model;
    const DType compute;
    DeviceHead head;
    std::optional<DeviceTuner> tuner;  // holds the library that blocks' second forms use
    DeviceMatrix hidden;               // [rows, row_size]
    DeviceView logits{};               // of the rows that were scored last
  };

  BlockStream stream_of(Runner& runner, std::int64_t rows) {
    return BlockStream(memory_, products_, runner.model, device_, runner.tuner ? &*runner.tuner : nullptr,
                       rows, longest_, runner.compute, stream_);
  }

  void to_device(const void* from, std::size_t bytes, const DeviceBuffer& to) {
    check(cudaMemcpyAsync(to.data(), from, bytes, cudaMemcpyHostToDevice, stream_));
  }
  void to_host(const void* from, void* to, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_));
  }

  // What was enqueued belongs to the time of the run.
  void finish_run() {
    stream_.synchronize();
    if (timings_ != nullptr) timings_->save();
  }

  // The sequences of a group, each padded to its pass's length.
  DeviceMatrix embed_group(const Model& model, std::span<const Sequence> sequences, const Group& group) {
    DeviceMatrix hidden(memory_, DType::kF32, group.rows, model.config().row_size(),
                        "the hidden states of sequences");
    std::size_t next = 0;
    for (const Pass& pass : group.passes) {
      std::vector<std::int32_t> ids;
      for (std::int64_t row = 0; row < pass.rows; row += pass.length) {
        ids.insert(ids.end(), sequences[next].ids.begin(), sequences[next].ids.end());
        ids.resize(static_cast<std::size_t>(row + pass.length), 0);
        ++next;
      }
      Matrix rows(pass.rows, hidden.view().cols);
      model.embed(ids, pass.length, 0, rows.view());
      check(cudaMemcpyAsync(hidden.view().row(pass.first_row), rows.data(), rows.values().size_bytes(),
                            cudaMemcpyHostToDevice, stream_));
      stream_.synchronize();  // `rows` lives until here
    }
    return hidden;
  }

  // The rows that were asked for, in their own order.
  void take_rows(std::span<const Sequence> sequences, const Group& group, DeviceView from, DeviceView to) {
    std::size_t next = 0;
    for (const Pass& pass : group.passes) {
      for (std::int64_t row = 0; row < pass.rows; row += pass.length) {
        for (const Sequence::Part& part : sequences[next].parts) {
          copy(from.row_block(pass.first_row + row + part.first, part.length),
               to.row_block(part.first_row, part.length), stream_);
        }
        ++next;
      }
    }
  }

  const int device_;
  const Timings* timings_;  // null: nothing is measured
  DeviceMemory memory_;
  Stream stream_;
  Products products_;
  std::vector<std::unique_ptr<Runner>> runners_;
  std::int64_t longest_ = 0, max_rows_ = 0, rows_a_score_ = 0;
  DeviceBuffer gathered_, indices_, targets_, best_, numbers_;
};

}  // namespace

std::unique_ptr<TextForwards> make_text_forwards(std::span<const Model* const> models, ComputeType compute,
                                                 const GpuOptions& device) {
  expect(!models.empty(), "make_text_forwards: models");
  check(cudaSetDevice(device.index));
  return std::make_unique<DeviceTextForwards>(models, compute, device);
}

}  // namespace swiftprune::cuda
