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
#include "swiftprune/sparse/weight_parts.h"

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
  std::vector<PackedLinear> tables;
  std::vector<std::string> left;  // linears of F32, which stay as they are
  std::int64_t dense_bytes = 0;   // of the packed linears
  std::int64_t packed_bytes = 0;
  std::int64_t source_bytes = 0;  // of all tensors, before and after
  std::int64_t target_bytes = 0;
};

struct PackOptions {
  Quantize quantize = Quantize::kNone;
  // Embedding and output projection in few bits: 8 or 4 (pack_quantized.h, quantize_table); 0: as they are.
  int table_bits = 0;
  std::vector<std::string> tables;  // names of their tensors; tied ones once
  // Of a source with weights that are parts of larger tensors: all of them get tensors of their own. Null: none.
  const WeightParts* parts = nullptr;
  ProgressFn progress;  // stages "measure" and "pack", in linears
};

// The packed folder's config.json, of the source's (checkpoint/config_file.h).
std::string packed_config(const Checkpoint& source);
// The document kPackedRecordFile.
nlohmann::ordered_json packed_record(const PackReport& report, const PackOptions& options);

// weights: names of the weights to pack, matrices of 16 bits. Throws Error{kBadInput} when the source is
// packed already (also a quantised one: nothing is rounded twice) or holds none that can be packed.
PackReport pack_checkpoint(const Checkpoint& source, std::span<const std::string> weights,
                           const std::filesystem::path& target, const PackOptions& options);

// What pack_table() will make of a table.
PackedLinear measure_table(const Checkpoint& source, const std::string& name, int bits);
// One table in few bits, as pack_checkpoint stores it under `name` + kPackedSuffix.
PackedTensor pack_table(const Checkpoint& checkpoint, const std::string& name, int bits);

// The dense checkpoint: tensors bit-equal to those before packing (int8: rounded to their 8 bits). Grids come
// back as the F32 tensors that they stand for, exactly, and config.json then says float32.
void unpack_checkpoint(const Checkpoint& source, const std::filesystem::path& target,
                       const ProgressFn& progress);

}  // namespace swiftprune
