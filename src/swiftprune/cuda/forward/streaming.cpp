#include "swiftprune/cuda/forward/streaming.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

#include "swiftprune/core/parallel.h"

namespace swiftprune::cuda {
namespace {

constexpr std::uint64_t kChunkBytes = std::uint64_t{16} << 20;  // a multiple of every element size
constexpr int kMaxThreads = 6;  // a copy from the page cache runs at about 5 GB/s a thread

constexpr std::array<const char*, kMaxThreads> kWriterRows = {"write 1", "write 2", "write 3",
                                                              "write 4", "write 5", "write 6"};

int num_copy_threads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 1, kMaxThreads);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

struct BlockLoader::Lane {
  Stream stream;
  std::array<PinnedBuffer, 2> pinned{PinnedBuffer(kChunkBytes), PinnedBuffer(kChunkBytes)};
  std::array<Event, 2> copied;  // the buffer's last copy has ended
  int next = 0;
};

BlockLoader::BlockLoader(const Model& model, int device) : model_(model), device_(device) {
  for (int i = 0; i < num_copy_threads(); ++i) lanes_.push_back(std::make_unique<Lane>());
}

BlockLoader::~BlockLoader() {
  for (std::future<void>& future : running_) future.wait();
}

void BlockLoader::start(std::int64_t layer, BlockWeights& target) {
  expect(running_.empty(), "BlockLoader: finish() before the next start()");
  started_ = std::chrono::steady_clock::now();
  layer_ = layer;
  extras_ = target.set_layer(layer);
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    // The first lane stands for all in the timeline.
    Timeline* timeline = i == 0 ? Timeline::bound() : nullptr;
    running_.push_back(std::async(std::launch::async, [this, i, &target, timeline] {
      fill(*lanes_[i], target, extras_, i);
      if (timeline != nullptr) timeline->add("read", "read", layer_, started_, Timeline::Clock::now());
    }));
  }
}

void BlockLoader::copy_through(Lane& lane, std::span<const std::byte> source, std::byte* to) {
  const auto slot = static_cast<std::size_t>(lane.next);
  lane.next ^= 1;
  lane.copied[slot].synchronize();
  std::memcpy(lane.pinned[slot].data(), source.data(), source.size());
  check(cudaMemcpyAsync(to, lane.pinned[slot].data(), source.size(), cudaMemcpyHostToDevice, lane.stream));
  lane.copied[slot].record(lane.stream);
}

// One linear of one expert, whatever its form in the file, in the compute dtype.
void BlockLoader::copy_expert(Lane& lane, const BlockWeights& target, std::int64_t expert, ExpertPart part) {
  const ExpertTensors& tensors = target.expert_tensors();
  const DType from = tensors.dtype(expert, part), to = target.compute();
  std::vector<std::byte> own, converted;
  std::span<const std::byte> values = tensors.bytes(expert, part, own);
  if (from != to) {
    std::vector<float> wide(values.size() / static_cast<std::size_t>(size_of(from)));
    convert_to_f32(values, from, wide);
    converted.resize(wide.size() * static_cast<std::size_t>(size_of(to)));
    convert_from_f32(wide, to, converted);
    values = converted;
  }
  std::byte* place = target.data() + target.expert_offset(expert, part);
  for (std::uint64_t first = 0; first < values.size(); first += kChunkBytes) {
    copy_through(lane, values.subspan(first, std::min(kChunkBytes, values.size() - first)), place + first);
  }
}

// The block's chunks in turn, one lane each; then its experts.
void BlockLoader::fill(Lane& lane, BlockWeights& target, const std::vector<std::byte>& extras,
                       std::size_t lane_index) {
  check(cudaSetDevice(device_));
  std::size_t chunk = 0;
  const auto copy = [&](std::span<const std::byte> source, std::byte* to) {
    for (std::uint64_t first = 0; first < source.size(); first += kChunkBytes, ++chunk) {
      if (chunk % lanes_.size() != lane_index) continue;
      copy_through(lane, source.subspan(first, std::min(kChunkBytes, source.size() - first)), to + first);
    }
  };
  for (const BlockLayout::Weight& weight : target.layout().weights) {
    copy(model_.checkpoint().bytes(model_.checkpoint().at(weight.tensor)), target.data() + weight.offset);
  }
  copy(extras, target.data() + target.layout().extras_offset);
  if (target.config().experts && !target.has_packed_experts()) {
    const std::int64_t count = target.config().experts->count;
    for (auto e = static_cast<std::int64_t>(lane_index); e < count; e += std::ssize(lanes_)) {
      for (const ExpertPart part : parts_of(*target.config().experts)) copy_expert(lane, target, e, part);
      target.expert_tensors().release(e);
    }
  }
  lane.stream.synchronize();
}

void BlockLoader::finish() {
  std::exception_ptr error;
  for (std::future<void>& future : running_) {
    try {
      future.get();
    } catch (...) {
      error = std::current_exception();
    }
  }
  running_.clear();
  if (error) std::rethrow_exception(error);
  busy_seconds_ += seconds_since(started_);
  model_.release_block(layer_);
}

TensorWriter::TensorWriter(TensorOutput& output, int device) : output_(output), device_(device) {
  for (int i = 0; i < num_copy_threads(); ++i) {
    const char* row = kWriterRows[static_cast<std::size_t>(i)];
    threads_.emplace_back([this, row, timeline = Timeline::bound()] { work(timeline, row); });
  }
}

TensorWriter::~TensorWriter() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    tasks_.clear();
  }
  changed_.notify_all();
}

void TensorWriter::write(const std::string& name, DeviceView values) {
  expect(values.stride == values.cols, "TensorWriter: contiguous tensors");
  const std::int64_t size = size_of(values.dtype);
  const auto total =
      output_.takes(name) ? static_cast<std::uint64_t>(values.numel() * size) : std::uint64_t{0};
  std::vector<Task> tasks;
  for (std::uint64_t first = 0; first < total; first += kChunkBytes) {
    tasks.push_back({nullptr,
                     name,
                     static_cast<std::int64_t>(first) / size,
                     static_cast<std::byte*>(values.data) + first,
                     std::min(kChunkBytes, total - first),
                     {}});
  }
  add(std::move(tasks));
}

void TensorWriter::run(std::function<void()> write) {
  std::vector<Task> tasks(1);
  tasks.front().run = std::move(write);
  add(std::move(tasks));
}

void TensorWriter::add(std::vector<Task> tasks) {
  {
    const std::lock_guard lock(mutex_);
    if (blocks_.empty() || blocks_.back()->when_written) blocks_.push_back(std::make_shared<Block>());
    last_block_ = blocks_.back();
    if (unwritten_ == 0 && !tasks.empty()) busy_since_ = std::chrono::steady_clock::now();
    for (Task& task : tasks) {
      task.block = last_block_;
      tasks_.push_back(std::move(task));
      ++last_block_->unread;
      ++last_block_->unwritten;
      ++unread_;
      ++unwritten_;
    }
  }
  changed_.notify_all();
}

void TensorWriter::end_block(std::function<void()> when_written) {
  {
    const std::lock_guard lock(mutex_);
    if (blocks_.empty() || blocks_.back()->when_written) blocks_.push_back(std::make_shared<Block>());
    blocks_.back()->when_written = std::move(when_written);
  }
  finish_blocks();
}

void TensorWriter::finish_blocks() {
  const std::lock_guard order(finish_mutex_);
  while (true) {
    std::shared_ptr<Block> block;
    {
      const std::lock_guard lock(mutex_);
      if (blocks_.empty() || !blocks_.front()->when_written || blocks_.front()->unwritten > 0) return;
      block = std::move(blocks_.front());
      blocks_.pop_front();
    }
    block->when_written();
  }
}

void TensorWriter::mark_read(Block& block) {
  {
    const std::lock_guard lock(mutex_);
    --unread_;
    --block.unread;
  }
  changed_.notify_all();
}

void TensorWriter::work(Timeline* timeline, const char* row) {
  try {
    set_num_threads(1);  // there are several of these
    check(cudaSetDevice(device_));
    const Stream stream;
    const PinnedBuffer pinned(kChunkBytes);
    while (true) {
      Task task;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stop_ || !tasks_.empty(); });
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      if (!task.run) {
        check(cudaMemcpyAsync(pinned.data(), task.data, task.bytes, cudaMemcpyDeviceToHost, stream));
        stream.synchronize();
        mark_read(*task.block);
      }
      const auto start = Timeline::Clock::now();
      if (task.run) {
        task.run();
        mark_read(*task.block);
      } else {
        output_.write_part(task.name, task.first, {pinned.data(), task.bytes});
      }
      if (timeline != nullptr) timeline->add("write", row, -1, start, Timeline::Clock::now());
      bool last_of_block = false;
      {
        const std::lock_guard lock(mutex_);
        if (--unwritten_ == 0) busy_seconds_ += seconds_since(busy_since_);
        last_of_block = --task.block->unwritten == 0;
      }
      if (last_of_block) finish_blocks();
      changed_.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
    changed_.notify_all();
  }
}

void TensorWriter::rethrow() {
  if (error_) std::rethrow_exception(error_);
}

void TensorWriter::wait_read(bool but_last_block) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    const std::int64_t of_last = but_last_block && last_block_ ? last_block_->unread : 0;
    return error_ != nullptr || unread_ == of_last;
  });
  rethrow();
}

void TensorWriter::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return error_ != nullptr || unwritten_ == 0; });
  rethrow();
  lock.unlock();
  finish_blocks();  // and waits for a thread that tells the output of one
  lock.lock();
  rethrow();
}

}  // namespace swiftprune::cuda
