#include "swiftprune/checkpoint/checkpoint.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "swiftprune/checkpoint/config_file.h"
#include "swiftprune/checkpoint/gguf.h"
#include "swiftprune/checkpoint/import_gguf.h"
#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/checkpoint/pytorch_file.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/checkpoint/tensor_names.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kPytorchExtension = ".bin";
constexpr std::string_view kGgufExtension = ".gguf";

// tensor -> file, as the index says.
using WeightMap = std::map<std::string, std::string>;

WeightMap read_index(const fs::path& path, std::string_view extension) {
  const nlohmann::json index = read_json_file(path);
  const auto weight_map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || weight_map == index.end() || !weight_map->is_object() || weight_map->empty()) {
    bad_input("{}: found no weight_map, expected an object of tensor names and files", path.string());
  }
  WeightMap map;
  for (const auto& [tensor, file] : weight_map->items()) {
    if (has_control_characters(tensor)) {
      bad_input("{}: weight_map: found a tensor name with a control character", path.string());
    }
    if (!file.is_string()) bad_input("{}: weight_map: {}: expected a file name", path.string(), tensor);
    const auto& name = file.get_ref<const std::string&>();
    // A name, not a path: an index must not lead out of its folder.
    if (name.find('/') != std::string::npos || !name.ends_with(extension)) {
      bad_input("{}: weight_map: {}: found {}, expected the name of a {} file in this folder", path.string(),
                tensor, json_excerpt(file), extension);
    }
    map.emplace(tensor, name);
  }
  return map;
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::vector<std::string> gguf_files(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.path().extension() == kGgufExtension) names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

// One file, or all parts of one.
bool is_one_model(const std::vector<std::string>& names) {
  return !names.empty() && gguf_parts(names.front()).size() == names.size();
}

[[noreturn]] void fail_no_weights(const fs::path& folder) {
  if (const auto names = gguf_files(folder); !names.empty()) {
    bad_input("{}: found {} but no {}; give the file itself as the model: {}", folder.string(), names.front(),
              is_one_model(names) ? "config.json beside it" : kSafetensorsFile,
              (folder / names.front()).string());
  }
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const fs::path name = entry.path().filename();
    if (name.extension() == ".bin" || name.extension() == ".pth" || name.extension() == ".pt") {
      bad_input("{}: found {}, expected {}, {} or their shards with an index", folder.string(), name.string(),
                kSafetensorsFile, kPytorchFile);
    }
  }
  bad_input(
      "{}: found neither {} nor {}; expected a Hugging Face model folder (config.json and these) or a .gguf "
      "file",
      folder.string(), kSafetensorsFile, kSafetensorsIndexFile);
}

}  // namespace

std::int64_t TensorInfo::numel() const {
  const auto numel = checked_numel(shape);
  expect(numel.has_value(), "TensorInfo: a shape that was checked");
  return static_cast<std::int64_t>(*numel);
}

struct Checkpoint::Impl {
  struct File {
    MappedFile mapped;
    std::uint64_t data_begin;
  };
  fs::path folder;
  nlohmann::json config;
  std::map<std::string, File> files;
  std::vector<TensorInfo> tensors;
  std::unordered_map<std::string_view, std::size_t> by_name;  // views into `tensors`

  // Tensors whose bytes are not as TensorInfo says: how they lie in the file, and what they became.
  struct Converted {
    PytorchTensor source;
    std::vector<std::byte> values;
  };
  mutable std::mutex mutex;                                                     // of `converted`'s values
  mutable std::unordered_map<std::string, Converted> converted;                 // by file and the name in it
  std::unordered_map<std::string_view, std::string> converted_key;              // by the tensor's name
  mutable std::unordered_map<std::string_view, std::vector<std::byte>> turned;  // transposed tensors, by name
  std::vector<std::string> notes;

  std::optional<GgufModel> gguf;  // has its tensors in the order of `tensors`
  mutable std::unordered_map<std::size_t, std::vector<std::byte>> expanded;  // of the GGUF's tensors

  static std::string key_of(const std::string& file, const std::string& name) { return file + '\n' + name; }

  void add_file(const std::string& name) {
    File file{MappedFile(folder / name), 0};
    const std::string path = (folder / name).string();
    if (name.ends_with(kPytorchExtension)) {
      for (PytorchTensor& tensor : parse_pytorch(file.mapped.bytes(), path))
        add_tensor(name, std::move(tensor));
    } else {
      SafetensorsHeader header = parse_safetensors(file.mapped.bytes(), path);
      file.data_begin = header.data_begin;
      for (TensorInfo& tensor : header.tensors) {
        tensor.file = name;
        if (tensor.dtype == DType::kF64) {
          add_tensor(name, {.name = std::move(tensor.name),
                            .dtype = tensor.dtype,
                            .shape = std::move(tensor.shape),
                            .begin = file.data_begin + tensor.begin});
        } else {
          tensors.push_back(std::move(tensor));
        }
      }
    }
    files.emplace(name, std::move(file));
  }

  void add_tensor(const std::string& file, PytorchTensor tensor) {
    const auto numel = static_cast<std::uint64_t>(*checked_numel(tensor.shape));
    const bool as_it_lies = tensor.contiguous && !tensor.swapped && tensor.dtype != DType::kF64;
    const DType dtype = tensor.dtype == DType::kF64 ? DType::kF32 : tensor.dtype;
    const std::uint64_t begin = as_it_lies ? tensor.begin : 0;
    tensors.push_back({tensor.name, dtype, tensor.shape, file, begin,
                       begin + numel * static_cast<std::uint64_t>(size_of(dtype))});
    num_doubles += tensor.dtype == DType::kF64 ? 1 : 0;
    if (as_it_lies) return;
    const std::string key = key_of(file, tensor.name);
    converted.emplace(key, Converted{std::move(tensor), {}});
  }
  std::int64_t num_doubles = 0;

  void add_gguf(const std::string& name) {
    gguf = GgufModel::open(folder / name);
    std::uint64_t begin = 0;
    for (const GgufModel::Tensor& tensor : gguf->tensors()) {
      const std::uint64_t end = begin + tensor.num_bytes();
      tensors.push_back({tensor.name, tensor.dtype, tensor.shape, name, begin, end});
      begin = end;
    }
    notes = gguf->notes();
    notes.push_back(fmt::format(
        "{}: {} of a GGUF file, read as {}: each is expanded when it is needed and not kept; all of "
        "them would be {:.1f} MB",
        name, gguf->stored_types(), name_of(gguf->dtype()), static_cast<double>(begin) * 1e-6));
  }

  void add_shards(const char* index_file, std::string_view extension) {
    const std::string index = (folder / index_file).string();
    const WeightMap map = read_index(index, extension);
    std::set<std::string> names;
    for (const auto& [tensor, file] : map) names.insert(file);
    for (const std::string& name : names) {
      if (!is_there(folder / name))
        bad_input("{}: names the shard {}, which is missing; is the download complete?", index, name);
      add_file(name);
    }
    choose_copies(map, index);
    note_disagreements(map, index);
  }

  std::span<const std::byte> bytes_in(const std::string& file, const TensorInfo& tensor) const {
    const File& from = files.at(file);
    return from.mapped.bytes().subspan(from.data_begin + tensor.begin, tensor.end - tensor.begin);
  }

  // A tensor that several shards hold: the one that the index names, else any if they are equal.
  void choose_copies(const WeightMap& map, const std::string& index) {
    std::unordered_map<std::string, std::size_t> first;
    std::vector<TensorInfo> kept;
    const auto is_named = [&map](const TensorInfo& tensor) {
      const auto named = map.find(tensor.name);
      return named != map.end() && named->second == tensor.file;
    };
    std::set<std::string> settled;  // the index names one of the copies
    for (const TensorInfo& tensor : tensors) {
      if (is_named(tensor)) settled.insert(tensor.name);
    }
    for (TensorInfo& tensor : tensors) {
      if (settled.contains(tensor.name) && !is_named(tensor)) continue;
      const auto [place, is_new] = first.emplace(tensor.name, kept.size());
      if (is_new) {
        kept.push_back(std::move(tensor));
        continue;
      }
      const TensorInfo& other = kept[place->second];
      const bool comparable = !converted.contains(key_of(tensor.file, tensor.name)) &&
                              !converted.contains(key_of(other.file, other.name)) &&
                              tensor.dtype == other.dtype && tensor.shape == other.shape;
      if (!comparable || !std::ranges::equal(bytes_in(tensor.file, tensor), bytes_in(other.file, other))) {
        bad_input("{}: tensor {} is in {} and in {}, expected it once", index, tensor.name, other.file,
                  tensor.file);
      }
    }
    tensors = std::move(kept);
    std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
      return std::tie(a.file, a.begin, a.end) < std::tie(b.file, b.begin, b.end);
    });
  }

  // The files are right where the index says something else; a tensor that is needed and nowhere is missed
  // later.
  void note_disagreements(const WeightMap& map, const std::string& index) {
    std::unordered_map<std::string_view, const TensorInfo*> present;
    for (const TensorInfo& tensor : tensors) present.emplace(tensor.name, &tensor);
    std::int64_t elsewhere = 0, absent = 0, unnamed = 0;
    std::string example;
    for (const auto& [tensor, file] : map) {
      const auto found = present.find(tensor);
      if (found != present.end() && found->second->file == file) continue;
      ++(found == present.end() ? absent : elsewhere);
      if (example.empty()) example = tensor;
    }
    for (const TensorInfo& tensor : tensors) {
      if (map.contains(tensor.name)) continue;
      ++unnamed;
      if (example.empty()) example = tensor.name;
    }
    if (elsewhere + absent + unnamed == 0) return;
    notes.push_back(fmt::format(
        "{}: the files are read as they are: {} tensors in another file than the index says, {} in "
        "none, {} that it does not name (first: {})",
        index, elsewhere, absent, unnamed, example));
  }

  std::span<const std::byte> converted_bytes(Converted& tensor, const File& file) const {
    const std::lock_guard lock(mutex);
    const PytorchTensor& source = tensor.source;
    const auto numel = static_cast<std::size_t>(*checked_numel(source.shape));
    if (!tensor.values.empty() || numel == 0) return tensor.values;
    const auto size = static_cast<std::size_t>(size_of(source.dtype));
    std::vector<std::byte> gathered;
    std::span<const std::byte> elements;
    if (source.contiguous && !source.swapped) {
      elements = file.mapped.bytes().subspan(source.begin, numel * size);
    } else {
      gathered = gather(file.mapped.bytes(), source);
      elements = gathered;
    }
    if (source.dtype != DType::kF64) return tensor.values = std::move(gathered);
    tensor.values.resize(numel * sizeof(float));
    for (std::size_t i = 0; i < numel; ++i) {
      double value = 0.0;
      std::memcpy(&value, elements.data() + i * sizeof(double), sizeof(double));
      const auto single = static_cast<float>(value);
      std::memcpy(tensor.values.data() + i * sizeof(float), &single, sizeof(float));
    }
    return tensor.values;
  }

  void unify() {
    std::vector<std::string> keys;
    for (const TensorInfo& tensor : tensors) keys.push_back(key_of(tensor.file, tensor.name));
    for (std::string& note : unify_names(config, folder.string(), tensors)) notes.push_back(std::move(note));
    by_name.reserve(tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      TensorInfo& tensor = tensors[i];
      tensor.transposed = tensor.shape.size() == 2 && is_stored_transposed(config, tensor.name);
      if (turns(tensor)) std::swap(tensor.shape[0], tensor.shape[1]);
      by_name.emplace(tensors[i].name, i);
      if (converted.contains(keys[i])) converted_key.emplace(tensors[i].name, keys[i]);
    }
    if (num_doubles > 0) {
      notes.push_back(
          fmt::format("{}: {} tensors of F64 are read, and written, as F32", folder.string(), num_doubles));
    }
  }

  // Must its bytes be turned? GGUF has such tensors as they are used.
  bool turns(const TensorInfo& tensor) const { return tensor.transposed && !gguf; }

  // Of a tensor in the GGUF file, its number there.
  std::optional<std::size_t> in_gguf(const TensorInfo& tensor) const {
    return gguf ? std::optional(by_name.at(tensor.name)) : std::nullopt;
  }

  std::span<const std::byte> expanded_bytes(std::size_t index, const TensorInfo& tensor) const {
    if (const auto bytes = gguf->as_it_lies(index)) return *bytes;
    const std::lock_guard lock(mutex);
    std::vector<std::byte>& values = expanded[index];
    if (values.empty()) values = expand(index, tensor);
    return values;
  }

  std::vector<std::byte> expand(std::size_t index, const TensorInfo& tensor) const {
    std::vector<std::byte> values(static_cast<std::size_t>(tensor.num_bytes()));
    gguf->read_all(index, [&](std::int64_t first, std::span<const std::byte> part) {
      std::ranges::copy(part, values.begin() + first * size_of(tensor.dtype));
    });
    return values;
  }

  // Nothing where the values are to be had of bytes() as well.
  std::optional<std::size_t> only_expanded(const TensorInfo& tensor) const {
    const auto index = in_gguf(tensor);
    return index && !gguf->as_it_lies(*index) ? index : std::nullopt;
  }

  std::span<const std::byte> stored_bytes(const TensorInfo& tensor) const {
    if (const auto index = in_gguf(tensor)) return expanded_bytes(*index, tensor);
    const File& file = file_of(tensor);
    if (const auto key = converted_key.find(tensor.name); key != converted_key.end()) {
      return converted_bytes(converted.at(key->second), file);
    }
    return file.mapped.bytes().subspan(file.data_begin + tensor.begin, tensor.end - tensor.begin);
  }

  const File& file_of(const TensorInfo& tensor) const {
    const auto file = files.find(tensor.file);
    expect(file != files.end(), "a tensor of this checkpoint");
    return file->second;
  }
};

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Checkpoint Checkpoint::open(const fs::path& folder) {
  if (!is_there(folder)) bad_input("{}: no such folder", folder.string());
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) {
    const fs::path parent = folder.parent_path();
    if (is_there(parent / "config.json"))
      bad_input("{}: found one file of a model, expected its folder: {}", folder.string(),
                parent.empty() ? "." : parent.string());
    bad_input(
        "{}: found a file, expected a Hugging Face model folder (config.json, *.safetensors), or a .gguf "
        "file",
        folder.string());
  }
  auto impl = std::make_unique<Impl>();
  impl->folder = folder;
  if (is_there(folder / kSafetensorsFile)) {
    impl->add_file(kSafetensorsFile);
  } else if (is_there(folder / kSafetensorsIndexFile)) {
    impl->add_shards(kSafetensorsIndexFile, ".safetensors");
  } else if (is_there(folder / kPytorchFile)) {
    impl->add_file(kPytorchFile);
  } else if (is_there(folder / kPytorchIndexFile)) {
    impl->add_shards(kPytorchIndexFile, kPytorchExtension);
  } else if (const auto names = gguf_files(folder); is_one_model(names) && is_there(folder / "config.json")) {
    impl->add_gguf(names.front());
  } else {
    fail_no_weights(folder);
  }
  if (impl->tensors.empty()) bad_input("{}: found no tensors", folder.string());
  impl->config = read_json_file(folder / "config.json");
  if (!impl->config.is_object()) bad_input("{}: expected a JSON object", (folder / "config.json").string());
  restore_model_type(impl->config);
  impl->unify();
  return Checkpoint(std::move(impl));
}

const fs::path& Checkpoint::folder() const { return impl_->folder; }
const nlohmann::json& Checkpoint::config() const { return impl_->config; }
const std::vector<TensorInfo>& Checkpoint::tensors() const { return impl_->tensors; }
const std::vector<std::string>& Checkpoint::notes() const { return impl_->notes; }

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const auto entry = impl_->by_name.find(name);
  return entry == impl_->by_name.end() ? nullptr : &impl_->tensors[entry->second];
}

const TensorInfo& Checkpoint::at(std::string_view name) const {
  const TensorInfo* tensor = find(name);
  if (tensor != nullptr) return *tensor;
  // "_orig_mod.model.norm.weight", "module....", as trainers leave them.
  const std::string end = fmt::format(".{}", name);
  const auto like = std::ranges::find_if(impl_->tensors,
                                         [&](const TensorInfo& other) { return other.name.ends_with(end); });
  if (like == impl_->tensors.end()) bad_input("{}: tensor {} is missing", impl_->folder.string(), name);
  bad_input(
      "{}: tensor {} is missing; found {}: take what stands before the usual name away and save it again",
      impl_->folder.string(), name, like->name);
}

std::span<const std::byte> Checkpoint::bytes(const TensorInfo& tensor) const {
  const std::span<const std::byte> stored = impl_->stored_bytes(tensor);
  if (!impl_->turns(tensor)) return stored;
  const std::lock_guard lock(impl_->mutex);
  std::vector<std::byte>& turned = impl_->turned[tensor.name];
  if (turned.empty()) {
    turned.resize(stored.size());
    transpose_bytes(stored, tensor.shape[1], tensor.shape[0], size_of(tensor.dtype), turned);
  }
  return turned;
}

std::span<const std::byte> Checkpoint::bytes_of_part(const TensorInfo& tensor, std::int64_t first,
                                                     std::int64_t count, std::vector<std::byte>& own) const {
  expect(!impl_->turns(tensor) && !tensor.shape.empty() && first >= 0 && count >= 0 &&
             first + count <= tensor.shape.front(),
         "bytes_of_part: a part of the tensor");
  const std::int64_t extent = std::max<std::int64_t>(1, tensor.shape.front());
  const auto each = static_cast<std::size_t>(tensor.num_bytes() / extent);
  const std::size_t size = static_cast<std::size_t>(count) * each;
  const auto index = impl_->only_expanded(tensor);
  if (index && count == tensor.shape.front()) return own = impl_->expand(*index, tensor);
  if (!index || !impl_->gguf->has_rows(*index))
    return bytes(tensor).subspan(static_cast<std::size_t>(first) * each, size);
  own.resize(size);
  impl_->gguf->read_rows(*index, first, count, own);
  return own;
}

namespace {

void check_weight(const Checkpoint& checkpoint, const TensorInfo& tensor,
                  std::span<const std::int64_t> expected_shape) {
  if (!std::equal(tensor.shape.begin(), tensor.shape.end(), expected_shape.begin(), expected_shape.end())) {
    bad_input("{}: tensor {}: found shape [{}], expected [{}] as config.json says",
              (checkpoint.folder() / tensor.file).string(), tensor.name, fmt::join(tensor.shape, ", "),
              fmt::join(expected_shape, ", "));
  }
  if (!is_weight_dtype(tensor.dtype)) {
    bad_input(
        "{}: tensor {}: found dtype {}, expected F32, F16, BF16 or F64; quantized weights cannot be pruned",
        (checkpoint.folder() / tensor.file).string(), tensor.name, name_of(tensor.dtype));
  }
}

void convert_in_parallel(std::span<const std::byte> source, DType dtype, std::span<float> target) {
  parallel_for(
      static_cast<std::int64_t>(target.size()), kConversionChunk, [&](std::int64_t first, std::int64_t last) {
        const auto begin = static_cast<std::size_t>(first);
        const auto count = static_cast<std::size_t>(last - first);
        const auto size = static_cast<std::size_t>(size_of(dtype));
        convert_to_f32(source.subspan(begin * size, count * size), dtype, target.subspan(begin, count));
      });
}

}  // namespace

void Checkpoint::load_all(const TensorInfo& tensor, std::span<float> values) const {
  const auto index = impl_->only_expanded(tensor);
  if (!index) return convert_in_parallel(bytes(tensor), tensor.dtype, values);
  impl_->gguf->read_all(*index, [&](std::int64_t first, std::span<const std::byte> part) {
    const auto count = part.size() / static_cast<std::size_t>(size_of(tensor.dtype));
    convert_to_f32(part, tensor.dtype, values.subspan(static_cast<std::size_t>(first), count));
  });
}

Matrix Checkpoint::load_matrix(std::string_view name, std::int64_t rows, std::int64_t cols) const {
  const TensorInfo& tensor = at(name);
  check_weight(*this, tensor, std::array{rows, cols});
  Matrix matrix(rows, cols);
  load_all(tensor, matrix.values());
  return matrix;
}

std::vector<float> Checkpoint::load_vector(std::string_view name, std::int64_t size) const {
  return load_tensor(name, std::array{size});
}

std::vector<float> Checkpoint::load_tensor(std::string_view name, std::span<const std::int64_t> shape) const {
  const TensorInfo& tensor = at(name);
  check_weight(*this, tensor, shape);
  std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
  load_all(tensor, values);
  return values;
}

void Checkpoint::load_rows(const TensorInfo& tensor, std::int64_t first, MatrixView target) const {
  check_weight(*this, tensor, std::array{tensor.shape.empty() ? 0 : tensor.shape[0], target.cols});
  expect(first >= 0 && first + target.rows <= tensor.shape[0], "load_rows: rows inside the matrix");
  auto expanded = impl_->only_expanded(tensor);
  if (expanded && !impl_->gguf->has_rows(*expanded)) expanded.reset();
  const auto source = expanded ? std::span<const std::byte>() : bytes(tensor);
  const auto row_bytes = static_cast<std::size_t>(target.cols * size_of(tensor.dtype));
  parallel_for(target.rows,
               std::max<std::int64_t>(1, kConversionChunk / std::max<std::int64_t>(1, target.cols)),
               [&](std::int64_t begin, std::int64_t end) {
                 std::vector<std::byte> row(expanded ? row_bytes : 0);
                 for (std::int64_t r = begin; r < end; ++r) {
                   if (expanded) {
                     impl_->gguf->read_rows(*expanded, first + r, 1, row);
                     convert_to_f32(row, tensor.dtype, target.row_span(r));
                     continue;
                   }
                   const auto offset = static_cast<std::size_t>(first + r) * row_bytes;
                   convert_to_f32(source.subspan(offset, row_bytes), tensor.dtype, target.row_span(r));
                 }
               });
}

void Checkpoint::release(const TensorInfo& tensor) const {
  if (impl_->turns(tensor)) {
    const std::lock_guard lock(impl_->mutex);
    impl_->turned.erase(tensor.name);
  }
  if (const auto index = impl_->in_gguf(tensor)) {
    const std::lock_guard lock(impl_->mutex);
    impl_->expanded.erase(*index);
    impl_->gguf->release(*index);
    return;
  }
  const Impl::File& file = impl_->file_of(tensor);
  if (const auto key = impl_->converted_key.find(tensor.name); key != impl_->converted_key.end()) {
    const std::lock_guard lock(impl_->mutex);
    impl_->converted.at(key->second).values = {};
    return;
  }
  file.mapped.release(file.data_begin + tensor.begin, file.data_begin + tensor.end);
}

}  // namespace swiftprune
