// A model folder with packed linears: the Hugging Face folder as it was, but `<linear>.weight` is replaced by
// `<linear>.weight.packed`, the bytes of a PackedTensor as U8. Everything else is kept: other tensors,
// shards, configuration and tokenizer files. Byte by byte: docs/formats.md, "Packed models".
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/sparse/pack.h"

namespace swiftprune {

inline constexpr const char* kPackedSuffix = ".packed";
inline constexpr const char* kPackedRecordFile = "swiftprune_packed.json";

// The linear's packed weight, checked, a view of the mapped file (the checkpoint must outlive it); nothing
// when the tensor `weight_name` ("….weight") is not packed. Throws Error{kBadInput} when it is damaged or its
// shape is not [rows, cols].
std::optional<PackedTensor> find_packed(const Checkpoint& checkpoint, const std::string& weight_name,
                                        std::int64_t rows, std::int64_t cols);
// A dense16 copy of a BF16 or F16 matrix, in the kernels' order; nothing for other dtypes.
std::optional<PackedTensor> pack_dense(const Checkpoint& checkpoint, const std::string& weight_name);
bool has_packed_tensors(const Checkpoint& checkpoint);

struct PackedLinear {
  std::string name;  // of the weight
  PackFormat format;
  std::int64_t dense_bytes = 0;
  std::int64_t packed_bytes = 0;
  double density = 0.0;
};

struct PackReport {
  std::vector<PackedLinear> linears;
  std::vector<std::string> left;  // linears of F32, which stay as they are
  std::int64_t dense_bytes = 0;   // of the packed linears
  std::int64_t packed_bytes = 0;
  std::int64_t source_bytes = 0;  // of all tensors, before and after
  std::int64_t target_bytes = 0;
};

struct PackOptions {
  Quantize quantize = Quantize::kNone;
  ProgressFn progress;  // stages "measure" and "pack", in linears
};

// The document kPackedRecordFile. quantize: what was done to the values, "none" where nothing was.
nlohmann::ordered_json packed_record(const PackReport& report, std::string_view quantize);

// weights: names of the tensors to pack, matrices of 16 bits. Throws Error{kBadInput} when the source is
// packed already or holds none that can be packed.
PackReport pack_checkpoint(const Checkpoint& source, std::span<const std::string> weights,
                           const std::filesystem::path& target, const PackOptions& options);

// The dense checkpoint: tensors bit-equal to those before packing (int8: rounded to their 8 bits).
void unpack_checkpoint(const Checkpoint& source, const std::filesystem::path& target,
                       const ProgressFn& progress);

}  // namespace swiftprune
