// Flags for text that goes into a model: own text (txt, jsonl) through the model's tokenizer, or ids made
// elsewhere.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "command.h"
#include "swiftprune/device/device.h"
#include "swiftprune/evaluation/scored_windows.h"
#include "swiftprune/model/model.h"
#include "swiftprune/model/sampler.h"
#include "swiftprune/report/comparison.h"
#include "swiftprune/text/tokenizer.h"

namespace swiftprune::cli {

// Flags of evaluation on texts, and the windows that they mean.
struct EvaluationFlags {
  std::vector<std::string> files;
  std::string field = "text";
  std::int64_t seqlen = 2048;
  bool seqlen_given = false;  // else the model's positions bound it
  std::int64_t windows = 0;   // 0: all
  std::string bos = "auto";
  std::string convention = "windows";
  std::int64_t stride = 0;
};
// Declares --text, --seqlen, --windows, --field, --bos, --convention and --stride.
void add_evaluation_flags(CLI::App& command, EvaluationFlags& flags);
// Model::open, which tells what was read otherwise than the folder says.
std::unique_ptr<Model> open_model(const CommonOptions& common, const std::string& folder);
// The model's tokenizer; null when the folder has none and every file holds token ids.
std::unique_ptr<Tokenizer> evaluation_tokenizer(const Model& model, const std::vector<std::string>& files);
// The windows that the flags mean for this model; tokenizer may be null.
ConventionOptions convention_options(const Model& model, const Tokenizer* tokenizer,
                                     const EvaluationFlags& flags);

// Reads every text of the flags into the comparison's windows; one text after the other.
void read_texts(const CommonOptions& common, const Model& dense, const EvaluationFlags& flags,
                ComparisonInput& input);

// Of all tensors, as the model is stored (of a GGUF file: as it is read).
std::uint64_t weight_bytes(const Model& model);

// A default number of positions, cut to those that the model has.
std::int64_t usual_length(const Model& model, std::int64_t num_positions);

// auto: the device's own.
ComputeType parse_compute(const std::string& name, const Device& device);
void add_compute_flag(CLI::App& command, std::string& compute);

// Where the work runs: --device, --gpu-memory.
struct DeviceFlags {
  std::string device = "cpu";
  std::string gpu_memory;  // empty: what is free
};
void add_device_flags(CLI::App& command, DeviceFlags& flags);
// --compact, for commands that keep a model in GPU memory.
void add_compact_flag(CLI::App& command, bool& compact);
// --temperature, --top-p.
void add_sampler_flags(CLI::App& command, SamplerOptions& sampler);
// Throws Error{kUsage} naming the flag, also for a limit that this device does not need, and Error{kDevice}.
std::unique_ptr<Device> open_device(const DeviceFlags& flags);

}  // namespace swiftprune::cli
