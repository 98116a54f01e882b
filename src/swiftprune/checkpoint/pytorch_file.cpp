#include "swiftprune/checkpoint/pytorch_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <optional>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "swiftprune/checkpoint/pickle.h"
#include "swiftprune/checkpoint/zip_file.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/git_lfs.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

using PickleKind = PickleValue::Kind;

constexpr std::uint64_t kMaxPickleBytes = 64'000'000;

constexpr std::array kStorageTypes = {
    std::pair<std::string_view, DType>{"torch.FloatStorage", DType::kF32},
    std::pair<std::string_view, DType>{"torch.HalfStorage", DType::kF16},
    std::pair<std::string_view, DType>{"torch.BFloat16Storage", DType::kBF16},
    std::pair<std::string_view, DType>{"torch.DoubleStorage", DType::kF64},
    std::pair<std::string_view, DType>{"torch.BoolStorage", DType::kBool},
    std::pair<std::string_view, DType>{"torch.ByteStorage", DType::kU8},
    std::pair<std::string_view, DType>{"torch.CharStorage", DType::kI8},
    std::pair<std::string_view, DType>{"torch.ShortStorage", DType::kI16},
    std::pair<std::string_view, DType>{"torch.IntStorage", DType::kI32},
    std::pair<std::string_view, DType>{"torch.LongStorage", DType::kI64},
    std::pair<std::string_view, DType>{"torch.ComplexFloatStorage", DType::kC64},
};

// Where a storage lies: its elements, by its key.
struct StorageBytes {
  std::uint64_t begin = 0, end = 0;
};
using Storages = std::map<std::string, StorageBytes, std::less<>>;

class TensorReader {
 public:
  TensorReader(const Pickle& pickle, const Storages& storages, bool swapped, const std::string& name)
      : pickle_(pickle), storages_(storages), swapped_(swapped), name_(name) {}

  std::vector<PytorchTensor> read() const {
    const PickleValue& root = pickle_.at(pickle_.root);
    if (root.kind != PickleKind::kDict) bad_input("{}: expected a dict of names and tensors", name_);
    std::vector<PytorchTensor> tensors;
    std::unordered_set<std::string> names;
    for (std::size_t i = 0; i + 1 < root.items.size(); i += 2) {
      const PickleValue& key = pickle_.at(root.items[i]);
      if (key.kind != PickleKind::kString || has_control_characters(key.text)) {
        bad_input("{}: found a key that is no plain string, expected names of tensors", name_);
      }
      if (!names.insert(key.text).second) bad_input("{}: tensor {}: found twice", name_, key.text);
      tensors.push_back(tensor(key.text, pickle_.at(root.items[i + 1])));
    }
    return tensors;
  }

 private:
  std::vector<std::int64_t> integers(const PickleValue& list, const std::string& tensor) const {
    std::vector<std::int64_t> values;
    if (list.kind != PickleKind::kTuple || list.items.size() > kMaxTensorRank) {
      bad_input("{}: tensor {}: found no shape of at most {} numbers", name_, tensor, kMaxTensorRank);
    }
    for (const std::int32_t item : list.items) {
      const PickleValue& value = pickle_.at(item);
      if (value.kind != PickleKind::kInteger || value.integer < 0) {
        bad_input("{}: tensor {}: found a shape or stride that is no number from 0 on", name_, tensor);
      }
      values.push_back(value.integer);
    }
    return values;
  }

  PytorchTensor tensor(const std::string& tensor_name, const PickleValue& value) const {
    if (value.kind != PickleKind::kTensor) {
      bad_input(
          "{}: {}: found no tensor, expected a state dict of tensors alone; save the model's state_dict() or "
          "its "
          "safetensors (transformers' save_pretrained)",
          name_, json_quoted(tensor_name));
    }
    const PickleValue& storage = pickle_.at(value.items[0]);
    const std::string_view type = pickle_.at(storage.items[0]).text;
    const auto known = std::find_if(kStorageTypes.begin(), kStorageTypes.end(),
                                    [&](const auto& entry) { return entry.first == type; });
    if (known == kStorageTypes.end()) {
      bad_input("{}: tensor {}: found {}, which swiftprune does not know", name_, tensor_name, type);
    }
    PytorchTensor result{.name = tensor_name, .dtype = known->second};
    result.shape = integers(pickle_.at(value.items[2]), tensor_name);
    result.strides = integers(pickle_.at(value.items[3]), tensor_name);
    result.swapped = swapped_ && size_of(result.dtype) > 1;
    const PickleValue& first = pickle_.at(value.items[1]);
    const std::string& key = pickle_.at(storage.items[1]).text;
    const auto bytes = storages_.find(key);
    if (bytes == storages_.end()) {
      bad_input("{}: tensor {}: its storage {} is missing", name_, tensor_name, json_quoted(key));
    }
    if (first.kind != PickleKind::kInteger || first.integer < 0 ||
        result.strides.size() != result.shape.size()) {
      bad_input("{}: tensor {}: expected a first element, and a stride for each extent", name_, tensor_name);
    }
    place(static_cast<std::uint64_t>(first.integer), bytes->second, result);
    return result;
  }

  // Where it begins; its last element must lie in the storage.
  void place(std::uint64_t first, const StorageBytes& storage, PytorchTensor& tensor) const {
    const auto size = static_cast<std::uint64_t>(size_of(tensor.dtype));
    const auto numel = checked_numel(tensor.shape);
    std::optional<std::uint64_t> last = first;
    std::uint64_t packed = 1;
    for (std::size_t i = tensor.shape.size(); numel && *numel > 0 && i-- > 0;) {
      const auto extent = static_cast<std::uint64_t>(tensor.shape[i]);
      const auto stride = static_cast<std::uint64_t>(tensor.strides[i]);
      tensor.contiguous = tensor.contiguous && (extent == 1 || stride == packed);
      packed *= extent;
      const auto reach = checked_mul(extent - 1, stride);
      last = last && reach ? checked_add(*last, *reach) : std::nullopt;
    }
    const std::uint64_t count = (storage.end - storage.begin) / size;
    if (!numel || !last || (*numel > 0 ? *last >= count : first > count)) {
      bad_input("{}: tensor {}: found elements up to {}, but its storage has {}", name_, tensor.name,
                last ? fmt::format("{}", *last) : "an impossible number", count);
    }
    // No more elements than a checkpoint of that size can have: one repeated by a stride of 0 is no weight.
    if (*numel > count) {
      bad_input("{}: tensor {}: found {} elements in a storage of {}, expected at most as many", name_,
                tensor.name, *numel, count);
    }
    tensor.begin = storage.begin + first * size;
  }

  const Pickle& pickle_;
  const Storages& storages_;
  bool swapped_;
  const std::string& name_;
};

std::string_view text_of(std::span<const std::byte> file, std::uint64_t begin, std::uint64_t end) {
  return {reinterpret_cast<const char*>(file.data()) + begin, static_cast<std::size_t>(end - begin)};
}

// PREFIX/data.pkl, PREFIX/byteorder, PREFIX/data/KEY.
std::vector<PytorchTensor> parse_archive(std::span<const std::byte> file, const std::string& name) {
  const std::vector<ZipEntry> entries = parse_zip(file, name);
  constexpr std::string_view kPickle = "/data.pkl";
  const auto pickle_entry = std::find_if(entries.begin(), entries.end(),
                                         [&](const ZipEntry& e) { return e.name.ends_with(kPickle); });
  if (pickle_entry == entries.end())
    bad_input("{}: found a zip archive without data.pkl, expected one that torch.save wrote", name);
  const std::string prefix = pickle_entry->name.substr(0, pickle_entry->name.size() - kPickle.size() + 1);
  Storages storages;
  bool swapped = false;
  for (const ZipEntry& entry : entries) {
    if (!entry.name.starts_with(prefix)) continue;
    const std::string_view rest = std::string_view(entry.name).substr(prefix.size());
    if (rest == "constants.pkl") {
      bad_input("{}: found a TorchScript archive, expected a state dict that torch.save wrote", name);
    } else if (rest == "byteorder") {
      swapped = text_of(file, entry.begin, entry.end).starts_with("big");
    } else if (rest.starts_with("data/")) {
      storages.emplace(rest.substr(5), StorageBytes{entry.begin, entry.end});
    }
  }
  if (pickle_entry->end - pickle_entry->begin > kMaxPickleBytes) {
    bad_input("{}: found a data.pkl of {} bytes, expected at most {}", name,
              pickle_entry->end - pickle_entry->begin, kMaxPickleBytes);
  }
  const Pickle pickle =
      parse_pickle(file.subspan(pickle_entry->begin, pickle_entry->end - pickle_entry->begin), name);
  return TensorReader(pickle, storages, swapped, name).read();
}

// Before PyTorch 1.6: pickles of a magic number, a version, the system (byte order), the state dict and the
// storages' keys; then for each key its number of elements and the elements.
class LegacyFile {
 public:
  LegacyFile(std::span<const std::byte> file, const std::string& name) : file_(file), name_(name) {}

  std::vector<PytorchTensor> read() {
    next();  // the magic number
    next();  // the version
    const bool swapped = is_big_endian(next());
    const Pickle state = next(), keys = next();
    std::map<std::string, std::int64_t, std::less<>> element_sizes = sizes_of_elements(state);
    const PickleValue& list = keys.at(keys.root);
    if (list.kind != PickleKind::kList) bad_input("{}: found no list of storages", name_);
    Storages storages;
    for (const std::int32_t item : list.items) {
      const std::string& key = keys.at(item).text;
      const auto size = element_sizes.find(key);
      if (size == element_sizes.end())
        bad_input("{}: found the storage {}, which no tensor has", name_, json_quoted(key));
      std::uint64_t count = 0;
      if (file_.size() - at_ < sizeof(count))
        bad_input("{}: found no size of storage {}; it is cut short", name_, json_quoted(key));
      std::memcpy(&count, file_.data() + at_, sizeof(count));
      at_ += sizeof(count);
      const auto bytes = checked_mul(count, static_cast<std::uint64_t>(size->second));
      if (!bytes || *bytes > file_.size() - at_) {
        bad_input("{}: found a storage of {} elements at byte {}, but the file ends at {}; it is cut short",
                  name_, count, at_, file_.size());
      }
      storages[key] = {at_, at_ + *bytes};
      at_ += *bytes;
    }
    return TensorReader(state, storages, swapped, name_).read();
  }

 private:
  Pickle next() {
    const auto rest = file_.subspan(at_, std::min<std::uint64_t>(file_.size() - at_, kMaxPickleBytes));
    Pickle pickle = parse_pickle(rest, name_);
    at_ += pickle.num_bytes;
    return pickle;
  }

  bool is_big_endian(const Pickle& system) const {
    const PickleValue& root = system.at(system.root);
    if (root.kind != PickleKind::kDict)
      bad_input("{}: found no description of the system that wrote it", name_);
    for (std::size_t i = 0; i + 1 < root.items.size(); i += 2) {
      const PickleValue& value = system.at(root.items[i + 1]);
      if (system.at(root.items[i]).text == "little_endian" && value.kind == PickleKind::kBoolean)
        return value.integer == 0;
    }
    return false;
  }

  std::map<std::string, std::int64_t, std::less<>> sizes_of_elements(const Pickle& state) const {
    std::map<std::string, std::int64_t, std::less<>> sizes;
    for (const PickleValue& value : state.values) {
      if (value.kind != PickleKind::kStorage) continue;
      const std::string_view type = state.at(value.items[0]).text;
      for (const auto& [known, dtype] : kStorageTypes) {
        if (known == type) sizes[state.at(value.items[1]).text] = size_of(dtype);
      }
      if (value.items.size() > 4 && state.at(value.items[4]).kind != PickleKind::kNone) {
        bad_input("{}: found a view of a storage, as PyTorch before 0.4 wrote them; save the model again",
                  name_);
      }
    }
    return sizes;
  }

  std::span<const std::byte> file_;
  const std::string& name_;
  std::uint64_t at_ = 0;
};

// A pickle of protocol 2 whose first value is torch's magic number.
constexpr std::array<unsigned char, 14> kLegacyStart = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c,
                                                        0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};

}  // namespace

std::vector<PytorchTensor> parse_pytorch(std::span<const std::byte> file, const std::string& name) {
  refuse_lfs_pointer(text_of(file, 0, file.size()), name);
  if (looks_like_zip(file)) return parse_archive(file, name);
  if (file.size() >= kLegacyStart.size() &&
      std::memcmp(file.data(), kLegacyStart.data(), kLegacyStart.size()) == 0) {
    return LegacyFile(file, name).read();
  }
  bad_input("{}: found neither a zip archive nor a pickle that torch.save wrote", name);
}

std::vector<std::byte> gather(std::span<const std::byte> file, const PytorchTensor& tensor) {
  const auto size = static_cast<std::size_t>(size_of(tensor.dtype));
  const auto numel = static_cast<std::size_t>(*checked_numel(tensor.shape));
  std::vector<std::byte> result(numel * size);
  std::vector<std::int64_t> index(tensor.shape.size(), 0);
  std::int64_t element = 0;
  for (std::size_t n = 0; n < numel; ++n) {
    const std::byte* source = file.data() + tensor.begin + static_cast<std::uint64_t>(element) * size;
    std::byte* target = result.data() + n * size;
    std::memcpy(target, source, size);
    if (tensor.swapped) std::reverse(target, target + size);
    for (std::size_t d = index.size(); d-- > 0;) {
      element += tensor.strides[d];
      if (++index[d] < tensor.shape[d]) break;
      element -= tensor.strides[d] * tensor.shape[d];
      index[d] = 0;
    }
  }
  return result;
}

}  // namespace swiftprune
