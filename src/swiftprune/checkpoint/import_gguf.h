// A GGUF file made into a Hugging Face folder: tensors dequantised and put back into Hugging Face's names and
// layout, config.json and the tokenizer's files rebuilt from the metadata.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "swiftprune/core/progress.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {

struct ImportOptions {
  // Nothing: BF16 or F32 when most weights of the file are stored so, else F16, which holds every value of
  // the quantized types to within its own rounding.
  std::optional<DType> dtype = std::nullopt;
  std::uint64_t max_shard_bytes = 5'000'000'000;
  std::filesystem::path tokenizer_folder = {};  // tokenizer files to take instead of the GGUF's; may be empty
  ProgressFn progress = [](std::string_view, std::int64_t, std::int64_t) {};
};

struct ImportReport {
  std::string architecture;  // as GGUF calls it
  std::string model_class;   // as transformers calls it
  DType dtype = DType::kF16;
  std::int64_t num_tensors = 0;
  std::int64_t num_parameters = 0;
  std::uint64_t bytes = 0;         // of the written tensors
  std::vector<std::string> notes;  // what was assumed, for the user
};

// Throws Error{kBadInput} for the file, Error{kFailure} for the disk; then nothing is left of `folder`.
// Memory: some 32 MB and the tokenizer, whatever the size of the model.
ImportReport import_gguf(const std::filesystem::path& file, const std::filesystem::path& folder,
                         const ImportOptions& options);

}  // namespace swiftprune
