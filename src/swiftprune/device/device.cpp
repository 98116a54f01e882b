#include "swiftprune/device/device.h"

#include "swiftprune/pipeline/adapter_output.h"

namespace swiftprune {

void Device::check_model(const Model& model) const {
  swiftprune::check_model(model.config(), capabilities());
}

std::int64_t Device::default_windows(const Method& method, const Model& model, std::int64_t seqlen) const {
  const std::int64_t least = std::max(1, method.windows);
  if (kind() == DeviceKind::kCpu) return least;
  const auto window_bytes = static_cast<std::uint64_t>(2 * seqlen * model.config().hidden_size) *
                            sizeof(float);  // dense and pruned
  const auto fit = static_cast<std::int64_t>(memory_for_run() / 8 / window_bytes);
  return std::clamp<std::int64_t>(fit, least, std::max<std::int64_t>(least, method.gpu_windows));
}

void Device::check_plan(const Model& model, const Plan& plan, const PruneOptions& options) const {
  check_model(model);
  swiftprune::check_plan(plan, options.select, capabilities());
  check_low_rank_plan(plan, model);
  check_ranks(*options.ranks);
  if (options.ranks->size() > 1 && plan.low_rank() > 0)
    bad_usage("--low-rank: found {} with {} ranks, expected one process", plan.low_rank(),
              options.ranks->size());
}

void Device::check_ranks(Communicator& ranks) const {
  if (ranks.size() == 1) return;
  if (!capabilities().ranks)
    bad_usage("--ranks: found {}, expected 1 {}; {}", ranks.size(), capabilities().where,
              capabilities().instead);
  if (kind() == DeviceKind::kCuda && ranks.device_link() == nullptr)
    bad_usage(
        "--ranks: found ranks that NCCL does not join, which GPUs need; use --gpus, or --init file:PATH");
}

Sensitivities Device::measure_sensitivities(const Model& model, const Plan& plan, const TokenWindows& windows,
                                            ComputeType compute, const ProgressFn& progress,
                                            Communicator& ranks) {
  check_model(model);
  return swiftprune::measure_sensitivities(probe_shop(), model, plan, windows, compute, progress, ranks);
}

PruneResult Device::prune(const Model& model, const Plan& plan, const TokenWindows& windows,
                          const PruneOptions& options, PruneOutput& output) {
  check_plan(model, plan, options);
  return swiftprune::prune(prune_shop(), model, plan, windows, options, output);
}

NarrowExpertsResult Device::narrow_experts(const Model& model, const TokenWindows& windows,
                                           const NarrowExpertsOptions& options,
                                           NarrowedExpertsOutput& output) {
  check_model(model);
  if (!capabilities().narrows_experts) {
    bad_usage("--units mlp: found a model with experts, expected one without {}; {}", capabilities().where,
              capabilities().instead);
  }
  return swiftprune::narrow_experts(expert_shop(), model, windows, options, output);
}

std::vector<ExpertEvidence> Device::observe_experts(const Model& model, const TokenWindows& windows,
                                                    const RemoveExpertsOptions& options) {
  check_model(model);
  return swiftprune::observe_experts(expert_shop(), model, windows, options);
}

RemoveExpertsResult Device::remove_experts(const Model& model, const TokenWindows& windows,
                                           const RemoveExpertsOptions& options,
                                           ReducedExpertsOutput& output) {
  check_model(model);
  return swiftprune::remove_experts(expert_shop(), model, windows, options, output);
}

ShrinkResult Device::shrink(const Model& model, const ShrinkShape& shape,
                            std::span<const std::int64_t> removed_layers, const TokenWindows& windows,
                            const ShrinkOptions& options, ShrinkOutput& output) {
  check_model(model);
  return swiftprune::shrink(shrink_shop(), model, shape, removed_layers, windows, options, output);
}

}  // namespace swiftprune
