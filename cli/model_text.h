// Flags for text that goes into a model: own text (txt, jsonl) through the model's tokenizer, or ids made
// elsewhere.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "command.h"
#include "swiftprune/api/texts.h"
#include "swiftprune/device/device.h"
#include "swiftprune/model/model.h"
#include "swiftprune/model/sampler.h"

namespace swiftprune::cli {

// Declares --text, --seqlen, --windows, --field, --bos, --convention and --stride.
void add_evaluation_flags(CLI::App& command, EvaluationTexts& texts);
// Model::open, which tells what was read otherwise than the folder says.
std::unique_ptr<Model> open_model(const CommonOptions& common, const std::string& folder,
                                  const std::string& adapter = {});
// --adapter.
void add_adapter_flag(CLI::App& command, std::string& adapter);

// Of all tensors, as the model is stored (of a GGUF file: as it is read), and of its adapter's.
std::uint64_t weight_bytes(const Model& model);

void add_compute_flag(CLI::App& command, std::string& compute);

// Where the work runs: --device, --gpu-memory.
struct DeviceFlags {
  std::string device = "cpu";
  std::string gpu_memory;  // empty: what is free
};
void add_device_flags(CLI::App& command, DeviceFlags& flags);
// How a model is loaded that stays in memory: --prompt-copies, --retune.
void add_load_flags(CLI::App& command, LoadOptions& load);
// --temperature, --top-p.
void add_sampler_flags(CLI::App& command, SamplerOptions& sampler);
// Throws Error{kUsage} naming the flag, also for a limit that this device does not need, and Error{kDevice}.
std::unique_ptr<Device> open_device(const DeviceFlags& flags);

}  // namespace swiftprune::cli
