#include "swiftprune/cuda/device.h"

#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/cuda/capabilities.h"
#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/cuda/stages.h"

namespace swiftprune::cuda {
namespace {

constexpr int kOldestMajor = 8;  // bf16 products

// Empty when GPU `index` can be used, else why not.
std::string why_unusable(int index) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) {
    return fmt::format("the driver is missing or older than this program needs ({})",
                       cudaGetErrorString(status));
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) return "no GPU was found";
  if (status != cudaSuccess) return cudaGetErrorString(status);
  if (index >= count) return fmt::format("there are {} GPUs, numbered from 0", count);
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  if (major < kOldestMajor) {
    return fmt::format("its compute capability is {}.x, expected {}.0 or more", major, kOldestMajor);
  }
  return {};
}

// Saves what was measured while the models were loaded.
class TunedSpeedTarget final : public SpeedTarget {
 public:
  TunedSpeedTarget(std::unique_ptr<SpeedTarget> target, const Timings& timings)
      : target_(std::move(target)), timings_(timings) {}
  std::unique_ptr<SequenceGenerator> load(const Model& model, std::int64_t sequences,
                                          std::int64_t capacity) override {
    auto generator = target_->load(model, sequences, capacity);
    timings_.save();
    return generator;
  }
  std::int64_t memory_bytes() override { return target_->memory_bytes(); }
  double read_ceiling() override { return target_->read_ceiling(); }
  double product_us(const PackedTensor& weight) override {
    const double us = target_->product_us(weight);
    timings_.save();
    return us;
  }

 private:
  std::unique_ptr<SpeedTarget> target_;
  const Timings& timings_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(int index, const DeviceOptions& options)
      : index_(index), memory_bytes_(options.memory_bytes), timings_(Timings::default_file()) {}

  DeviceKind kind() const override { return DeviceKind::kCuda; }
  int index() const override { return index_; }
  std::string name() const override { return gpu_name(index_); }
  DeviceDescription describe() const override {
    return {name(), {{"gpu", name()}}, "of GPU memory", "gpu_bytes"};
  }
  ComputeType default_compute() const override { return ComputeType::kBF16; }
  std::uint64_t memory_limit() const override { return memory_bytes_; }
  std::uint64_t memory_for_run() const override { return DeviceMemory(memory_bytes_).limit(); }
  bool leaves_processor_free() const override { return true; }
  std::int64_t prefill_chunk() const override { return 2048; }
  const Capabilities& capabilities() const override { return cuda::capabilities(); }

  std::unique_ptr<SequenceGenerator> generator(const Model& model, ComputeType compute,
                                               std::int64_t sequences, std::int64_t capacity,
                                               const LoadOptions& options) override {
    check_model(model);
    auto generator = make_generator(model, compute, sequences, capacity, gpu_options(options));
    timings_.save();
    return generator;
  }
  std::unique_ptr<SequenceEngine> engine(const Model& model, ComputeType compute, std::int64_t lanes,
                                         std::int64_t capacity, const LoadOptions& options) override {
    check_model(model);
    auto engine = make_engine(model, compute, lanes, capacity, gpu_options(options));
    timings_.save();
    return engine;
  }
  std::unique_ptr<SpeedTarget> speed_target(ComputeType compute, const LoadOptions& options) override {
    return std::make_unique<TunedSpeedTarget>(make_speed_target(compute, gpu_options(options)), timings_);
  }
  DecodeTime decode_time(const Model& model, ComputeType compute) override {
    check_model(model);
    return measure_decode(model, compute, gpu_options({}));
  }

  std::unique_ptr<TextForwards> text_forwards(std::span<const Model* const> models,
                                              const ForwardOptions& options) override {
    for (const Model* model : models) check_model(*model);
    return make_text_forwards(models, options.compute, gpu_options({.tune = true}));
  }
  std::unique_ptr<PairedBlocks> paired_blocks(const Model& dense, const Model& pruned, TokenWindows windows,
                                              ComputeType compute) override {
    check_model(dense);
    check_model(pruned);
    return make_paired_blocks(dense, pruned, std::move(windows), compute, gpu_options({}));
  }
  std::unique_ptr<InputEnergies> input_energies(const Model& model, const TokenWindows& windows,
                                                ComputeType compute) override {
    check_model(model);
    return make_input_energies(model, windows, compute, gpu_options({}));
  }

  std::unique_ptr<TrialStreams> trial_streams(const Model& model, TokenWindows windows,
                                              ComputeType compute) override {
    check_model(model);
    return make_trial_streams(model, std::move(windows), compute, gpu_options({}));
  }

 private:
  ProbeShopMaker probe_shop() override { return cuda::probe_shop(gpu_options({})); }
  PruneShopMaker prune_shop() override { return cuda::prune_shop(gpu_options({})); }
  ShrinkShopMaker shrink_shop() override { return cuda::shrink_shop(gpu_options({})); }
  ExpertShopMaker expert_shop() override { return cuda::expert_shop(gpu_options({})); }

  GpuOptions gpu_options(const LoadOptions& options) {
    if (options.retune) timings_.measure_again();
    return {.index = index_,
            .memory_bytes = memory_bytes_,
            .timings = options.tune ? &timings_ : nullptr,
            .cache_bytes = options.cache_bytes,
            .prompt_copies = options.prompt_copies,
            .long_lived = options.long_lived};
  }

  const int index_;
  const std::uint64_t memory_bytes_;
  Timings timings_;
};

}  // namespace

std::unique_ptr<Device> make_device(int index, const DeviceOptions& options, std::string& why_not) {
  why_not = why_unusable(index);
  if (!why_not.empty()) return nullptr;
  return std::make_unique<CudaDevice>(index, options);
}

}  // namespace swiftprune::cuda
