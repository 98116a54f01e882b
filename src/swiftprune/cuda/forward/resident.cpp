#include "swiftprune/cuda/forward/resident.h"

#include <algorithm>
#include <limits>

#include "swiftprune/core/progress.h"

namespace swiftprune::cuda {
namespace {

constexpr std::int64_t kPassTokens = 4096;  // of prompts at a time: bounds the activations
constexpr std::uint64_t kSparePart = 32;    // of the memory: what CUDA takes itself, for graphs among others

template <class T>
PinnedBuffer pinned(std::int64_t count) {
  return PinnedBuffer(static_cast<std::uint64_t>(count) * sizeof(T));
}

}  // namespace

DeviceModel::Graph::~Graph() {
  if (graph != nullptr) cudaGraphExecDestroy(graph);
}

DeviceModel::DeviceModel(const Model& of, ComputeType compute, std::int64_t lanes, std::int64_t capacity,
                         const GpuOptions& device)
    : model_(of),
      device_((check(cudaSetDevice(device.index)), device.index)),
      capacity_(capacity),
      positions_(static_cast<std::size_t>(lanes), 0),
      memory_(device.memory_bytes),
      dtype_(compute_dtype(of, compute)),
      products_(memory_, stream_),
      head_(memory_, products_, of, dtype_, lanes, stream_),
      forward_(memory_, products_, of, std::max(lanes, std::min(lanes * capacity, kPassTokens)), capacity,
               dtype_, stream_),
      cache_(memory_, of.config(), dtype_, lanes, capacity) {
  expect(lanes > 0 && capacity > 0, "DeviceModel: room for sequences");
  const ModelConfig& config = of.config();
  for (std::int64_t lane = 0; lane < lanes; ++lane) slots_.push_back(static_cast<std::int32_t>(lane));
  BlockLoader loader(of, device.index);
  blocks_.reserve(static_cast<std::size_t>(config.num_layers()));
  for (std::int64_t layer = 0; layer < config.num_layers(); ++layer) {
    BlockWeights& block = blocks_.emplace_back(memory_, of, dtype_, layer);
    loader.start(layer, block);
    loader.finish();
    block.load_packed(memory_, stream_);
    block.refresh(stream_);
    caches_.push_back({.pages = cache_.args(layer)});
    if (block.config().has_state())
      caches_.back().mixer = make_mixer_state(memory_, block.config().mixer(), lanes);
  }
  forward_.keep_all();
  hidden_ = DeviceMatrix(memory_, DType::kF32, forward_.rows(), config.row_size(), "hidden states");
  last_ = DeviceMatrix(memory_, DType::kF32, lanes, config.hidden_size, "hidden states");
  places_ = DeviceBuffer(memory_, static_cast<std::uint64_t>(2 * lanes) * sizeof(std::int32_t), "positions");
  scratch_ = DeviceBuffer(memory_, kCacheScratch, "parts of attention");
  check(cudaMemsetAsync(scratch_.data(), 0, scratch_.bytes(), stream_));
  host_hidden_ = pinned<float>(forward_.rows() * config.row_size());
  host_places_ = pinned<std::int32_t>(2 * lanes);
  host_logits_ = pinned<float>(lanes * config.vocab_size);
  if (device.timings != nullptr) tune(device);
  cache_.set_limit(cache_.most_pages());
  stream_.synchronize();
}

void DeviceModel::share_memory(std::uint64_t cache_bytes) {
  const std::uint64_t spare = memory_.limit() / kSparePart;
  const std::uint64_t taken = memory_.used() + spare;
  const std::uint64_t left = memory_.limit() > taken ? memory_.limit() - taken : 0;
  const std::int64_t pages =
      cache_pages(cache_bytes, cache_.page_bytes(), cache_.most_pages(), "--cache-memory");
  const auto fitting = static_cast<std::int64_t>(left / static_cast<std::uint64_t>(cache_.page_bytes()));
  if (fitting == 0) {
    fail(ErrorKind::kDevice,
         "cuda: the model leaves {:.2f} GB for cached keys and values, expected at least {:.2f} GB; use a "
         "larger "
         "--gpu-memory or a smaller --batch",
         static_cast<double>(left) * 1e-9, static_cast<double>(cache_.page_bytes()) * 1e-9);
  }
  cache_.set_limit(std::min(pages, fitting));
  capacity_ = std::min(capacity_, std::min(pages, fitting) * LanePages::kPositions);
  shares_memory_ = true;
}

std::optional<std::int64_t> DeviceModel::start(const LaneStart& start) {
  check(cudaSetDevice(device_));
  const std::int64_t shared = model_.config().has_recurrent_blocks() ? 0 : start.shared;
  expect(shared <= position(start.source) && start.positions <= capacity_, "start: positions that there are");
  try {
    if (!cache_.start({slot(start.lane), slot(start.source), shared, start.positions}, stream_))
      return std::nullopt;
  } catch (const Error&) {
    if (!shares_memory_) throw;
    // Another program has taken it: what there is has to do. The error is not one of the kernels to come.
    cudaGetLastError();
    cache_.stop_growing();
    return std::nullopt;
  }
  return positions_[static_cast<std::size_t>(start.lane)] = shared;
}

void DeviceModel::tune(const GpuOptions& device) {
  tuner_.emplace(*device.timings, device.index, memory_, products_, stream_);
  const std::int64_t most = forward_.rows();
  const double repeats =
      device.long_lived ? std::numeric_limits<double>::infinity() : static_cast<double>(blocks_.size());
  for (BlockWeights& block : blocks_) {
    block.for_each_packed([&](DevicePacked& weight) { tuner_->choose_few(weight, num_lanes()); });
  }
  if (!device.prompt_copies) return;
  for (BlockWeights& block : blocks_) {
    block.for_each_packed([&](DevicePacked& weight) { tuner_->choose_many(weight, most, repeats); });
  }
}

void DeviceModel::swap(std::int64_t a, std::int64_t b) {
  std::swap(positions_[static_cast<std::size_t>(a)], positions_[static_cast<std::size_t>(b)]);
  std::swap(slots_[static_cast<std::size_t>(a)], slots_[static_cast<std::size_t>(b)]);
}

std::int64_t DeviceModel::bytes_per_step(std::int64_t position) const {
  std::int64_t bytes = head_.num_bytes() + forward_.bytes_beside();
  for (const BlockWeights& block : blocks_) {
    const std::int64_t window = block.config().attention_window;
    const std::int64_t keys = window > 0 ? std::min(window, position) : position;
    const ModelConfig& config = model_.config();
    bytes += block.linear_bytes() + block.expert_bytes(num_lanes()) +
             2 * num_lanes() * keys * config.kv_size_in(block.config()) * size_of(dtype_);
    if (block.config().has_state())
      bytes += num_lanes() * state_numbers(block.config().mixer()) * static_cast<std::int64_t>(sizeof(float));
  }
  return bytes;
}

// The tokens' embeddings and the lanes' places to the device. Nothing on the stream may be using the host's
// copies of the pass before.
void DeviceModel::load_tokens(std::int64_t first, std::int64_t count, std::span<const std::int32_t> ids) {
  const auto rows = static_cast<std::int64_t>(ids.size());
  const std::int64_t length = rows / count;
  const std::int64_t size = model_.config().row_size();
  const MatrixView embedded{reinterpret_cast<float*>(host_hidden_.data()), rows, size, size};
  auto* places = reinterpret_cast<std::int32_t*>(host_places_.data());
  for (std::int64_t s = 0; s < count; ++s) {
    model_.embed(ids.subspan(static_cast<std::size_t>(s * length), static_cast<std::size_t>(length)), length,
                 position(first + s), embedded.row_block(s * length, length));
    places[s] = slots_[static_cast<std::size_t>(first + s)];
    places[num_lanes() + s] = static_cast<std::int32_t>(position(first + s));
  }
  check(cudaMemcpyAsync(places_.data(), places, places_.bytes(), cudaMemcpyHostToDevice, stream_));
  check(cudaMemcpyAsync(hidden_.view().data, embedded.data,
                        static_cast<std::size_t>(rows * size) * sizeof(float), cudaMemcpyHostToDevice,
                        stream_));
}

void DeviceModel::run_blocks(std::int64_t rows, const CachedRows& cached) {
  const DeviceView hidden = hidden_.view().row_block(0, rows);
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    forward_.run_cached(blocks_[layer], hidden, caches_[layer], cached);
  }
}

void DeviceModel::pass(std::int64_t first, std::int64_t count, std::span<const std::int32_t> ids) {
  const std::int64_t length = std::ssize(ids) / count;
  stream_.synchronize();  // the pass before
  cache_.upload(stream_);
  load_tokens(first, count, ids);
  const auto begin = positions_.begin() + first;
  run_blocks(std::ssize(ids),
             {.length = length,
              .lanes = places_.as<std::int32_t>(),
              .positions = places_.as<std::int32_t>() + num_lanes(),
              .scratch = scratch_.data(),
              .from_start = std::all_of(begin, begin + count, [](std::int64_t at) { return at == 0; })});
  for (std::int64_t s = 0; s < count; ++s) positions_[static_cast<std::size_t>(first + s)] += length;
}

// One token a lane, recorded when it is run for the second time.
DeviceView DeviceModel::step(std::int64_t first, std::span<const std::int32_t> ids) {
  const std::int64_t count = std::ssize(ids);
  const DeviceView rows = hidden_of(model_.config(), hidden_.view().row_block(0, count));
  stream_.synchronize();
  cache_.upload(stream_);
  load_tokens(first, count, ids);
  const auto run = [&] {
    run_blocks(count, {.length = 1,
                       .lanes = places_.as<std::int32_t>(),
                       .positions = places_.as<std::int32_t>() + num_lanes(),
                       .scratch = scratch_.data()});
    return head_.logits(rows);
  };
  for (std::int64_t s = 0; s < count; ++s) ++positions_[static_cast<std::size_t>(first + s)];
  Graph& recorded = steps_[count];
  if (recorded.runs++ == 0) return run();
  if (recorded.graph == nullptr) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    run();
    check(cudaStreamEndCapture(stream_, &graph));
    const cudaError_t status = cudaGraphInstantiate(&recorded.graph, graph, 0);
    cudaGraphDestroy(graph);
    check(status);
  }
  check(cudaGraphLaunch(recorded.graph, stream_));
  return head_.logits_of(count);
}

ConstMatrixView DeviceModel::append(std::int64_t first, std::int64_t count,
                                    std::span<const std::int32_t> ids) {
  check_interrupt();
  check(cudaSetDevice(device_));  // of the calling thread
  const std::int64_t length = count > 0 ? std::ssize(ids) / count : 0;
  expect(count > 0 && first + count <= num_lanes() && length > 0 && length * count == std::ssize(ids),
         "append: the same number of tokens to each lane");
  for (std::int64_t lane = first; lane < first + count; ++lane)
    expect(position(lane) + length <= cache_.room(slot(lane)), "append: tokens that fit");
  if (length == 1) return download(step(first, ids));
  const auto part = [&](std::int64_t from, std::int64_t tokens) {
    return ids.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(tokens));
  };
  // Whole sequences, as many as a pass takes; or one in pieces.
  const std::int64_t together = std::clamp<std::int64_t>(forward_.rows() / length, 1, count);
  for (std::int64_t s = 0; s < count; s += together) {
    const std::int64_t sequences = std::min(together, count - s);
    std::int64_t piece = 0;
    for (std::int64_t done = 0; done < length; done += piece) {
      piece = std::min(length - done, forward_.rows() / sequences);
      pass(first + s, sequences, part(s * length + done, sequences * piece));
    }
    // The sequences' last rows follow each other in last_.
    const DeviceView target = last_.view().row_block(s, sequences);
    const std::size_t bytes = static_cast<std::size_t>(target.cols) * sizeof(float);
    const auto row_bytes = static_cast<std::size_t>(hidden_.view().cols) * sizeof(float);
    check(cudaMemcpy2DAsync(target.data, bytes, hidden_.view().row(piece - 1),
                            row_bytes * static_cast<std::size_t>(piece), bytes,
                            static_cast<std::size_t>(sequences), cudaMemcpyDeviceToDevice, stream_));
  }
  return download(head_.logits(last_.view().row_block(0, count)));
}

ConstMatrixView DeviceModel::download(DeviceView logits) {
  const std::size_t bytes = static_cast<std::size_t>(logits.numel()) * sizeof(float);
  check(cudaMemcpyAsync(host_logits_.data(), logits.data, bytes, cudaMemcpyDeviceToHost, stream_));
  stream_.synchronize();
  return {reinterpret_cast<const float*>(host_logits_.data()), logits.rows, logits.cols, logits.cols};
}

}  // namespace swiftprune::cuda
