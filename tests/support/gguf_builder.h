// GGUF files made byte by byte, also damaged ones.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace swiftprune::test {

template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}
inline std::string raw_text(std::string_view text) {
  return raw<std::uint64_t>(text.size()) + std::string(text);
}

// Numbers of GGUF's value types.
enum : std::uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

class GgufBuilder {
 public:
  std::uint32_t version = 3;
  std::uint64_t alignment = 32;
  std::uint64_t extra_tensors = 0, extra_values = 0;  // claimed, but not there

  GgufBuilder& add(std::string_view key, std::uint32_t type, const std::string& value) {
    values_.push_back(raw_text(key) + raw(type) + value);
    return *this;
  }
  GgufBuilder& u32(std::string_view key, std::uint32_t value) { return add(key, kU32, raw(value)); }
  GgufBuilder& f32(std::string_view key, float value) { return add(key, kF32, raw(value)); }
  GgufBuilder& flag(std::string_view key, bool value) {
    return add(key, kBool, std::string(1, value ? 1 : 0));
  }
  GgufBuilder& text(std::string_view key, std::string_view value) {
    return add(key, kString, raw_text(value));
  }
  GgufBuilder& texts(std::string_view key, const std::vector<std::string>& values) {
    std::string elements;
    for (const std::string& value : values) elements += raw_text(value);
    return array(key, kString, values.size(), elements);
  }
  GgufBuilder& array(std::string_view key, std::uint32_t type, std::uint64_t count,
                     const std::string& elements) {
    return add(key, kArray, raw(type) + raw(count) + elements);
  }
  // shape: GGUF's order (innermost first); the offset is given or follows the last tensor.
  GgufBuilder& tensor(std::string_view name, const std::vector<std::uint64_t>& shape, std::uint32_t type,
                      const std::string& data, std::int64_t offset = -1) {
    std::string info = raw_text(name) + raw(static_cast<std::uint32_t>(shape.size()));
    for (const std::uint64_t extent : shape) info += raw(extent);
    info += raw(type) +
            raw(offset < 0 ? static_cast<std::uint64_t>(data_.size()) : static_cast<std::uint64_t>(offset));
    tensors_.push_back(info);
    data_ += data;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  GgufBuilder& floats(std::string_view name, const std::vector<std::uint64_t>& shape) {
    std::uint64_t n = 1;
    for (const std::uint64_t extent : shape) n *= extent;
    std::string data;
    for (std::uint64_t i = 0; i < n; ++i) data += raw(static_cast<float>(i));
    return tensor(name, shape, 0, data);
  }

  std::string build() const {
    std::string file = "GGUF" + raw(version) + raw<std::uint64_t>(tensors_.size() + extra_tensors) +
                       raw<std::uint64_t>(values_.size() + extra_values);
    for (const std::string& value : values_) file += value;
    for (const std::string& tensor : tensors_) file += tensor;
    file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data_;
  }

 private:
  std::vector<std::string> values_, tensors_;
  std::string data_;
};

}  // namespace swiftprune::test
