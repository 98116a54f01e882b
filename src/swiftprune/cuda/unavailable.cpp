#include "swiftprune/core/error.h"
#include "swiftprune/cuda/device.h"

namespace swiftprune::cuda {
namespace {

[[noreturn]] void no_cuda() {
  fail(ErrorKind::kDevice,
       "--device: found cuda, but this program was built without CUDA; use --device cpu, or build with "
       "-DSWIFTPRUNE_CUDA=ON");
}

}  // namespace

DeviceChoice choose_device(std::string_view text) {
  if (text == "cpu" || text == "auto") return {};
  if (text.starts_with("cuda")) no_cuda();
  bad_usage("--device: found '{}', expected cpu, cuda, cuda:N or auto", text);
}

std::string device_name(const DeviceChoice&) { return "cpu"; }

PruneShopMaker prune_shop(const DeviceOptions&) { no_cuda(); }
ShrinkShopMaker shrink_shop(const DeviceOptions&) { no_cuda(); }
ProbeShopMaker probe_shop(const DeviceOptions&) { no_cuda(); }

std::unique_ptr<TrialStreams> make_trial_streams(const Model&, TokenWindows, ComputeType,
                                                 const DeviceOptions&) {
  no_cuda();
}

DecodeTime measure_decode(const Model&, ComputeType, const DeviceOptions&) { no_cuda(); }

PerplexityResult perplexity(const Model&, std::span<const ScoredWindows>, const ForwardOptions&,
                            const DeviceOptions&) {
  no_cuda();
}

std::unique_ptr<SequenceGenerator> make_generator(const Model&, ComputeType, std::int64_t, std::int64_t,
                                                  const DeviceOptions&) {
  no_cuda();
}
std::unique_ptr<SequenceEngine> make_engine(const Model&, ComputeType, std::int64_t, std::int64_t,
                                            const DeviceOptions&) {
  no_cuda();
}
std::unique_ptr<SpeedTarget> make_speed_target(ComputeType, const DeviceOptions&) { no_cuda(); }

}  // namespace swiftprune::cuda
