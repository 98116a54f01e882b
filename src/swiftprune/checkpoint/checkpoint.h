// A Hugging Face model folder, read: memory-mapped weights (safetensors, else pytorch_model.bin; one file or
// shards with an index; else one GGUF file) and config.json. Format: docs/formats.md. Files are hostile: everything is checked
// when the folder is opened.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "swiftprune/tensor/dtype.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::string file;         // its name inside the folder
  std::uint64_t begin = 0;  // bytes, from the start of that file's data; of converted tensors from their own
  std::uint64_t end = 0;
  // The file holds the transpose, [shape[1], shape[0]] (GPT-2): Checkpoint::bytes() turns it.
  bool transposed = false;

  std::int64_t numel() const;
  std::int64_t num_bytes() const { return static_cast<std::int64_t>(end - begin); }
};

class MappedFile;

class Checkpoint {
 public:
  // Throws Error{kBadInput} naming the file and what is wrong with it.
  static Checkpoint open(const std::filesystem::path& folder);
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const std::filesystem::path& folder() const;
  const nlohmann::json& config() const;  // config.json
  const std::vector<TensorInfo>& tensors()
      const;  // by file, then by offset; names as tensor_names.h gives them
  const std::vector<std::string>& notes()
      const;  // what was read otherwise than it stands there, for the user
  const TensorInfo* find(std::string_view name) const;
  const TensorInfo& at(std::string_view name) const;  // throws Error{kBadInput} when absent
  // Mapped, but for F64 (read as F32), for tensors of pytorch_model.bin that do not lie in one piece, for those that
  // GGUF stores in other types or orders, and for transposed ones: these are converted at the first call and kept
  // until release().
  std::span<const std::byte> bytes(const TensorInfo& tensor) const;
  // The bytes of [first, first + count) of the first extent, mapped or in `own`: of a GGUF's tensors nothing else is
  // kept, so that parts may be read on several threads while others release the tensor. Not of transposed ones.
  std::span<const std::byte> bytes_of_part(const TensorInfo& tensor, std::int64_t first, std::int64_t count,
                                           std::vector<std::byte>& own) const;

  // As float; throws Error{kBadInput} when the shape differs or the dtype is not F32, F16 or BF16. Of a GGUF's
  // tensors nothing is kept by these three.
  Matrix load_matrix(std::string_view name, std::int64_t rows, std::int64_t cols) const;
  std::vector<float> load_vector(std::string_view name, std::int64_t size) const;
  std::vector<float> load_tensor(std::string_view name, std::span<const std::int64_t> shape) const;
  // Rows [first, first + count) of a matrix, as float: for tables too large to convert whole (embeddings).
  void load_rows(const TensorInfo& tensor, std::int64_t first, MatrixView target) const;
  // Tells the system that these pages are not needed for now, so that resident memory stays at one block.
  void release(const TensorInfo& tensor) const;

 private:
  void load_all(const TensorInfo& tensor, std::span<float> values) const;

  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftprune
