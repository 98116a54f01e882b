// Flags for text that goes into a model: own text (txt, jsonl) through the model's tokenizer, or ids made
// elsewhere.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "command.h"
#include "swiftprune/cuda/device.h"
#include "swiftprune/model/model.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune::cli {

// A file that holds ids instead of text: .u16 or .u32.
bool holds_ids(const std::string& file);

// Evaluation: consecutive windows of one text.
struct EvaluationText {
  std::string file;
  std::string field = "text";
  std::int64_t seqlen = 2048;
  std::int64_t windows = 0;  // 0: all
  std::string bos = "auto";
};
// Declares --seqlen, --windows, --field and --bos; the caller declares the files.
void add_evaluation_flags(CLI::App& command, EvaluationText& text);
TokenWindows evaluation_windows(const Model& model, const EvaluationText& text);

// The token that a sequence starts with: the tokenizer's BOS, else config.json's, else its EOS, else 0.
std::int32_t first_token(const Model& model);

// auto: bf16 where it is fast.
ComputeType parse_compute(const std::string& name, const Backend& backend,
                          const cuda::DeviceChoice& device = {});
void add_compute_flag(CLI::App& command, std::string& compute);

// Where the work runs: --device, --gpu-memory.
struct DeviceFlags {
  std::string device = "cpu";
  std::string gpu_memory;  // empty: what is free
};
void add_device_flags(CLI::App& command, DeviceFlags& flags);
cuda::DeviceOptions device_options(const cuda::DeviceChoice& choice, const DeviceFlags& flags);

}  // namespace swiftprune::cli
