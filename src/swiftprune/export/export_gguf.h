// A Hugging Face folder made into a GGUF file that llama.cpp loads: tensors renamed, reordered and converted
// as its convert_hf_to_gguf.py does, with the tokenizer and the metadata. The way back is
// checkpoint/import_gguf.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/export/gguf_calibrated.h"
#include "swiftprune/export/gguf_mixes.h"
#include "swiftprune/model/model.h"

namespace swiftprune {

struct ExportOptions {
  const GgufMix* mix = nullptr;  // types of the matrices; null: what most of them are
  std::string name = {};         // general.name
  // Linears are rounded for the inputs that they will get; nothing: each weight for itself.
  std::optional<GgufCalibration> calibration = {};
  ProgressFn progress = [](std::string_view, std::int64_t, std::int64_t) {};
};

struct ExportReport {
  std::string architecture;                   // as GGUF calls it
  std::string type;                           // "F16", "Q4_K_M"
  std::map<std::string, std::int64_t> types;  // of the matrices, and how many have each
  std::int64_t num_tensors = 0;
  std::int64_t num_parameters = 0;
  std::uint64_t bytes = 0;  // of the file
  std::vector<std::string>
      notes;  // what llama.cpp will not do as transformers does; types that were replaced
};

// Vectors and norms are F32 in every type; a matrix whose rows are no whole number of a type's blocks takes a
// type of smaller blocks, or F16 (gguf_mixes.h). Throws Error{kBadInput} for a model that GGUF cannot hold, naming the family, field or tensor; then
// there is no file.
ExportReport export_gguf(const Model& model, const std::filesystem::path& file, const ExportOptions& options);

}  // namespace swiftprune
