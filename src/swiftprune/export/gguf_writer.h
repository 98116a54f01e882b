// A GGUF file (version 3), written: metadata first, then tensors in any order, straight to their place.
// Everything goes to a temporary file beside the target; finish() syncs and renames it, and without finish()
// (an error, Ctrl-C) the destructor removes it. Format: docs/formats.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/checkpoint/gguf_dequantize.h"

namespace swiftprune {

// Key and value pairs in the order in which they are added.
class GgufMetadata {
 public:
  void text(std::string_view key, std::string_view value);
  void u32(std::string_view key, std::int64_t value);  // 0 to 2^32 - 1
  void f32(std::string_view key, double value);
  void boolean(std::string_view key, bool value);
  void texts(std::string_view key, std::span<const std::string> values);
  void booleans(std::string_view key, std::span<const std::uint8_t> values);  // 0 or 1 each
  void i32s(std::string_view key, std::span<const std::int32_t> values);
  void f32s(std::string_view key, std::span<const float> values);

  std::uint64_t count() const { return count_; }
  const std::string& bytes() const { return bytes_; }

 private:
  void begin(std::string_view key, std::uint32_t type);
  void begin_array(std::string_view key, std::uint32_t type, std::size_t count);
  std::string bytes_;
  std::uint64_t count_ = 0;
};

struct GgufPlannedTensor {
  std::string name;
  std::vector<std::int64_t> shape;  // outermost first; the innermost a multiple of the type's block
  const GgmlTypeTraits* type = nullptr;

  std::uint64_t num_bytes() const;
};

class GgufWriter {
 public:
  // Throws Error{kBadInput} when `file` exists, Error{kFailure} when the disk is too small or not writable.
  GgufWriter(std::filesystem::path file, const GgufMetadata& metadata,
             std::vector<GgufPlannedTensor> tensors);
  GgufWriter(const GgufWriter&) = delete;
  GgufWriter& operator=(const GgufWriter&) = delete;
  ~GgufWriter();

  // first: the byte of the tensor's data where `bytes` go. Thread-safe for different parts.
  void write(std::size_t tensor, std::uint64_t first, std::span<const std::byte> bytes) const;
  // Every byte of every tensor has been written. Afterwards the file stands under its own name.
  void finish();
  std::uint64_t num_bytes() const;  // of the file

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace swiftprune
