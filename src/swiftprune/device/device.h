// Where the work runs, as the rest of the program sees it: what is there, and the work that can be asked of
// it. open_device() is the one place that chooses; no command, stage or test asks for a kind of device to
// decide how to do its work. cpu_device.cpp wraps the processor's implementations, cuda/device.cpp a GPU's.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/backend/backend.h"
#include "swiftprune/calibration/stopping.h"
#include "swiftprune/evaluation/block_errors.h"
#include "swiftprune/evaluation/speed.h"
#include "swiftprune/model/model_features.h"
#include "swiftprune/model/sequence_engine.h"
#include "swiftprune/model/sequence_generator.h"
#include "swiftprune/model/text_forwards.h"
#include "swiftprune/pipeline/capabilities.h"
#include "swiftprune/pipeline/choices/sensitivities.h"
#include "swiftprune/pipeline/decode_time.h"
#include "swiftprune/pipeline/drivers/expert_shop.h"
#include "swiftprune/pipeline/drivers/narrow_experts.h"
#include "swiftprune/pipeline/drivers/prune_shop.h"
#include "swiftprune/pipeline/drivers/shrink_shop.h"
#include "swiftprune/pipeline/plan.h"
#include "swiftprune/pipeline/streams/trial_streams.h"

namespace swiftprune {

enum class DeviceKind { kCpu, kCuda };

struct DeviceOptions {
  std::uint64_t memory_bytes = 0;  // most memory of a GPU to take; 0: what is free
  int gpu = 0;                     // which one "cuda" and "auto" mean
};

// How a model is loaded that stays in the device's memory.
struct LoadOptions {
  // Packed weights take the form that was measured to be fastest here (sparse/timings.h keeps the
  // measurements); false: they stay as they are.
  bool tune = false;
  // With second forms for many tokens: a packed model then takes more of a GPU's memory than a dense one.
  bool prompt_copies = false;
  // Measures anew, in place of what the file holds.
  bool retune = false;
  // Most bytes of keys and values that an engine's lanes take together; 0: on a processor as much as all lanes may come to
  // need, on a GPU what its memory leaves.
  std::uint64_t cache_bytes = 0;
  // Many prompts are to come, which repay a search for the fastest algorithms.
  bool long_lived = false;
};

// For people and for JSON.
struct DeviceDescription {
  std::string text;                            // "AMD EPYC 9B14, avx512, 2 threads"
  nlohmann::ordered_json machine;              // {"gpu": "NVIDIA H100 80GB HBM3"}
  std::string_view memory_text, memory_field;  // of SpeedTarget::memory_bytes()
};

// One device. Models, outputs and everything else that a call takes by reference must outlive what it
// returns; the device itself must, too. Calls throw Error{kDevice} when the device fails or its memory does
// not suffice.
class Device {
 public:
  virtual ~Device() = default;

  virtual DeviceKind kind() const = 0;
  virtual int index() const { return 0; }  // among those of its kind
  virtual std::string name() const = 0;    // "cpu", "NVIDIA H100 80GB HBM3"
  virtual DeviceDescription describe() const = 0;
  virtual ComputeType default_compute() const = 0;          // the fast one here: what `--compute auto` means
  virtual std::uint64_t memory_limit() const { return 0; }  // DeviceOptions::memory_bytes
  // Bytes that a run may take of the device's own memory now; 0 where it has none of its own.
  virtual std::uint64_t memory_for_run() const { return 0; }
  // Does the processor have time for something else while the device works?
  virtual bool leaves_processor_free() const = 0;
  // Tokens of a prompt that take little more time than a few, so that serving need not cut it finer.
  virtual std::int64_t prefill_chunk() const = 0;
  // For what is computed on the host, whatever the device.
  const Backend& host() const { return *host_; }

  virtual const Capabilities& capabilities() const = 0;
  // Throws Error{kUsage} for a model with features that this device has not, naming them.
  void check_model(const Model& model) const;
  // Throws Error{kUsage} for a part of the plan or a feature of the model that this device has not, naming it
  // and what there is instead: before anything is computed.
  void check_plan(const Model& model, const Plan& plan, const PruneOptions& options) const;

  // Throws Error{kUsage} where several ranks cannot work together on this device.
  void check_ranks(Communicator& ranks) const;

  // Windows of calibration text, of seqlen tokens each, that the method takes when nobody says how many: on a GPU
  // more than on a processor, as far as the hidden states of both streams take an eighth of its memory at most.
  std::int64_t default_windows(const Method& method, const Model& model, std::int64_t seqlen) const;

  // -- Generation. capacity: positions of each sequence at most. May be used from one thread at a time.
  virtual std::unique_ptr<SequenceGenerator> generator(const Model& model, ComputeType compute,
                                                       std::int64_t sequences, std::int64_t capacity,
                                                       const LoadOptions& options) = 0;
  virtual std::unique_ptr<SequenceEngine> engine(const Model& model, ComputeType compute, std::int64_t lanes,
                                                 std::int64_t capacity, const LoadOptions& options) = 0;
  virtual std::unique_ptr<SpeedTarget> speed_target(ComputeType compute, const LoadOptions& options) = 0;
  virtual DecodeTime decode_time(const Model& model, ComputeType compute) = 0;

  // -- Evaluation, and how much calibration text is enough.
  virtual std::unique_ptr<TextForwards> text_forwards(std::span<const Model* const> models,
                                                      const ForwardOptions& options) = 0;
  virtual std::unique_ptr<PairedBlocks> paired_blocks(const Model& dense, const Model& pruned,
                                                      TokenWindows windows, ComputeType compute) = 0;
  virtual std::unique_ptr<InputEnergies> input_energies(const Model& model, const TokenWindows& windows,
                                                        ComputeType compute) = 0;

  // -- Choices and runs of the pipeline.
  virtual std::unique_ptr<TrialStreams> trial_streams(const Model& model, TokenWindows windows,
                                                      ComputeType compute) = 0;
  // The runs of pipeline/drivers/ and pipeline/choices/sensitivities.h in this device's shops.
  Sensitivities measure_sensitivities(const Model& model, const Plan& plan, const TokenWindows& windows,
                                      ComputeType compute, const ProgressFn& progress,
                                      Communicator& ranks = alone());
  PruneResult prune(const Model& model, const Plan& plan, const TokenWindows& windows,
                    const PruneOptions& options, PruneOutput& output);
  ShrinkResult shrink(const Model& model, const ShrinkShape& shape,
                      std::span<const std::int64_t> removed_layers, const TokenWindows& windows,
                      const ShrinkOptions& options, ShrinkOutput& output);
  NarrowExpertsResult narrow_experts(const Model& model, const TokenWindows& windows,
                                     const NarrowExpertsOptions& options, NarrowedExpertsOutput& output);
  std::vector<ExpertEvidence> observe_experts(const Model& model, const TokenWindows& windows,
                                              const RemoveExpertsOptions& options);
  RemoveExpertsResult remove_experts(const Model& model, const TokenWindows& windows,
                                     const RemoveExpertsOptions& options, ReducedExpertsOutput& output);

 protected:
  Device() : host_(make_cpu_backend()) {}

 private:
  virtual ProbeShopMaker probe_shop() = 0;
  virtual PruneShopMaker prune_shop() = 0;
  virtual ShrinkShopMaker shrink_shop() = 0;
  virtual ExpertShopMaker expert_shop() = 0;

  std::unique_ptr<Backend> host_;
};

std::unique_ptr<Device> make_cpu_device();

// "cpu", "cuda", "cuda:1", or "auto" (a GPU where there is one that can be used). Throws Error{kUsage} for
// another text and Error{kDevice} when a GPU is asked for by name and cannot be used, saying why.
std::unique_ptr<Device> open_device(std::string_view text, const DeviceOptions& options = {});

}  // namespace swiftprune
