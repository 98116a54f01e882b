// A Hugging Face model folder, written: tensors may come in any order, one at a time, straight to their place
// in the file. Everything goes to a temporary folder beside the target; finish() syncs and renames it.
// Without finish() (an error, Ctrl-C) the destructor removes it: there is never a half folder that looks
// whole. A killed process leaves its hidden temporary folder behind; work that writes block by block can find
// it again (Leftover) and go on.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/checkpoint/checkpoint.h"

namespace swiftprune {

// A tensor to come. `file` gives the shard, or "FOLDER/NAME.safetensors" for what stands beside the model and is no part
// of its index; offsets are assigned by the writer: in each file larger elements
// come first (so that all are aligned), else in the order of the plan.
struct PlannedTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::string file;
  bool aligned = false;  // to 64 bytes: goes first in its file; its size is a multiple of 64
  // The finished file holds the transpose (TensorInfo::transposed). Until finish() everything here is in the plan's
  // order.
  bool transposed = false;
};

// The source's own tensors, dtypes and shards.
std::vector<PlannedTensor> plan_like(const Checkpoint& source);
// Most bytes of a shard that is made anew.
inline constexpr std::uint64_t kShardBytes = 5'000'000'000;
// Assigns files: "model.safetensors" when all fit in max_shard_bytes, else
// "model-0000i-of-0000k.safetensors".
void assign_shards(std::vector<PlannedTensor>& plan, std::uint64_t max_shard_bytes);

// What becomes of the temporary folder of a killed run to the same target.
enum class Leftover {
  kUnknown,   // each run has a temporary folder of its own name
  kDiscard,   // one name for all runs; what stands there is removed
  kContinue,  // what stands there is taken over, if it was laid out for the same plan
};

enum class Adapters { kLeave, kCopy };

// Before the work that is to go there: throws Error{kBadInput} when `folder` exists and is not an empty
// folder.
void check_new_folder(const std::filesystem::path& folder);

// Throws Error{kUsage} naming the flag when `out` would lie inside the model's folder.
void check_outside(std::string_view flag, const std::string& out, const std::filesystem::path& model);

// The temporary folder that kDiscard and kContinue share for `folder`.
std::filesystem::path partial_folder(const std::filesystem::path& folder);

// Several processes may write one folder: the first lays it out, others join it, and each writes its share of the tensors:
// what it is given of others goes nowhere.
struct WriterShare {
  int index = 0, count = 1;
  bool whole_files = false;  // for writers on several hosts, whose caches must not hold parts of one page
};

class CheckpointWriter {
 public:
  // Throws Error{kBadInput} when `folder` exists and is not an empty folder, Error{kFailure} when the disk is
  // too small, and Error{kUsage} when another run is writing to the folder (kDiscard, kContinue).
  // joined: the name of the temporary folder that another process's writer has laid out for the same plan, which this one
  // joins; throws Error{kFailure} where that is not there, or laid out otherwise.
  CheckpointWriter(std::filesystem::path folder, std::vector<PlannedTensor> plan,
                   Leftover leftover = Leftover::kUnknown, const std::string& joined = {});
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  ~CheckpointWriter();

  // Before anything is written. The share of the first writer has index 0, and it finishes the folder when finish_share()
  // of all others has returned.
  void share(const WriterShare& share);
  // Is the tensor one of this writer's share?
  bool writes(std::string_view name) const;
  // All of the share is there, and on the disk. Throws as finish().
  void finish_share();

  // kContinue found a folder of the same layout: its tensors can be read and marked as written.
  bool continues() const;
  void read(std::string_view name, std::span<float> values) const;
  void read_bytes(std::string_view name, std::span<std::byte> bytes) const;  // all of a tensor's
  void mark_written(std::string_view name);
  // Elements [first, ...) of a tensor that was written, in its dtype: to read and to put others in their place. Not
  // thread-safe for the same elements.
  void read_bytes_part(std::string_view name, std::int64_t first, std::span<std::byte> bytes) const;
  void rewrite_bytes_part(std::string_view name, std::int64_t first, std::span<const std::byte> bytes);
  // What was written so far reaches the disk.
  void sync() const;
  // From now on the destructor leaves the temporary folder for a later run (kDiscard, kContinue).
  void keep_when_unfinished();
  // No longer: what it holds stands elsewhere.
  void drop_when_unfinished();

  // Where extra files (config.json, tokenizer files, the record) are to be written before finish().
  const std::filesystem::path& temporary_folder() const;
  // Converts to the planned dtype; values: numel of the plan. Thread-safe for different tensors. -0 becomes
  // +0.
  void write(std::string_view name, std::span<const float> values);
  // Elements [first, first + values.size()) of a tensor that is too large to hold whole; parts must not
  // overlap. Thread-safe for different parts.
  void write_part(std::string_view name, std::int64_t first, std::span<const float> values);
  void write_bytes(std::string_view name, std::span<const std::byte> bytes);
  // Elements [first, ...) in the planned dtype, like write_part().
  void write_bytes_part(std::string_view name, std::int64_t first, std::span<const std::byte> bytes);
  // file_name: also of a folder that planned tensors go to.
  void write_file(std::string_view file_name, std::string_view content);
  // The source's other files, those of subfolders too, but hidden ones, weights in any format and their indexes, names in
  // `except`, what has been written, and subfolders that are another model (onnx/, checkpoint-500/: weights, or a config.json
  // with a model_type). Adapters (adapter_config.json) come whole, or not at all where the linears are other ones now.
  void copy_other_files(const Checkpoint& source, std::span<const std::string> except = {},
                        Adapters adapters = Adapters::kLeave);
  // Throws when a planned tensor was not written. Afterwards the folder stands under its own name.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftprune
