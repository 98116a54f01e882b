// The processor: what the program's own implementations do, tuned by the measurements of sparse/autotune.h.
#include <fmt/format.h>

#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/generator.h"
#include "swiftprune/pipeline/record.h"
#include "swiftprune/serving/batch_engine.h"
#include "swiftprune/serving/scheduler.h"
#include "swiftprune/sparse/autotune.h"

namespace swiftprune {
namespace {

Autotuner make_tuner(const LoadOptions& options) {
  Autotuner tuner(Autotuner::default_cache_file());
  if (options.retune) tuner.measure_again();
  return tuner;
}

// Keeps what was measured when the models are loaded.
class TunedSpeedTarget final : public SpeedTarget {
 public:
  TunedSpeedTarget(const Backend& backend, ComputeType compute, const LoadOptions& options)
      : tuner_(make_tuner(options)),
        target_(make_cpu_speed_target(backend, compute, options.tune ? &tuner_ : nullptr)) {}
  std::unique_ptr<SequenceGenerator> load(const Model& model, std::int64_t sequences,
                                          std::int64_t capacity) override {
    auto generator = target_->load(model, sequences, capacity);
    tuner_.save();
    return generator;
  }
  std::int64_t memory_bytes() override { return target_->memory_bytes(); }
  double read_ceiling() override { return target_->read_ceiling(); }
  double product_us(const PackedTensor& weight) override {
    const double us = target_->product_us(weight);
    tuner_.save();
    return us;
  }

 private:
  Autotuner tuner_;
  std::unique_ptr<SpeedTarget> target_;
};

// The tuner is needed while weights are loaded, not afterwards.
template <class Load>
auto tuned(const LoadOptions& options, const Load& load) {
  if (!options.tune) return load(nullptr);
  Autotuner tuner = make_tuner(options);
  auto loaded = load(&tuner);
  tuner.save();
  return loaded;
}

class CpuDevice final : public Device {
 public:
  DeviceKind kind() const override { return DeviceKind::kCpu; }
  std::string name() const override { return "cpu"; }
  DeviceDescription describe() const override {
    return {fmt::format("{}, {}, {} threads", cpu_model_name(), isa_name(), num_threads()), machine_record(),
            "resident", "resident_bytes"};
  }
  ComputeType default_compute() const override {
    return host().has_fast_bf16() ? ComputeType::kBF16 : ComputeType::kF32;
  }
  bool leaves_processor_free() const override { return false; }
  std::int64_t prefill_chunk() const override { return SchedulerOptions{}.prefill_chunk; }
  const Capabilities& capabilities() const override { return cpu_capabilities(); }

  std::unique_ptr<SequenceGenerator> generator(const Model& model, ComputeType compute,
                                               std::int64_t sequences, std::int64_t capacity,
                                               const LoadOptions& options) override {
    return tuned(options, [&](Autotuner* tuner) {
      return std::make_unique<Generator>(model, host(), compute, sequences, capacity, tuner);
    });
  }
  std::unique_ptr<SequenceEngine> engine(const Model& model, ComputeType compute, std::int64_t lanes,
                                         std::int64_t capacity, const LoadOptions& options) override {
    return tuned(options, [&](Autotuner* tuner) {
      return std::make_unique<BatchEngine>(model, host(), compute, lanes, capacity, tuner,
                                           options.cache_bytes);
    });
  }
  std::unique_ptr<SpeedTarget> speed_target(ComputeType compute, const LoadOptions& options) override {
    return std::make_unique<TunedSpeedTarget>(host(), compute, options);
  }
  DecodeTime decode_time(const Model& model, ComputeType compute) override {
    return measure_decode(model, host(), compute);
  }

  std::unique_ptr<TextForwards> text_forwards(std::span<const Model* const> models,
                                              const ForwardOptions& options) override {
    return make_cpu_text_forwards(models, host(), options);
  }
  std::unique_ptr<PairedBlocks> paired_blocks(const Model& dense, const Model& pruned, TokenWindows windows,
                                              ComputeType compute) override {
    return make_cpu_paired_blocks(dense, pruned, host(), std::move(windows), compute);
  }
  std::unique_ptr<InputEnergies> input_energies(const Model& model, const TokenWindows& windows,
                                                ComputeType compute) override {
    return make_cpu_input_energies(model, host(), windows, compute);
  }

  std::unique_ptr<TrialStreams> trial_streams(const Model& model, TokenWindows windows,
                                              ComputeType compute) override {
    return make_trial_streams(model, host(), std::move(windows), compute);
  }

 private:
  ProbeShopMaker probe_shop() override { return cpu_probe_shop(host()); }
  PruneShopMaker prune_shop() override { return cpu_prune_shop(host()); }
  ShrinkShopMaker shrink_shop() override { return cpu_shrink_shop(host()); }
  ExpertShopMaker expert_shop() override { return cpu_expert_shop(host()); }
};

}  // namespace

std::unique_ptr<Device> make_cpu_device() { return std::make_unique<CpuDevice>(); }

}  // namespace swiftprune
