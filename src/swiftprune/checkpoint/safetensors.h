// The header of a safetensors file, read and written.
// Layout: u64 N, N bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...}, then the
// data; offsets count from the start of the data, leave no hole and end with the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/checkpoint/checkpoint.h"

namespace swiftprune {

// What a model folder's weights are called: one file, or shards and their index. The single file wins.
inline constexpr const char* kSafetensorsFile = "model.safetensors";
inline constexpr const char* kSafetensorsIndexFile = "model.safetensors.index.json";

// A LoRA folder of PEFT (model/adapter.h).
inline constexpr const char* kAdapterConfigFile = "adapter_config.json";
inline constexpr const char* kAdapterFile = "adapter_model.safetensors";

// Their names before safetensors (pytorch_file.h).
inline constexpr const char* kPytorchFile = "pytorch_model.bin";
inline constexpr const char* kPytorchIndexFile = "pytorch_model.bin.index.json";
// The file that the tensors of a folder's file go to in a new folder: its own name, "model-*.safetensors" for
// "pytorch_model-*.bin", "model.safetensors" for a GGUF file.
std::string safetensors_name(std::string_view file);

inline constexpr std::uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the format's own limit

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // by offset; TensorInfo::file is left empty
  std::uint64_t data_begin = 0;     // where the data starts in the file
};

// file: all bytes of the file. Throws Error{kBadInput} that starts with `name`.
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& name);

// The length and the JSON for tensors that lie as `begin` and `end` say, padded with spaces so that the data
// starts at a multiple of `alignment` (8 as the safetensors library does).
std::string format_safetensors_header(std::span<const TensorInfo> tensors, std::size_t alignment = 8);

}  // namespace swiftprune
