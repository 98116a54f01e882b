// Blocks to the device and pruned tensors back, beside the computation: a few threads, each with its own
// stream and pinned memory, copy between the mapped files, pinned memory and the device.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "swiftprune/core/timeline.h"
#include "swiftprune/cuda/forward/block.h"
#include "swiftprune/pipeline/tensor_output.h"

namespace swiftprune::cuda {

// Reads one block at a time into device memory.
class BlockLoader {
 public:
  BlockLoader(const Model& model, int device);
  ~BlockLoader();
  // Begins to fill `target`, which nothing on the device may be using any more.
  void start(std::int64_t layer, BlockWeights& target);
  // Waits until the block is there; throws what went wrong.
  void finish();
  double busy_seconds() const { return busy_seconds_; }  // from start to the last byte, all blocks

 private:
  struct Lane;
  // At most a chunk.
  static void copy_through(Lane& lane, std::span<const std::byte> source, std::byte* to);
  static void copy_expert(Lane& lane, const BlockWeights& target, std::int64_t expert, ExpertPart part);
  void fill(Lane& lane, BlockWeights& target, const std::vector<std::byte>& extras, std::size_t lane_index);

  const Model& model_;
  int device_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<std::byte> extras_;
  std::vector<std::future<void>> running_;
  std::int64_t layer_ = -1;
  std::chrono::steady_clock::time_point started_;
  double busy_seconds_ = 0.0;
};

// Hands tensors from device memory to an output.
class TensorWriter {
 public:
  TensorWriter(TensorOutput& output, int device);
  ~TensorWriter();
  // The values must be final; `data` must stay until wait_read().
  void write(const std::string& name, DeviceView values);
  // The same for what is off the device already and only has to be written: `write` runs on a thread of the writer's,
  // beside others, and counts as something to copy until it returns.
  void run(std::function<void()> write);
  // All tensors of a block are handed over: `when_written` is called when the last of them is written, block
  // after block, one call at a time.
  void end_block(std::function<void()> when_written);
  // Until everything handed over is off the device, or all but the last block's tensors; throws what went
  // wrong.
  void wait_read(bool but_last_block = false);
  // Until everything is written; throws what went wrong.
  void finish();
  double busy_seconds() const { return busy_seconds_; }  // with anything to copy or write

 private:
  struct Block {
    std::function<void()> when_written;  // empty until the block has ended
    std::int64_t unread = 0, unwritten = 0;
  };
  struct Task {
    std::shared_ptr<Block> block;
    std::string name;
    std::int64_t first = 0;  // element
    const std::byte* data = nullptr;
    std::uint64_t bytes = 0;
    std::function<void()> run;  // instead of all above but the block
  };
  void add(std::vector<Task> tasks);
  void mark_read(Block& block);
  void work(Timeline* timeline, const char* row);
  void finish_blocks();
  void rethrow();

  TensorOutput& output_;
  int device_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  std::deque<std::shared_ptr<Block>> blocks_;  // not yet told of
  std::shared_ptr<Block> last_block_;          // whose tensors were handed over last
  std::mutex finish_mutex_;                    // held while the output is told
  std::int64_t unread_ = 0;                    // handed over and still on the device
  std::int64_t unwritten_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
  std::chrono::steady_clock::time_point busy_since_;
  double busy_seconds_ = 0.0;
  std::vector<std::jthread> threads_;
};

}  // namespace swiftprune::cuda
