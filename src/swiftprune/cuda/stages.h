// What runs on the GPU: the stages behind the Device of cuda/device.cpp, in the order in which a model meets
// them. No CUDA type appears here.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "swiftprune/calibration/stopping.h"
#include "swiftprune/evaluation/block_errors.h"
#include "swiftprune/evaluation/speed.h"
#include "swiftprune/model/sequence_engine.h"
#include "swiftprune/model/sequence_generator.h"
#include "swiftprune/model/text_forwards.h"
#include "swiftprune/pipeline/choices/probe_shop.h"
#include "swiftprune/pipeline/decode_time.h"
#include "swiftprune/pipeline/drivers/expert_shop.h"
#include "swiftprune/pipeline/drivers/prune_shop.h"
#include "swiftprune/pipeline/drivers/shrink_shop.h"
#include "swiftprune/pipeline/streams/trial_streams.h"
#include "swiftprune/sparse/timings.h"

namespace swiftprune::cuda {

// How a run uses its GPU.
struct GpuOptions {
  int index = 0;
  std::uint64_t memory_bytes = 0;  // most device memory to take; 0: what is free
  // Packed weights take the form that was measured to be fastest (cuda/sparse/tuning.h), while they are
  // loaded; null: they stay as they are.
  Timings* timings = nullptr;
  // Most bytes of keys and values of an engine's lanes; 0: what is left.
  std::uint64_t cache_bytes = 0;
  // With second forms for many tokens: a packed model then takes more of a GPU's memory than a dense one.
  bool prompt_copies = false;
  // Many prompts are to come, which repay a search for the fastest algorithms.
  bool long_lived = false;
};

// Where pruning, shrinking, removal of experts and the probe of sensitivities do their work: blocks stream from the mapped files
// to the device and back while others compute. capabilities.h says what they have. The shops throw
// Error{kDevice} when the memory does not suffice or the device fails.
PruneShopMaker prune_shop(const GpuOptions& device);
ShrinkShopMaker shrink_shop(const GpuOptions& device);
ExpertShopMaker expert_shop(const GpuOptions& device);
ProbeShopMaker probe_shop(const GpuOptions& device);

// What chooses the shape of a smaller model (pipeline/streams/trial_streams.h, pipeline/decode_time.h). The
// model must outlive the streams.
std::unique_ptr<TrialStreams> make_trial_streams(const Model& model, TokenWindows windows,
                                                 ComputeType compute, const GpuOptions& device);
DecodeTime measure_decode(const Model& model, ComputeType compute, const GpuOptions& device);

// What evaluation reads of models (model/text_forwards.h, evaluation/block_errors.h), and what tells how much
// calibration text is enough (calibration/stopping.h). Packed models compute in their weights' dtype.
std::unique_ptr<TextForwards> make_text_forwards(std::span<const Model* const> models, ComputeType compute,
                                                 const GpuOptions& device);
std::unique_ptr<PairedBlocks> make_paired_blocks(const Model& dense, const Model& pruned,
                                                 TokenWindows windows, ComputeType compute,
                                                 const GpuOptions& device);
std::unique_ptr<InputEnergies> make_input_energies(const Model& model, const TokenWindows& windows,
                                                   ComputeType compute, const GpuOptions& device);

// What Generator and BatchEngine do on the CPU: all blocks and the caches of keys and values lie in the GPU's
// memory. capacity: positions of each sequence at most. Packed models keep their packed form and compute in
// their weights' dtype. The model must outlive them; they may be used from any one thread at a time.
std::unique_ptr<SequenceGenerator> make_generator(const Model& model, ComputeType compute,
                                                  std::int64_t sequences, std::int64_t capacity,
                                                  const GpuOptions& device);
std::unique_ptr<SequenceEngine> make_engine(const Model& model, ComputeType compute, std::int64_t lanes,
                                            std::int64_t capacity, const GpuOptions& device);
// For evaluation/speed.h; its memory is the GPU's, whoever uses it.
std::unique_ptr<SpeedTarget> make_speed_target(ComputeType compute, const GpuOptions& device);

}  // namespace swiftprune::cuda
