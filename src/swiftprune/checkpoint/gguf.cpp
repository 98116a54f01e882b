#include "swiftprune/checkpoint/gguf.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <unordered_map>
#include <utility>

#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

enum class ValueType : std::uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

struct ValueTypeInfo {
  const char* name;
  std::uint64_t bytes;  // 0: of no fixed size
};
constexpr ValueTypeInfo kValueTypes[] = {
    {"uint8", 1},   {"int8", 1},   {"uint16", 2}, {"int16", 2},  {"uint32", 4}, {"int32", 4},  {"float32", 4},
    {"boolean", 1}, {"string", 0}, {"array", 0},  {"uint64", 8}, {"int64", 8},  {"float64", 8}};

const ValueTypeInfo& info_of(ValueType type) { return kValueTypes[static_cast<std::size_t>(type)]; }

// A value or an array, as it lies in the file.
struct Value {
  ValueType type;  // of the elements when it is an array
  bool is_array;
  std::uint64_t count;
  std::span<const std::byte> bytes;

  std::string type_name() const {
    return is_array ? fmt::format("an array of {}", info_of(type).name) : info_of(type).name;
  }
};

template <class T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

// A number as double. Integers of the metadata are far below 2^53.
double number_at(ValueType type, const std::byte* p) {
  switch (type) {
    case ValueType::kU8:
    case ValueType::kBool:
      return load<std::uint8_t>(p);
    case ValueType::kI8:
      return load<std::int8_t>(p);
    case ValueType::kU16:
      return load<std::uint16_t>(p);
    case ValueType::kI16:
      return load<std::int16_t>(p);
    case ValueType::kU32:
      return load<std::uint32_t>(p);
    case ValueType::kI32:
      return load<std::int32_t>(p);
    case ValueType::kF32:
      return static_cast<double>(load<float>(p));
    case ValueType::kU64:
      return static_cast<double>(load<std::uint64_t>(p));
    case ValueType::kI64:
      return static_cast<double>(load<std::int64_t>(p));
    case ValueType::kF64:
      return load<double>(p);
    default:
      break;
  }
  expect(false, "number_at: a number type");
  return 0.0;
}

bool is_float(ValueType type) { return type == ValueType::kF32 || type == ValueType::kF64; }
bool is_number(ValueType type) { return info_of(type).bytes > 0 && type != ValueType::kBool; }

bool is_printable(char c) { return c >= ' ' && c <= '~'; }

// The beginning of a name that is none, for a message.
std::string printable(std::string_view name) {
  constexpr std::size_t kMost = 40;
  std::string text;
  for (const char c : name.substr(0, kMost)) {
    text += is_printable(c) ? std::string(1, c) : fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return name.size() > kMost ? text + "..." : text;
}

// Takes bytes from the front; every length is tested before it is used.
class Reader {
 public:
  Reader(std::span<const std::byte> file, const std::string& name) : file_(file), name_(name) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t left() const { return file_.size() - position_; }

  std::span<const std::byte> take(std::uint64_t bytes, std::string_view what) {
    if (bytes > left()) {
      bad_input("{}: found its end at byte {} inside {}; the file is cut short or damaged", name_,
                file_.size(), what);
    }
    const auto taken = file_.subspan(position_, bytes);
    position_ += bytes;
    return taken;
  }
  template <class T>
  T number(std::string_view what) {
    return load<T>(take(sizeof(T), what).data());
  }
  std::string_view text(std::string_view what) {
    const auto bytes = take(number<std::uint64_t>(what), what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  // A name that will be used in messages.
  std::string_view plain_name(std::string_view what) {
    constexpr std::size_t kMost = 255;  // llama.cpp's own are shorter than 64
    const std::string_view name = text(what);
    if (name.empty() || name.size() > kMost || !std::all_of(name.begin(), name.end(), is_printable)) {
      bad_input("{}: {}: found \"{}\", expected 1 to {} printable characters of ASCII", name_, what,
                printable(name), kMost);
    }
    return name;
  }

  ValueType value_type(std::string_view key) {
    const auto type = number<std::uint32_t>(key);
    if (type >= std::size(kValueTypes)) {
      bad_input("{}: {}: found the value type {}, expected at most 12", name_, key, type);
    }
    return static_cast<ValueType>(type);
  }

  Value value(std::string_view key) {
    Value value{value_type(key), false, 1, {}};
    if (value.type == ValueType::kArray) {
      value.is_array = true;
      value.type = value_type(key);
      value.count = number<std::uint64_t>(key);
      if (value.type == ValueType::kArray) bad_input("{}: {}: found an array of arrays", name_, key);
    }
    const std::uint64_t start = position_;
    if (const std::uint64_t size = info_of(value.type).bytes; size > 0) {
      const auto bytes = checked_mul(value.count, size);
      take(bytes.value_or(std::numeric_limits<std::uint64_t>::max()), key);
    } else {
      for (std::uint64_t i = 0; i < value.count; ++i) text(key);
    }
    value.bytes = file_.subspan(start, position_ - start);
    return value;
  }

 private:
  std::span<const std::byte> file_;
  const std::string& name_;
  std::uint64_t position_ = 0;
};

}  // namespace

std::vector<std::filesystem::path> gguf_parts(const std::filesystem::path& file) {
  constexpr std::string_view kEnd = ".gguf", kOf = "-of-";
  constexpr std::size_t kDigits = 5, kLength = 2 * kDigits + kOf.size() + 1 + kEnd.size();
  const std::string name = file.filename().string();
  if (name.size() <= kLength) return {file};
  const std::string tail = name.substr(name.size() - kLength);  // "-00002-of-00003.gguf"
  const auto number = [&](std::size_t at) {
    const std::string digits = tail.substr(at, kDigits);
    return digits.find_first_not_of("0123456789") == std::string::npos ? std::stoul(digits) : 0;
  };
  const auto no = number(1), count = number(1 + kDigits + kOf.size());
  if (tail.front() != '-' || tail.substr(1 + kDigits, kOf.size()) != kOf || !tail.ends_with(kEnd) || no < 1 ||
      no > count || count < 2) {
    return {file};
  }
  std::vector<std::filesystem::path> parts;
  for (std::size_t i = 1; i <= count; ++i) {
    parts.push_back(file.parent_path() /
                    fmt::format("{}-{:05}-of-{:05}.gguf", name.substr(0, name.size() - kLength), i, count));
  }
  return parts;
}

std::int64_t GgufTensor::numel() const { return static_cast<std::int64_t>(checked_numel(shape).value()); }

struct GgufFile::Impl {
  struct Part {
    explicit Part(const std::filesystem::path& path) : file(path), name(path.string()) {}
    MappedFile file;
    std::string name;
    std::map<std::string_view, Value> values;  // keys lie in the file
    std::size_t first_tensor = 0, end_tensor = 0;
  };
  std::vector<std::unique_ptr<Part>> parts;
  std::vector<GgufTensor> tensors;
  std::unordered_map<std::string_view, std::size_t> by_name;

  explicit Impl(const std::filesystem::path& path) {
    const std::vector<std::filesystem::path> files = gguf_parts(path);
    for (std::size_t i = 0; i < files.size(); ++i) {
      if (!std::filesystem::exists(files[i])) {
        if (files.size() == 1) bad_input("{}: no such file", path.string());
        bad_input("{}: part {} of {} is missing, expected beside {}", files[i].string(), i + 1, files.size(),
                  path.string());
      }
      parts.push_back(std::make_unique<Part>(files[i]));
      read(*parts.back());
    }
    check_split();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (!by_name.emplace(tensors[i].name, i).second)
        bad_input("{}: tensor {}: found twice", name_of(tensors[i]), tensors[i].name);
    }
  }

  // Metadata are those of the first.
  const Part& first() const { return *parts.front(); }
  const std::string& name_of(const GgufTensor& tensor) const { return parts[tensor.part]->name; }

  void read(Part& part) {
    const std::string& name = part.name;
    Reader reader(part.file.bytes(), name);
    if (reader.left() < 4 || std::memcmp(part.file.bytes().data(), "GGUF", 4) != 0) {
      bad_input("{}: found another kind of file, expected a GGUF file", name);
    }
    reader.take(4, "the header");
    const auto version = reader.number<std::uint32_t>("the header");
    if (version != 2 && version != 3) {
      const bool big_endian = version == 0x02000000u || version == 0x03000000u;
      bad_input("{}: found GGUF {}, expected version 2 or 3{}", name,
                big_endian ? std::string("in big-endian byte order") : fmt::format("version {}", version),
                version == 1 ? "; convert the original model again with a current llama.cpp" : "");
    }
    const auto num_tensors = reader.number<std::uint64_t>("the header");
    const auto num_values = reader.number<std::uint64_t>("the header");
    for (std::uint64_t i = 0; i < num_values; ++i) {
      const std::string_view key = reader.plain_name("a metadata key");
      if (!part.values.emplace(key, reader.value(key)).second) bad_input("{}: {}: found twice", name, key);
    }
    part.first_tensor = tensors.size();
    for (std::uint64_t i = 0; i < num_tensors; ++i) read_tensor_info(part, reader);
    part.end_tensor = tensors.size();
    place_tensors(part, reader.position());
  }

  std::optional<std::int64_t> split_number(const Part& part, std::string_view key) const {
    const auto entry = part.values.find(key);
    if (entry == part.values.end()) return std::nullopt;
    const Value& value = entry->second;
    if (value.is_array || !is_number(value.type) || is_float(value.type))
      bad_input("{}: {}: found {}, expected an integer", part.name, key, value.type_name());
    return static_cast<std::int64_t>(number_at(value.type, value.bytes.data()));
  }

  // The parts say of themselves what their names say.
  void check_split() const {
    const auto count = static_cast<std::int64_t>(parts.size());
    for (std::int64_t i = 0; i < count; ++i) {
      const Part& part = *parts[static_cast<std::size_t>(i)];
      const std::int64_t found = split_number(part, "split.count").value_or(1);
      const std::int64_t number = split_number(part, "split.no").value_or(0);
      if (count == 1 && found > 1) {
        bad_input(
            "{}: found part {} of {}, expected a name that ends with -{:05}-of-{:05}.gguf, and the other "
            "parts "
            "beside it",
            part.name, number + 1, found, number + 1, found);
      }
      if (found != count || (count > 1 && number != i)) {
        bad_input("{}: split.no and split.count: found part {} of {}, expected {} of {} as its name says",
                  part.name, number + 1, found, i + 1, count);
      }
    }
    const auto total = split_number(first(), "split.tensors.count");
    if (total && count > 1 && *total != std::ssize(tensors)) {
      bad_input("{}: split.tensors.count: found {}, expected {}, the tensors of all {} parts", first().name,
                *total, tensors.size(), count);
    }
  }

  void read_tensor_info(const Part& part, Reader& reader) {
    const std::string& name = part.name;
    GgufTensor& tensor = tensors.emplace_back();
    tensor.part = parts.size() - 1;
    tensor.name = reader.plain_name("a tensor name");
    const auto rank = reader.number<std::uint32_t>(tensor.name);
    if (rank < 1 || rank > 4) {
      bad_input("{}: tensor {}: found {} dimensions, expected 1 to 4", name, tensor.name, rank);
    }
    for (std::uint32_t d = 0; d < rank; ++d) {
      const auto extent = reader.number<std::uint64_t>(tensor.name);
      // Rows of nothing may be so many that no loop over them ends.
      if (extent == 0 || extent > std::uint64_t{1} << 62)
        bad_input("{}: tensor {}: found extent {}, expected 1 to 2^62", name, tensor.name, extent);
      tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(extent));
    }
    const auto type = reader.number<std::uint32_t>(tensor.name);
    tensor.type = find_ggml_type(type);
    if (tensor.type == nullptr) {
      bad_input("{}: tensor {}: found the type {}, expected one of {}", name, tensor.name,
                ggml_type_name(type), readable_ggml_types());
    }
    tensor.begin = reader.number<std::uint64_t>(tensor.name);
  }

  // Turns offsets from the start of the data into offsets from the start of the file.
  void place_tensors(const Part& part, std::uint64_t header_end) {
    const std::string& name = part.name;
    const std::uint64_t file_size = part.file.bytes().size(), alignment = data_alignment(part);
    const std::uint64_t data_begin = (header_end + alignment - 1) / alignment * alignment;
    for (std::size_t i = part.first_tensor; i < part.end_tensor; ++i) {
      GgufTensor& tensor = tensors[i];
      if (tensor.begin % alignment != 0) {
        bad_input("{}: tensor {}: found offset {}, expected a multiple of {}", name, tensor.name,
                  tensor.begin, alignment);
      }
      if (tensor.shape.back() % tensor.type->block_size != 0) {
        bad_input("{}: tensor {}: found rows of {}, expected a multiple of {} for {}", name, tensor.name,
                  tensor.shape.back(), tensor.type->block_size, tensor.type->name);
      }
      const auto numel = checked_numel(tensor.shape);
      const auto bytes = numel ? checked_mul(*numel / static_cast<std::uint64_t>(tensor.type->block_size),
                                             static_cast<std::uint64_t>(tensor.type->block_bytes))
                               : numel;
      const auto begin = checked_add(data_begin, tensor.begin);
      const auto end = bytes && begin ? checked_add(*begin, *bytes) : std::nullopt;
      if (!end || *end > file_size) {
        bad_input(
            "{}: tensor {}: found {} [{}] at offset {}, past the end of the file ({} bytes); the file is "
            "cut short or damaged",
            name, tensor.name, tensor.type->name, fmt::join(tensor.shape, ", "), tensor.begin, file_size);
      }
      tensor.begin = *begin;
      tensor.end = *end;
    }
    check_overlaps(part);
  }

  std::uint64_t data_alignment(const Part& part) const {
    const auto entry = part.values.find("general.alignment");
    if (entry == part.values.end()) return 32;
    const Value& value = entry->second;
    const bool is_u32 = !value.is_array && value.type == ValueType::kU32;
    const std::uint64_t alignment = is_u32 ? load<std::uint32_t>(value.bytes.data()) : 0;
    if (!std::has_single_bit(alignment)) {
      bad_input("{}: general.alignment: found {}, expected a power of two", part.name,
                is_u32 ? fmt::format("{}", alignment) : value.type_name());
    }
    return alignment;
  }

  void check_overlaps(const Part& part) const {
    std::vector<const GgufTensor*> sorted;
    for (std::size_t i = part.first_tensor; i < part.end_tensor; ++i) sorted.push_back(&tensors[i]);
    std::sort(sorted.begin(), sorted.end(),
              [](const GgufTensor* a, const GgufTensor* b) { return a->begin < b->begin; });
    for (std::size_t i = 1; i < sorted.size(); ++i) {
      if (sorted[i]->begin < sorted[i - 1]->end) {
        bad_input("{}: tensors {} and {} overlap", part.name, sorted[i - 1]->name, sorted[i]->name);
      }
    }
  }

  const Value* find(std::string_view key) const {
    const auto entry = first().values.find(key);
    return entry == first().values.end() ? nullptr : &entry->second;
  }

  [[noreturn]] void wrong_type(std::string_view key, const Value& value, std::string_view expected) const {
    bad_input("{}: {}: found {}, expected {}", first().name, key, value.type_name(), expected);
  }
};

GgufFile::GgufFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;
GgufFile::~GgufFile() = default;

GgufFile GgufFile::open(const std::filesystem::path& path) { return GgufFile(std::make_unique<Impl>(path)); }

const std::string& GgufFile::name() const { return impl_->first().name; }
bool GgufFile::has(std::string_view key) const { return impl_->find(key) != nullptr; }

bool GgufFile::is_text(std::string_view key) const {
  const Value* value = impl_->find(key);
  expect(value != nullptr, "is_text: a key of this file");
  return value->type == ValueType::kString;
}

std::vector<std::string_view> GgufFile::keys() const {
  std::vector<std::string_view> keys;
  for (const auto& [key, value] : impl_->first().values) keys.push_back(key);
  return keys;
}

std::optional<std::string_view> GgufFile::text(std::string_view key) const {
  const Value* value = impl_->find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || value->type != ValueType::kString) impl_->wrong_type(key, *value, "a string");
  return Reader(value->bytes, impl_->first().name).text(key);
}

std::optional<std::int64_t> GgufFile::integer(std::string_view key) const {
  const Value* value = impl_->find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || !is_number(value->type) || is_float(value->type)) {
    impl_->wrong_type(key, *value, "an integer");
  }
  return integers(key)->front();
}

std::optional<std::vector<std::int64_t>> GgufFile::integers(std::string_view key) const {
  const Value* value = impl_->find(key);
  if (value == nullptr) return std::nullopt;
  if (!is_number(value->type) || is_float(value->type)) {
    impl_->wrong_type(key, *value, "an array of integers");
  }
  const std::uint64_t size = info_of(value->type).bytes;
  std::vector<std::int64_t> integers(value->count);
  for (std::size_t i = 0; i < integers.size(); ++i) {
    const double number = number_at(value->type, value->bytes.data() + i * size);
    if (std::abs(number) > 0x1p53)
      bad_input("{}: {}: found {}, which is too large", impl_->first().name, key, number);
    integers[i] = static_cast<std::int64_t>(number);
  }
  return integers;
}

std::optional<double> GgufFile::number(std::string_view key) const {
  const Value* value = impl_->find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || !is_number(value->type)) impl_->wrong_type(key, *value, "a number");
  const double number = number_at(value->type, value->bytes.data());
  if (!std::isfinite(number))
    bad_input("{}: {}: found {}, expected a finite number", impl_->first().name, key, number);
  return number;
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  const Value* value = impl_->find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || value->type != ValueType::kBool) impl_->wrong_type(key, *value, "a boolean");
  return value->bytes[0] != std::byte{0};
}

std::optional<std::vector<std::string_view>> GgufFile::texts(std::string_view key) const {
  const Value* value = impl_->find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array || value->type != ValueType::kString)
    impl_->wrong_type(key, *value, "an array of string");
  Reader reader(value->bytes, impl_->first().name);
  std::vector<std::string_view> texts(value->count);
  for (std::string_view& text : texts) text = reader.text(key);
  return texts;
}

std::optional<std::vector<double>> GgufFile::numbers(std::string_view key) const {
  const Value* value = impl_->find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array) impl_->wrong_type(key, *value, "an array of numbers");
  return one_or_more(key);
}

std::vector<double> GgufFile::one_or_more(std::string_view key) const {
  const Value* value = impl_->find(key);
  expect(value != nullptr, "one_or_more: a key of this file");
  if (value->type == ValueType::kString) impl_->wrong_type(key, *value, "an array of numbers");
  const std::uint64_t size = info_of(value->type).bytes;
  std::vector<double> numbers(value->is_array ? value->count : 1);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = number_at(value->type, value->bytes.data() + i * size);
  }
  return numbers;
}

std::vector<double> GgufFile::floats(std::string_view key) const {
  const Value* value = impl_->find(key);
  expect(value != nullptr, "floats: a key of this file");
  if (!is_float(value->type)) impl_->wrong_type(key, *value, "floats");
  return one_or_more(key);
}

const std::vector<GgufTensor>& GgufFile::tensors() const { return impl_->tensors; }

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto entry = impl_->by_name.find(name);
  return entry == impl_->by_name.end() ? nullptr : &impl_->tensors[entry->second];
}

std::span<const std::byte> GgufFile::bytes(const GgufTensor& tensor) const {
  return impl_->parts[tensor.part]->file.bytes().subspan(tensor.begin, tensor.end - tensor.begin);
}

void GgufFile::release(const GgufTensor& tensor) const {
  impl_->parts[tensor.part]->file.release(tensor.begin, tensor.end);
}

}  // namespace swiftprune
