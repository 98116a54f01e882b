#include "swiftprune/export/gguf_writer.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <limits>
#include <system_error>

#include "swiftprune/checkpoint/output_file.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

constexpr std::uint32_t kVersion = 3;
constexpr std::int64_t kAlignment = 32;

// Numbers of GGUF's value types.
enum ValueType : std::uint32_t { kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9 };

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void append_text(std::string& bytes, std::string_view text) {
  append(bytes, static_cast<std::uint64_t>(text.size()));
  bytes += text;
}

std::uint64_t aligned(std::uint64_t size) {
  return static_cast<std::uint64_t>(round_up(static_cast<std::int64_t>(size), kAlignment));
}

}  // namespace

void GgufMetadata::begin(std::string_view key, std::uint32_t type) {
  append_text(bytes_, key);
  append(bytes_, type);
  ++count_;
}

void GgufMetadata::begin_array(std::string_view key, std::uint32_t type, std::size_t count) {
  begin(key, kArray);
  append(bytes_, type);
  append(bytes_, static_cast<std::uint64_t>(count));
}

void GgufMetadata::text(std::string_view key, std::string_view value) {
  begin(key, kString);
  append_text(bytes_, value);
}

void GgufMetadata::u32(std::string_view key, std::int64_t value) {
  expect(value >= 0 && value <= std::numeric_limits<std::uint32_t>::max(), "GgufMetadata: 32 bits");
  begin(key, kU32);
  append(bytes_, static_cast<std::uint32_t>(value));
}

void GgufMetadata::f32(std::string_view key, double value) {
  begin(key, kF32);
  append(bytes_, static_cast<float>(value));
}

void GgufMetadata::boolean(std::string_view key, bool value) {
  begin(key, kBool);
  append(bytes_, static_cast<std::uint8_t>(value ? 1 : 0));
}

void GgufMetadata::texts(std::string_view key, std::span<const std::string> values) {
  begin_array(key, kString, values.size());
  for (const std::string& value : values) append_text(bytes_, value);
}

void GgufMetadata::booleans(std::string_view key, std::span<const std::uint8_t> values) {
  begin_array(key, kBool, values.size());
  for (const std::uint8_t value : values) append(bytes_, value);
}

void GgufMetadata::i32s(std::string_view key, std::span<const std::int32_t> values) {
  begin_array(key, kI32, values.size());
  for (const std::int32_t value : values) append(bytes_, value);
}

void GgufMetadata::f32s(std::string_view key, std::span<const float> values) {
  begin_array(key, kF32, values.size());
  for (const float value : values) append(bytes_, value);
}

std::uint64_t GgufPlannedTensor::num_bytes() const {
  std::int64_t numel = 1;
  for (const std::int64_t extent : shape) numel *= extent;
  return static_cast<std::uint64_t>(numel / type->block_size * type->block_bytes);
}

struct GgufWriter::Impl {
  fs::path file;
  fs::path temporary;
  bool finished = false;
  std::unique_ptr<OutputFile> output;
  std::vector<std::uint64_t> begins;  // of the tensors, in the file
  std::vector<std::uint64_t> sizes;
  std::uint64_t end = 0;

  ~Impl() {
    if (finished || output == nullptr) return;
    output.reset();
    std::error_code ignored;
    fs::remove(temporary, ignored);
  }
};

GgufWriter::GgufWriter(fs::path file, const GgufMetadata& metadata, std::vector<GgufPlannedTensor> tensors)
    : impl_(std::make_unique<Impl>()) {
  std::error_code ignored;
  if (fs::exists(file, ignored)) {
    bad_input("{}: the file exists; choose a new name, nothing is overwritten", file.string());
  }
  if (!file.has_filename()) bad_input("{}: expected a file name such as model.gguf", file.string());
  impl_->file = fs::absolute(file).lexically_normal();

  std::string head = "GGUF";
  append(head, kVersion);
  append(head, static_cast<std::uint64_t>(tensors.size()));
  append(head, metadata.count());
  head += metadata.bytes();
  std::uint64_t offset = 0;
  for (const GgufPlannedTensor& tensor : tensors) {
    expect(!tensor.shape.empty() && tensor.shape.back() % tensor.type->block_size == 0,
           "GgufPlannedTensor: whole blocks");
    append_text(head, tensor.name);
    append(head, static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent) {
      append(head, static_cast<std::uint64_t>(*extent));
    }
    append(head, static_cast<std::uint32_t>(tensor.type->type));
    append(head, offset);
    impl_->begins.push_back(offset);
    impl_->sizes.push_back(tensor.num_bytes());
    offset += aligned(tensor.num_bytes());
  }
  head.resize(aligned(head.size()));
  for (std::uint64_t& begin : impl_->begins) begin += head.size();
  impl_->end = head.size() + offset;

  const fs::path folder = impl_->file.parent_path();
  fs::create_directories(folder, ignored);
  impl_->temporary = folder / fmt::format(".{}.partial-{}", impl_->file.filename().string(), ::getpid());
  impl_->output = std::make_unique<OutputFile>(impl_->temporary);
  impl_->output->reserve(impl_->end);
  impl_->output->write_at(0, std::as_bytes(std::span(head)));
}

GgufWriter::~GgufWriter() = default;

void GgufWriter::write(std::size_t tensor, std::uint64_t first, std::span<const std::byte> bytes) const {
  expect(tensor < impl_->begins.size() && first + bytes.size() <= impl_->sizes[tensor],
         "GgufWriter: inside the tensor");
  impl_->output->write_at(impl_->begins[tensor] + first, bytes);
}

void GgufWriter::finish() {
  sync_path(impl_->temporary);
  if (std::rename(impl_->temporary.c_str(), impl_->file.c_str()) != 0) fail_write(impl_->file, errno);
  impl_->finished = true;
  impl_->output.reset();
  sync_renamed(impl_->file);
}

std::uint64_t GgufWriter::num_bytes() const { return impl_->end; }

}  // namespace swiftprune
