#include "swiftprune/checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <tuple>
#include <unordered_set>

#include <nlohmann/json.hpp>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/git_lfs.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

constexpr std::string_view kMetadataKey = "__metadata__";

// Takes the events of the JSON parser and accepts this one structure only, so that a hostile header cannot
// make more than its tensors.
class HeaderHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderHandler(const std::string& file, std::vector<TensorInfo>& tensors) : file_(file), tensors_(tensors) {}

  bool start_object(std::size_t) override {
    if (place_ == Place::kOutside) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop && key_ == kMetadataKey) {
      place_ = Place::kMetadata;
      metadata_keys_.clear();
    } else if (place_ == Place::kTop) {
      place_ = Place::kTensor;
      tensors_.emplace_back().name = key_;
      has_dtype_ = has_shape_ = has_offsets_ = false;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) finish_tensor();
    place_ = place_ == Place::kTop ? Place::kDone : Place::kTop;
    return true;
  }

  bool key(string_t& key) override {
    key_ = key;
    if (place_ == Place::kTop) {
      if (has_control_characters(key)) bad_input("{}: found a tensor name with a control character", file_);
      if (!names_.insert(key).second) bad_input("{}: tensor {}: found twice in the header", file_, key);
    } else if (place_ == Place::kMetadata) {
      if (!metadata_keys_.insert(key).second) bad_input("{}: __metadata__: found a key twice", file_);
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::kTensor && key_ == "shape" && !has_shape_) {
      place_ = Place::kShape;
    } else if (place_ == Place::kTensor && key_ == "data_offsets" && !has_offsets_) {
      place_ = Place::kOffsets;
      offsets_.clear();
    } else {
      unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    (place_ == Place::kShape ? has_shape_ : has_offsets_) = true;
    place_ = Place::kTensor;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::kShape) {
      if (value > std::uint64_t{1} << 62) bad_tensor("found shape extent {}, expected at most 2^62", value);
      if (tensors_.back().shape.size() == kMaxTensorRank)
        bad_tensor("found a shape of more than {} extents", kMaxTensorRank);
      tensors_.back().shape.push_back(static_cast<std::int64_t>(value));
    } else if (place_ == Place::kOffsets) {
      if (offsets_.size() == 2) bad_tensor("found more than two data_offsets, expected [begin, end]");
      offsets_.push_back(value);
    } else {
      unexpected("a number");
    }
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || key_ != "dtype" || has_dtype_) unexpected("a string");
    const auto dtype = dtype_from_name(value);
    if (!dtype) bad_tensor("found dtype {}, which swiftprune does not know", json_quoted(value));
    tensors_.back().dtype = *dtype;
    return has_dtype_ = true;
  }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return unexpected("a number that is not an integer");
  }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    bad_input("{}: header is not valid JSON: {}", file_, json_error_text(error));
  }

 private:
  enum class Place { kOutside, kTop, kMetadata, kTensor, kShape, kOffsets, kDone };

  template <class... Args>
  [[noreturn]] void bad_tensor(fmt::format_string<Args...> format, Args&&... args) {
    bad_input("{}: tensor {}: {}", file_, tensors_.back().name,
              fmt::format(format, std::forward<Args>(args)...));
  }

  bool unexpected(std::string_view what) {
    if (place_ == Place::kTensor || place_ == Place::kShape || place_ == Place::kOffsets) {
      bad_tensor(
          "found {} at {}, expected dtype (string), shape and data_offsets (lists of integers), once each",
          what, json_quoted(key_));
    }
    bad_input("{}: header: found {}, expected one object of tensors (and __metadata__ of strings)", file_,
              what);
  }

  void finish_tensor() {
    TensorInfo& tensor = tensors_.back();
    if (!has_dtype_ || !has_shape_ || !has_offsets_) {
      bad_tensor("found no {}, expected dtype, shape and data_offsets", !has_dtype_   ? "dtype"
                                                                        : !has_shape_ ? "shape"
                                                                                      : "data_offsets");
    }
    if (offsets_.size() != 2 || offsets_[0] > offsets_[1]) {
      bad_tensor("found data_offsets [{}], expected [begin, end] with begin <= end",
                 fmt::join(offsets_, ", "));
    }
    std::tie(tensor.begin, tensor.end) = std::tie(offsets_[0], offsets_[1]);
    const auto numel = checked_numel(tensor.shape);
    const auto bytes = numel ? bytes_of(tensor.dtype, *numel) : numel;
    if (!bytes || *bytes != tensor.end - tensor.begin) {
      bad_tensor("found {} bytes in data_offsets, expected {} for {} [{}]", tensor.end - tensor.begin,
                 bytes ? fmt::format("{}", *bytes) : "an impossible number", name_of(tensor.dtype),
                 fmt::join(tensor.shape, ", "));
    }
  }

  const std::string& file_;
  std::vector<TensorInfo>& tensors_;
  Place place_ = Place::kOutside;
  std::string key_;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> metadata_keys_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  std::vector<std::uint64_t> offsets_;
};

void check_layout(const std::vector<TensorInfo>& tensors, std::uint64_t data_bytes, const std::string& file) {
  std::uint64_t end = 0;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.begin != end) {
      bad_input("{}: tensor {}: found data at byte {}, expected {}; tensors must not overlap or leave holes",
                file, tensor.name, tensor.begin, end);
    }
    if (tensor.end > data_bytes) {
      bad_input(
          "{}: tensor {}: found its end at byte {}, but the file holds {} bytes of data; it is cut short",
          file, tensor.name, tensor.end, data_bytes);
    }
    end = tensor.end;
  }
  if (end != data_bytes) {
    bad_input("{}: found {} bytes of data, expected {} as the header says", file, data_bytes, end);
  }
}

}  // namespace

std::string safetensors_name(std::string_view file) {
  constexpr std::string_view kOld = "pytorch_model", kOldEnd = ".bin";
  if (file.ends_with(".gguf")) return kSafetensorsFile;  // a folder has one
  if (!file.ends_with(kOldEnd)) return std::string(file);
  file.remove_suffix(kOldEnd.size());
  if (file.starts_with(kOld)) return fmt::format("model{}.safetensors", file.substr(kOld.size()));
  return fmt::format("{}.safetensors", file);
}

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& name) {
  refuse_lfs_pointer({reinterpret_cast<const char*>(file.data()), file.size()}, name);
  std::uint64_t header_bytes = 0;
  if (file.size() < sizeof(header_bytes)) {
    bad_input("{}: found {} bytes, expected a safetensors file", name, file.size());
  }
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    bad_input("{}: found a header of {} bytes, expected at most {}; is it a safetensors file?", name,
              header_bytes, kMaxSafetensorsHeaderBytes);
  }
  if (header_bytes > file.size() - sizeof(header_bytes)) {
    bad_input("{}: found a header of {} bytes in a file of {}; it is cut short", name, header_bytes,
              file.size());
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof(header_bytes),
                              header_bytes);
  if (!text.starts_with('{')) bad_input("{}: header: expected it to start with '{{'", name);

  SafetensorsHeader header;
  header.data_begin = sizeof(header_bytes) + header_bytes;
  HeaderHandler handler(name, header.tensors);
  nlohmann::json::sax_parse(text, &handler);
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const TensorInfo& a, const TensorInfo& b) {
                     return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
                   });
  check_layout(header.tensors, file.size() - header.data_begin, name);
  return header;
}

std::string format_safetensors_header(std::span<const TensorInfo> tensors, std::size_t alignment) {
  // transformers refuses a file whose metadata does not name the framework.
  std::string text = R"({"__metadata__":{"format":"pt"})";
  for (const TensorInfo& tensor : tensors) {
    text +=
        fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", json_quoted(tensor.name),
                    name_of(tensor.dtype), fmt::join(tensor.shape, ","), tensor.begin, tensor.end);
  }
  text += '}';
  text.resize((8 + text.size() + alignment - 1) / alignment * alignment - 8, ' ');
  expect(text.size() <= kMaxSafetensorsHeaderBytes,
         "format_safetensors_header: a header within the format's limit");
  const std::uint64_t size = text.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + text;
}

}  // namespace swiftprune
