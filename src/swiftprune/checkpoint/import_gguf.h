// A GGUF file as a Hugging Face model: tensors dequantised and put back into Hugging Face's names and layout,
// config.json and the tokenizer's files rebuilt from the metadata. Read tensor by tensor, or made into a folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/checkpoint/checkpoint_writer.h"

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/gguf_tokenizer.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {

// The model in a GGUF file. Only the tensor that is asked for is expanded, into memory of the caller's.
class GgufModel {
 public:
  // dtype: of the values; nothing: as ImportOptions has it. Throws Error{kBadInput} naming file and tensor.
  static GgufModel open(const std::filesystem::path& path, std::optional<DType> dtype = std::nullopt);
  GgufModel(GgufModel&&) noexcept;
  GgufModel& operator=(GgufModel&&) noexcept;
  ~GgufModel();

  const std::string& architecture() const;                  // as GGUF calls it
  const std::string& model_class() const;                   // as transformers calls it
  DType dtype() const;                                      // of most tensors
  const nlohmann::ordered_json& config() const;             // config.json
  const nlohmann::ordered_json& generation_config() const;  // generation_config.json
  // Throws Error{kBadInput} for a tokenizer that cannot be rebuilt.
  TokenizerFiles tokenizer_files() const;
  // "30 Q4_1 and 61 F32 tensors"
  std::string stored_types() const;

  // What was left out, for the user.
  const std::vector<std::string>& notes() const;

  struct Tensor {
    std::string name;  // Hugging Face's
    DType dtype = DType::kF16;
    std::vector<std::int64_t> shape;
    std::int64_t num_parameters = 0;  // that it stands for

    std::uint64_t num_bytes() const;
  };
  const std::vector<Tensor>& tensors() const;
  // Calls this for all of the tensor in parallel, with the number of a part's first element and the part in the
  // tensor's dtype. Throws Error{kBadInput} for values that are not finite or too large for it.
  using Taker = std::function<void(std::int64_t first, std::span<const std::byte> values)>;
  void read_all(std::size_t tensor, const Taker& take) const;
  // Can rows (an index of the first extent each) be read by themselves? Not numbers of a vector, nor where pieces that
  // the tensor is assembled of are others: one expert's matrix, kv_b_proj.
  bool has_rows(std::size_t tensor) const;
  // Rows [first, first + count), in the tensor's dtype. Thread-safe.
  void read_rows(std::size_t tensor, std::int64_t first, std::int64_t count,
                 std::span<std::byte> values) const;
  // The tensor's bytes where the file holds them as read_all() gives them; else nothing.
  std::optional<std::span<const std::byte>> as_it_lies(std::size_t tensor) const;
  // Tells the system that the tensor's pages are not needed for now.
  void release(std::size_t tensor) const;

 private:
  struct Impl;
  explicit GgufModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

struct ImportOptions {
  // Nothing: BF16 or F32 when most weights of the file are stored so, else F16, which holds every value of
  // the quantized types to within its own rounding.
  std::optional<DType> dtype = std::nullopt;
  std::uint64_t max_shard_bytes = kShardBytes;
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
