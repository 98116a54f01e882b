// A GGUF file (version 2 or 3), read: metadata and where the tensors lie; or several files of one model, as
// llama-gguf-split makes them. Format: docs/formats.md. Files are hostile: everything but the values themselves is checked
// when the file is opened.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/checkpoint/gguf_dequantize.h"

namespace swiftprune {

struct GgufTensor {
  std::string name;
  const GgmlTypeTraits* type = nullptr;
  std::vector<std::int64_t>
      shape;                // outermost first, as PyTorch counts (the file has it the other way round)
  std::uint64_t begin = 0;  // bytes, from the start of its file
  std::uint64_t end = 0;
  std::size_t part = 0;  // which of the model's files holds it

  std::int64_t numel() const;
};

// All files of the model that `file` belongs to, in their order, by its name: "m-00002-of-00003.gguf" has two others
// beside it. Whether they are there is another question.
std::vector<std::filesystem::path> gguf_parts(const std::filesystem::path& file);

class GgufFile {
 public:
  // Of a model in several files any may be given, and all are read. Throws Error{kBadInput} naming the file and what is
  // wrong with it, or the part that is missing.
  static GgufFile open(const std::filesystem::path& path);
  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;
  ~GgufFile();

  const std::string& name() const;  // for messages

  // Metadata; nothing when the key is absent, Error{kBadInput} when it has another type.
  bool has(std::string_view key) const;
  std::vector<std::string_view> keys() const;
  std::vector<double> one_or_more(
      std::string_view key) const;                         // numbers(), or one number; the key must be there
  std::vector<double> floats(std::string_view key) const;  // the same of float32 or float64 alone
  bool is_text(std::string_view key) const;  // a string or an array of strings; the key must be there
  std::optional<std::string_view> text(std::string_view key) const;
  std::optional<std::int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;  // an integer will do
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::vector<std::string_view>> texts(std::string_view key) const;
  // An array of integers; one that is no array is a list of one.
  std::optional<std::vector<std::int64_t>> integers(std::string_view key) const;
  std::optional<std::vector<double>> numbers(std::string_view key) const;  // of any number type, or booleans

  const std::vector<GgufTensor>& tensors() const;  // in the file's order
  const GgufTensor* find(std::string_view name) const;
  std::span<const std::byte> bytes(const GgufTensor& tensor) const;
  // Tells the system that these pages are not needed any more.
  void release(const GgufTensor& tensor) const;

 private:
  struct Impl;
  explicit GgufFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftprune
