#include "swiftprune/checkpoint/checkpoint.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "swiftprune/checkpoint/json_file.h"
#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kConversionChunk = std::int64_t{1} << 18;  // elements, about one core's L2 cache

// tensor -> file, as the index says.
using WeightMap = std::map<std::string, std::string>;

WeightMap read_index(const fs::path& path) {
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
    if (name.find('/') != std::string::npos || !name.ends_with(".safetensors")) {
      bad_input("{}: weight_map: {}: found file {}, expected the name of a .safetensors file in this folder",
                path.string(), tensor, file.dump());
    }
    map.emplace(tensor, name);
  }
  return map;
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

[[noreturn]] void fail_no_weights(const fs::path& folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const fs::path name = entry.path().filename();
    if (name.extension() == ".gguf") {
      bad_input("{}: found {} but no {}; convert it first: swiftprune import {} OUT_DIR", folder.string(),
                name.string(), kSafetensorsFile, entry.path().string());
    }
    if (name.extension() == ".bin" || name.extension() == ".pth") {
      bad_input(
          "{}: found {} but no {}; swiftprune reads safetensors only: save the model with transformers' "
          "save_pretrained first",
          folder.string(), name.string(), kSafetensorsFile);
    }
  }
  bad_input("{}: found neither {} nor {}; expected a Hugging Face model folder", folder.string(),
            kSafetensorsFile, kSafetensorsIndexFile);
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

  void add_file(const std::string& name) {
    File file{MappedFile(folder / name), 0};
    SafetensorsHeader header = parse_safetensors(file.mapped.bytes(), (folder / name).string());
    file.data_begin = header.data_begin;
    for (TensorInfo& tensor : header.tensors) {
      tensor.file = name;
      tensors.push_back(std::move(tensor));
    }
    files.emplace(name, std::move(file));
  }

  void add_shards() {
    const WeightMap map = read_index(folder / kSafetensorsIndexFile);
    std::set<std::string> names;
    for (const auto& [tensor, file] : map) names.insert(file);
    for (const std::string& name : names) {
      if (!is_there(folder / name)) {
        bad_input("{}: names the shard {}, which is missing; is the download complete?",
                  (folder / kSafetensorsIndexFile).string(), name);
      }
      add_file(name);
    }
    for (const TensorInfo& tensor : tensors) {
      const auto entry = map.find(tensor.name);
      if (entry == map.end() || entry->second != tensor.file) {
        bad_input("{}: tensor {} is in {}, but the index {}", (folder / kSafetensorsIndexFile).string(),
                  tensor.name, tensor.file,
                  entry == map.end() ? "does not name it" : "places it in " + entry->second);
      }
    }
    if (map.size() == tensors.size()) return;
    std::set<std::string_view> present;
    for (const TensorInfo& tensor : tensors) present.insert(tensor.name);
    for (const auto& [tensor, file] : map) {
      if (!present.contains(tensor)) {
        bad_input("{}: tensor {} is not in {}, where the index places it",
                  (folder / kSafetensorsIndexFile).string(), tensor, file);
      }
    }
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
    bad_input("{}: found a file, expected a Hugging Face model folder{}", folder.string(),
              folder.extension() == ".gguf"
                  ? fmt::format("; convert it first: swiftprune import {} OUT_DIR", folder.string())
                  : "");
  }
  auto impl = std::make_unique<Impl>();
  impl->folder = folder;
  if (is_there(folder / kSafetensorsFile)) {
    impl->add_file(kSafetensorsFile);
  } else if (is_there(folder / kSafetensorsIndexFile)) {
    impl->add_shards();
  } else {
    fail_no_weights(folder);
  }
  if (impl->tensors.empty()) bad_input("{}: found no tensors", folder.string());
  impl->config = read_json_file(folder / "config.json");
  if (!impl->config.is_object()) bad_input("{}: expected a JSON object", (folder / "config.json").string());
  impl->by_name.reserve(impl->tensors.size());
  for (std::size_t i = 0; i < impl->tensors.size(); ++i) impl->by_name.emplace(impl->tensors[i].name, i);
  return Checkpoint(std::move(impl));
}

const fs::path& Checkpoint::folder() const { return impl_->folder; }
const nlohmann::json& Checkpoint::config() const { return impl_->config; }
const std::vector<TensorInfo>& Checkpoint::tensors() const { return impl_->tensors; }

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const auto entry = impl_->by_name.find(name);
  return entry == impl_->by_name.end() ? nullptr : &impl_->tensors[entry->second];
}

const TensorInfo& Checkpoint::at(std::string_view name) const {
  const TensorInfo* tensor = find(name);
  if (tensor == nullptr) bad_input("{}: tensor {} is missing", impl_->folder.string(), name);
  return *tensor;
}

std::span<const std::byte> Checkpoint::bytes(const TensorInfo& tensor) const {
  const Impl::File& file = impl_->file_of(tensor);
  return file.mapped.bytes().subspan(file.data_begin + tensor.begin, tensor.end - tensor.begin);
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
    bad_input("{}: tensor {}: found dtype {}, expected F32, F16 or BF16; quantized weights cannot be pruned",
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

Matrix Checkpoint::load_matrix(std::string_view name, std::int64_t rows, std::int64_t cols) const {
  const TensorInfo& tensor = at(name);
  check_weight(*this, tensor, std::array{rows, cols});
  Matrix matrix(rows, cols);
  convert_in_parallel(bytes(tensor), tensor.dtype, matrix.values());
  return matrix;
}

std::vector<float> Checkpoint::load_vector(std::string_view name, std::int64_t size) const {
  const TensorInfo& tensor = at(name);
  check_weight(*this, tensor, std::array{size});
  std::vector<float> values(static_cast<std::size_t>(size));
  convert_in_parallel(bytes(tensor), tensor.dtype, values);
  return values;
}

void Checkpoint::load_rows(const TensorInfo& tensor, std::int64_t first, MatrixView target) const {
  check_weight(*this, tensor, std::array{tensor.shape.empty() ? 0 : tensor.shape[0], target.cols});
  expect(first >= 0 && first + target.rows <= tensor.shape[0], "load_rows: rows inside the matrix");
  const auto source = bytes(tensor);
  const auto row_bytes = static_cast<std::size_t>(target.cols * size_of(tensor.dtype));
  parallel_for(target.rows,
               std::max<std::int64_t>(1, kConversionChunk / std::max<std::int64_t>(1, target.cols)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t r = begin; r < end; ++r) {
                   const auto offset = static_cast<std::size_t>(first + r) * row_bytes;
                   convert_to_f32(source.subspan(offset, row_bytes), tensor.dtype, target.row_span(r));
                 }
               });
}

void Checkpoint::release(const TensorInfo& tensor) const {
  const Impl::File& file = impl_->file_of(tensor);
  file.mapped.release(file.data_begin + tensor.begin, file.data_begin + tensor.end);
}

}  // namespace swiftprune
