// The device's model behind the interfaces of the commands that generate.
#include <utility>

#include "swiftprune/cuda/forward/attention_kernels.h"
#include "swiftprune/cuda/forward/resident.h"

namespace swiftprune::cuda {
namespace {

class DeviceGenerator : public SequenceGenerator {
 public:
  explicit DeviceGenerator(std::unique_ptr<DeviceModel> model) : model_(std::move(model)) { start_all(); }
  ConstMatrixView append(std::span<const std::int32_t> ids) override {
    return model_->append(0, model_->num_lanes(), ids);
  }
  void restart() override { start_all(); }
  std::int64_t bytes_per_step(std::int64_t position) const override {
    return model_->bytes_per_step(position);
  }

 private:
  void start_all() {
    for (std::int64_t lane = 0; lane < model_->num_lanes(); ++lane)
      model_->start({lane, lane, 0, model_->capacity()});
  }
  std::unique_ptr<DeviceModel> model_;
};

class DeviceEngine : public SequenceEngine {
 public:
  explicit DeviceEngine(std::unique_ptr<DeviceModel> model) : model_(std::move(model)) {}
  std::int64_t num_lanes() const override { return model_->num_lanes(); }
  std::int64_t capacity() const override { return model_->capacity(); }
  std::optional<std::int64_t> start(const LaneStart& start) override { return model_->start(start); }
  void trim(std::int64_t lane) override { model_->trim(lane); }
  void drop(std::int64_t lane) override { model_->drop(lane); }
  CacheMemory cache_memory() const override { return model_->cache_memory(); }
  void swap(std::int64_t a, std::int64_t b) override { model_->swap(a, b); }
  ConstMatrixView prefill(std::int64_t lane, std::span<const std::int32_t> ids) override {
    return model_->append(lane, 1, ids);
  }
  ConstMatrixView decode(std::span<const std::int32_t> ids) override {
    return model_->append(0, std::ssize(ids), ids);
  }

 private:
  std::unique_ptr<DeviceModel> model_;
};

constexpr std::int64_t kCeilingBytes = std::int64_t{1} << 30;
constexpr int kCeilingRounds = 5;

class DeviceSpeedTarget : public SpeedTarget {
 public:
  DeviceSpeedTarget(ComputeType compute, const GpuOptions& device) : compute_(compute), device_(device) {
    check(cudaSetDevice(device.index));
  }
  std::unique_ptr<SequenceGenerator> load(const Model& model, std::int64_t sequences,
                                          std::int64_t capacity) override {
    return make_generator(model, compute_, sequences, capacity, device_);
  }
  std::int64_t memory_bytes() override {
    std::size_t free = 0;
    std::size_t total = 0;
    check(cudaMemGetInfo(&free, &total));
    return static_cast<std::int64_t>(total - free);
  }
  double read_ceiling() override {
    DeviceMemory memory(0);
    const Stream stream;
    const DeviceBuffer bytes(memory, kCeilingBytes + 16, "the read ceiling");
    check(cudaMemsetAsync(bytes.data(), 0, bytes.bytes(), stream));
    float best = 0.0f;
    for (int round = 0; round < kCeilingRounds; ++round) {
      const Event start(true);
      const Event end(true);
      start.record(stream);
      read_all(bytes.data(), kCeilingBytes, bytes.as<std::uint32_t>() + kCeilingBytes / 4, stream);
      end.record(stream);
      end.synchronize();
      const float ms = end.ms_since(start);
      if (round == 0 || ms < best) best = ms;
    }
    return 1e3 * static_cast<double>(kCeilingBytes) / static_cast<double>(best);
  }
  double product_us(const PackedTensor& weight) override {
    DeviceMemory memory(device_.memory_bytes);
    const Stream stream;
    Products products(memory, stream);
    Timings own{{}};
    DeviceTuner tuner(device_.timings != nullptr ? *device_.timings : own, device_.index, memory, products,
                      stream);
    const DType dtype = is_grid(weight.kind()) ? DType::kBF16 : weight.shape().dtype;
    const DevicePacked packed(memory, {&weight, 1}, dtype, stream);
    return tuner.few_us(packed, 1);
  }

 private:
  ComputeType compute_;
  GpuOptions device_;
};

}  // namespace

std::unique_ptr<SequenceGenerator> make_generator(const Model& model, ComputeType compute,
                                                  std::int64_t sequences, std::int64_t capacity,
                                                  const GpuOptions& device) {
  return std::make_unique<DeviceGenerator>(
      std::make_unique<DeviceModel>(model, compute, sequences, capacity, device));
}

std::unique_ptr<SequenceEngine> make_engine(const Model& model, ComputeType compute, std::int64_t lanes,
                                            std::int64_t capacity, const GpuOptions& device) {
  auto of_device = std::make_unique<DeviceModel>(model, compute, lanes, capacity, device);
  of_device->share_memory(device.cache_bytes);
  return std::make_unique<DeviceEngine>(std::move(of_device));
}

std::unique_ptr<SpeedTarget> make_speed_target(ComputeType compute, const GpuOptions& device) {
  return std::make_unique<DeviceSpeedTarget>(compute, device);
}

DecodeTime measure_decode(const Model& model, ComputeType compute, const GpuOptions& device) {
  const auto generator = make_generator(model, compute, 1, kDecodePositions, device);
  DeviceMemory memory(device.memory_bytes);
  const Stream stream;
  Products products(memory, stream);
  DeviceHead head(memory, products, model, compute_dtype(model, compute), 1, stream);
  const DeviceMatrix hidden(memory, DType::kF32, 1, model.config().hidden_size, "a hidden state");
  hidden.set_zero(stream);
  return swiftprune::measure_decode(*generator, [&] {
    head.logits(hidden.view());
    stream.synchronize();
  });
}

}  // namespace swiftprune::cuda
