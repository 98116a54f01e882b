#include "swiftprune/checkpoint/checkpoint_writer.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>

#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/checkpoint/output_file.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace fs = std::filesystem;
namespace {

constexpr const char* kLockFile = ".lock";
constexpr const char* kTurningFile = ".transposing";  // some tensors are in the plan's order, some no longer
constexpr std::uint64_t kReserveBytes = 1'000'000;    // for the small files of the folder

bool is_plain_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos;
}

// "NAME", or "FOLDER/NAME".
bool is_place(std::string_view name) {
  const std::size_t slash = name.find('/');
  return slash == std::string_view::npos
             ? is_plain_name(name)
             : is_plain_name(name.substr(0, slash)) && is_plain_name(name.substr(slash + 1));
}
bool is_beside(std::string_view name) { return name.find('/') != std::string_view::npos; }

// Weights in any format: the dense originals beside a pruned model would be a trap.
bool is_weight_file(const fs::path& name) {
  constexpr std::array<std::string_view, 13> kExtensions = {
      ".safetensors", ".bin",  ".pt",        ".pth",    ".ckpt", ".gguf", ".h5",
      ".msgpack",     ".onnx", ".onnx_data", ".tflite", ".npz",  ".ot"};
  const std::string extension = name.extension().string();
  return std::find(kExtensions.begin(), kExtensions.end(), extension) != kExtensions.end() ||
         name.string().ends_with(".safetensors.index.json") || name.string().ends_with(".bin.index.json");
}

// A subfolder with the dense model in another form (onnx/, original/, checkpoint-500/), whether its weights were
// downloaded or not: what lies beside them describes nothing here.
bool is_another_model(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_regular_file() && is_weight_file(entry.path().filename())) return true;
  }
  const fs::path config = folder / "config.json";
  if (!fs::is_regular_file(config)) return false;
  try {
    return read_json_file(config).contains("model_type");
  } catch (const Error&) {
    return false;  // whatever it is, it is no model's
  }
}

}  // namespace

std::vector<PlannedTensor> plan_like(const Checkpoint& source) {
  std::vector<PlannedTensor> plan;
  plan.reserve(source.tensors().size());
  for (const TensorInfo& tensor : source.tensors()) {
    plan.push_back(
        {tensor.name, tensor.dtype, tensor.shape, safetensors_name(tensor.file), false, tensor.transposed});
  }
  return plan;
}

namespace {

std::uint64_t bytes_of(const PlannedTensor& tensor) {
  const auto numel = checked_numel(tensor.shape);
  const auto bytes = numel ? swiftprune::bytes_of(tensor.dtype, *numel) : numel;
  expect(bytes.has_value(), "PlannedTensor: a size that fits");
  return *bytes;
}

// Its absolute path.
fs::path new_folder(const fs::path& wanted) {
  std::error_code error;
  fs::path folder = fs::absolute(wanted).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  if (fs::exists(folder, error)) {
    if (!fs::is_directory(folder, error)) {
      bad_input("{}: found a file, expected a new folder for the model", wanted.string());
    }
    if (!fs::is_empty(folder, error) || error) {
      bad_input("{}: the folder is not empty; choose a new one, nothing is overwritten", wanted.string());
    }
    folder = fs::canonical(folder);
  }
  if (!folder.has_filename()) bad_input("{}: expected a new folder for the model", wanted.string());
  return folder;
}

}  // namespace

void check_new_folder(const fs::path& folder) { new_folder(folder); }

void check_outside(std::string_view flag, const std::string& out, const fs::path& model) {
  if (out.empty()) bad_usage("{}: found nothing, expected a new folder for the model", flag);
  std::error_code error;
  const fs::path inner = fs::weakly_canonical(fs::absolute(out), error).lexically_normal();
  const fs::path outer = fs::canonical(model, error);
  if (error) return;  // a model that cannot be found is reported by who opens it
  if (std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end()) {
    bad_usage("{}: found {}, which lies inside the model {}; choose a folder beside it", flag, out,
              model.string());
  }
}

fs::path partial_folder(const fs::path& folder) {
  fs::path path = fs::absolute(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  std::error_code error;
  if (const fs::path found = fs::canonical(path, error); !error) path = found;
  return path.parent_path() / fmt::format(".{}.partial", path.filename().string());
}

void assign_shards(std::vector<PlannedTensor>& plan, std::uint64_t max_shard_bytes) {
  std::vector<std::size_t> shard_of(plan.size());
  std::size_t shard = 0;
  std::uint64_t filled = 0;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const std::uint64_t bytes = bytes_of(plan[i]);
    if (filled > 0 && bytes > max_shard_bytes - std::min(filled, max_shard_bytes)) {
      ++shard;
      filled = 0;
    }
    filled += bytes;
    shard_of[i] = shard;
  }
  for (std::size_t i = 0; i < plan.size(); ++i) {
    plan[i].file = shard == 0 ? kSafetensorsFile
                              : fmt::format("model-{:05}-of-{:05}.safetensors", shard_of[i] + 1, shard + 1);
  }
}

struct CheckpointWriter::Impl {
  struct Tensor {
    TensorInfo info;
    const OutputFile* file = nullptr;
    std::uint64_t file_offset = 0;
    std::atomic<std::int64_t> num_written = 0;  // elements
    bool own = true;                            // of this writer's share
  };

  fs::path folder;
  fs::path temporary;
  fs::path created_parent;  // the topmost folder that had to be made for `folder`, or empty
  Leftover leftover = Leftover::kUnknown;
  bool continues = false;
  bool keep = false;  // the temporary folder, when unfinished
  bool finished = false;
  std::optional<OutputFile> lock;
  std::map<std::string, OutputFile> files;
  std::unordered_map<std::string, Tensor> tensors;
  std::vector<std::string> order;  // of the tensors: file by file

  ~Impl() {
    if (finished || keep) return;
    files.clear();
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    if (!created_parent.empty()) {
      for (fs::path p = folder.parent_path(); fs::remove(p, ignored) && p != created_parent;
           p = p.parent_path()) {
      }
    }
  }

  void make_temporary() {
    const fs::path parent = folder.parent_path();
    for (fs::path p = parent; !fs::exists(p); p = p.parent_path()) created_parent = p;
    std::error_code error;
    fs::create_directories(parent, error);
    if (error) fail_write(parent, error.value());
    if (leftover != Leftover::kUnknown) {
      take_fixed_folder(partial_folder(folder));
      return;
    }
    std::string name = (parent / fmt::format(".{}.partial-XXXXXX", folder.filename().string())).string();
    if (::mkdtemp(name.data()) == nullptr) fail_write(parent, errno);
    temporary = name;
    const mode_t mask = ::umask(0);
    ::umask(mask);
    if (::chmod(name.c_str(), 0777 & ~mask) != 0) fail_write(temporary, errno);
  }

  static OutputFile open_lock(const fs::path& folder) {
    try {
      return OutputFile(folder / kLockFile, fs::exists(folder / kLockFile));
    } catch (const Error&) {
      std::error_code ignored;
      fs::remove(folder, ignored);  // only when it is empty: nothing of anybody's
      throw;
    }
  }

  // One name for all runs, so that a later one finds it. The lock file tells a running process from a killed
  // one; until the lock is held nothing may be removed, by this object's destructor either.
  void take_fixed_folder(const fs::path& path) {
    std::error_code error;
    fs::create_directory(path, error);
    if (error) fail_write(path, error.value());
    OutputFile file = open_lock(path);
    if (!file.lock()) {
      bad_usage("{}: another swiftprune is writing there; wait for it or choose another folder",
                folder.string());
    }
    lock.emplace(std::move(file));
    temporary = path;
    if (leftover == Leftover::kContinue) return;
    for (const auto& entry : fs::directory_iterator(path)) {
      if (entry.path().filename() == kLockFile) continue;
      fs::remove_all(entry.path(), error);
      if (error) fail_write(entry.path(), error.value());
    }
  }

  // Are the weight files that stand in the temporary folder those of this layout?
  bool is_laid_out(const std::map<std::string, std::vector<TensorInfo>>& layout) const {
    if (fs::exists(temporary / kTurningFile)) return false;
    for (const auto& [name, infos] : layout) {
      const std::string header = format_safetensors_header(infos, aligned_files.contains(name) ? 64 : 8);
      std::error_code error;
      if (fs::file_size(temporary / name, error) != header.size() + infos.back().end || error) return false;
      std::string found(header.size(), '\0');
      if (!OutputFile(temporary / name, true).read_at(0, std::as_writable_bytes(std::span(found))) ||
          found != header)
        return false;
    }
    return true;
  }

  void check_free_space(std::uint64_t bytes) const {
    struct statvfs disk {};
    if (::statvfs(temporary.c_str(), &disk) != 0) return;
    const std::uint64_t free = std::uint64_t{disk.f_bavail} * disk.f_frsize;
    if (bytes + kReserveBytes > free) {
      fail(ErrorKind::kFailure,
           "{}: the disk is too small: found {:.1f} MB free, expected {:.1f} MB; free some "
           "space or choose another folder",
           folder.string(), static_cast<double>(free) * 1e-6,
           static_cast<double>(bytes + kReserveBytes) * 1e-6);
    }
  }

  // Places the tensors of each file: in the order of the plan, aligned ones and larger elements first so that
  // each is aligned.
  std::set<std::string> aligned_files;
  std::map<std::string, std::vector<TensorInfo>> lay_out(std::vector<PlannedTensor> plan) {
    std::stable_sort(plan.begin(), plan.end(), [](const PlannedTensor& a, const PlannedTensor& b) {
      return a.aligned != b.aligned ? a.aligned : size_of(a.dtype) > size_of(b.dtype);
    });
    std::map<std::string, std::vector<TensorInfo>> layout;
    for (PlannedTensor& tensor : plan) {
      expect(is_place(tensor.file) && tensor.file.ends_with(".safetensors"), "PlannedTensor: a file name");
      std::vector<TensorInfo>& file = layout[tensor.file];
      const std::uint64_t begin = file.empty() ? 0 : file.back().end;
      const std::uint64_t end = begin + bytes_of(tensor);
      if (tensor.aligned) aligned_files.insert(tensor.file);
      expect(!tensor.aligned || (begin % 64 == 0 && end % 64 == 0), "PlannedTensor: an aligned size");
      expect(!tensor.transposed || tensor.shape.size() == 2, "PlannedTensor: a matrix to transpose");
      if (tensor.transposed) std::swap(tensor.shape[0], tensor.shape[1]);
      file.push_back({std::move(tensor.name), tensor.dtype, std::move(tensor.shape), tensor.file, begin, end,
                      tensor.transposed});
    }
    return layout;
  }

  static void make_folder(const fs::path& path) {
    std::error_code error;
    fs::create_directories(path, error);
    if (error) fail_write(path, error.value());
  }

  // Unless the model is one file of the usual name.
  bool needs_index() const {
    const auto of_model =
        std::count_if(files.begin(), files.end(), [](const auto& file) { return !is_beside(file.first); });
    return of_model != 1 || !files.contains(kSafetensorsFile);
  }

  void create_files(std::map<std::string, std::vector<TensorInfo>> layout) {
    std::uint64_t total = 0;
    for (const auto& [name, infos] : layout) total += infos.back().end;
    continues = leftover == Leftover::kContinue && is_laid_out(layout);
    if (!continues) check_free_space(total);
    for (auto& [name, infos] : layout) {
      if (is_beside(name)) make_folder((temporary / name).parent_path());
      const OutputFile& file = files.emplace(name, OutputFile(temporary / name, continues)).first->second;
      const std::string header = format_safetensors_header(infos, aligned_files.contains(name) ? 64 : 8);
      if (!continues) {
        files.at(name).reserve(header.size() + infos.back().end);
        file.write_at(0, std::as_bytes(std::span(header)));
      }
      for (TensorInfo& info : infos) {
        const std::string tensor_name = info.name;
        const auto [entry, is_new] = tensors.try_emplace(tensor_name);
        expect(is_new, "CheckpointWriter: every tensor planned once");
        entry->second.file = &file;
        order.push_back(tensor_name);
        entry->second.file_offset = header.size() + info.begin;
        entry->second.info = std::move(info);
      }
    }
  }

  Tensor& find(std::string_view name) {
    const auto entry = tensors.find(std::string(name));
    expect(entry != tensors.end(), "CheckpointWriter: a planned tensor");
    return entry->second;
  }

  void check_written() const {
    for (const auto& [name, tensor] : tensors) {
      if (tensor.own && tensor.num_written != tensor.info.numel()) {
        fail(ErrorKind::kFailure, "{}: tensor {}: found {} of {} elements written", folder.string(), name,
             tensor.num_written.load(), tensor.info.numel());
      }
    }
  }

  // Each file's tensors, or each file, to the writer that has least so far.
  void share_out(const WriterShare& share) {
    std::vector<std::uint64_t> loads(static_cast<std::size_t>(share.count), 0);
    std::map<std::string, std::size_t> of_file;
    for (const std::string& name : order) {
      Tensor& tensor = tensors.at(name);
      const auto least =
          static_cast<std::size_t>(std::min_element(loads.begin(), loads.end()) - loads.begin());
      const std::size_t writer =
          share.whole_files
              ? of_file.try_emplace(tensor.info.file, of_file.size() % loads.size()).first->second
              : least;
      loads[writer] += tensor.info.end - tensor.info.begin;
      tensor.own = writer == static_cast<std::size_t>(share.index);
    }
  }

  static void count_written(Tensor& tensor, std::int64_t count) {
    const std::int64_t before = tensor.num_written.fetch_add(count);
    expect(before + count <= tensor.info.numel(), "CheckpointWriter: every element written once");
  }

  // What is to be stored as its transpose becomes that.
  void transpose() {
    const bool any = std::any_of(tensors.begin(), tensors.end(),
                                 [](const auto& entry) { return entry.second.info.transposed; });
    if (!any) return;
    OutputFile(temporary / kTurningFile).sync_data();
    for (const auto& [name, tensor] : tensors) {
      if (!tensor.info.transposed) continue;
      std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.info.num_bytes())), turned(bytes.size());
      if (!tensor.file->read_at(tensor.file_offset, bytes)) {
        fail(ErrorKind::kFailure, "{}: {} cannot be read back", temporary.string(), name);
      }
      transpose_bytes(bytes, tensor.info.shape[1], tensor.info.shape[0], size_of(tensor.info.dtype), turned);
      tensor.file->write_at(tensor.file_offset, turned);
    }
    sync_files();
    fs::remove(temporary / kTurningFile);
  }

  void sync_files() const {
    for (const auto& [name, file] : files) file.sync_data();
  }

  std::string index() const {
    std::uint64_t total = 0;
    nlohmann::ordered_json weight_map;
    std::map<std::string, std::string> sorted;
    for (const auto& [name, tensor] : tensors) {
      if (is_beside(tensor.info.file)) continue;
      total += tensor.info.end - tensor.info.begin;
      sorted.emplace(name, tensor.info.file);
    }
    for (const auto& [name, file] : sorted) weight_map[name] = file;
    nlohmann::ordered_json index;
    index["metadata"] = {{"total_size", total}};
    index["weight_map"] = std::move(weight_map);
    return index.dump(2) + "\n";
  }
};

CheckpointWriter::CheckpointWriter(fs::path folder, std::vector<PlannedTensor> plan, Leftover leftover,
                                   const std::string& joined)
    : impl_(std::make_unique<Impl>()) {
  expect(!plan.empty(), "CheckpointWriter: tensors to write");
  impl_->leftover = joined.empty() ? leftover : Leftover::kContinue;
  impl_->folder = new_folder(folder);
  if (joined.empty()) {
    impl_->make_temporary();
  } else {
    impl_->keep = true;  // it is the first writer's
    impl_->temporary = impl_->folder.parent_path() / joined;
  }
  auto layout = impl_->lay_out(std::move(plan));
  if (!joined.empty() && !impl_->is_laid_out(layout)) {
    fail(ErrorKind::kFailure, "{}: found no folder of this model that another process has laid out",
         impl_->temporary.string());
  }
  impl_->create_files(std::move(layout));
}

CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::share(const WriterShare& share) { impl_->share_out(share); }

bool CheckpointWriter::writes(std::string_view name) const { return impl_->find(name).own; }

void CheckpointWriter::finish_share() {
  impl_->check_written();
  impl_->sync_files();
}

const fs::path& CheckpointWriter::temporary_folder() const { return impl_->temporary; }

bool CheckpointWriter::continues() const { return impl_->continues; }

void CheckpointWriter::read(std::string_view name, std::span<float> values) const {
  const Impl::Tensor& tensor = impl_->find(name);
  expect(static_cast<std::int64_t>(values.size()) == tensor.info.numel(), "read: as many values as planned");
  std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.info.num_bytes()));
  read_bytes(name, bytes);
  convert_to_f32(bytes, tensor.info.dtype, values);
}

void CheckpointWriter::read_bytes(std::string_view name, std::span<std::byte> bytes) const {
  const Impl::Tensor& tensor = impl_->find(name);
  expect(static_cast<std::int64_t>(bytes.size()) == tensor.info.num_bytes(),
         "read: as many bytes as planned");
  if (!tensor.file->read_at(tensor.file_offset, bytes)) {
    fail(ErrorKind::kFailure, "{}: cannot be read; start again without --resume", impl_->temporary.string());
  }
}

void CheckpointWriter::read_bytes_part(std::string_view name, std::int64_t first,
                                       std::span<std::byte> bytes) const {
  const Impl::Tensor& tensor = impl_->find(name);
  const std::int64_t size = size_of(tensor.info.dtype);
  expect(first >= 0 && first * size + std::ssize(bytes) <= tensor.info.num_bytes(),
         "read_bytes_part: elements of the tensor");
  if (!tensor.file->read_at(tensor.file_offset + static_cast<std::uint64_t>(first * size), bytes)) {
    fail(ErrorKind::kFailure, "{}: cannot be read; start again without --resume", impl_->temporary.string());
  }
}

void CheckpointWriter::rewrite_bytes_part(std::string_view name, std::int64_t first,
                                          std::span<const std::byte> bytes) {
  const Impl::Tensor& tensor = impl_->find(name);
  const std::int64_t size = size_of(tensor.info.dtype);
  expect(first >= 0 && first * size + std::ssize(bytes) <= tensor.info.num_bytes(),
         "rewrite_bytes_part: elements of the tensor");
  if (!tensor.own) return;
  tensor.file->write_at(tensor.file_offset + static_cast<std::uint64_t>(first * size), bytes);
}

void CheckpointWriter::mark_written(std::string_view name) {
  Impl::Tensor& tensor = impl_->find(name);
  Impl::count_written(tensor, tensor.info.numel());
}

void CheckpointWriter::sync() const { impl_->sync_files(); }

void CheckpointWriter::keep_when_unfinished() { impl_->keep = true; }
void CheckpointWriter::drop_when_unfinished() { impl_->keep = false; }

void CheckpointWriter::write(std::string_view name, std::span<const float> values) {
  const auto count = static_cast<std::int64_t>(values.size());
  expect(count == impl_->find(name).info.numel(), "write: as many values as planned");
  parallel_for(count, kConversionChunk, [&](std::int64_t first, std::int64_t last) {
    write_part(name, first,
               values.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first)));
  });
}

void CheckpointWriter::write_part(std::string_view name, std::int64_t first, std::span<const float> values) {
  const auto count = static_cast<std::int64_t>(values.size());
  Impl::Tensor& tensor = impl_->find(name);
  expect(first >= 0 && first + count <= tensor.info.numel(), "write_part: elements of the tensor");
  if (!tensor.own) return;
  Impl::count_written(tensor, count);
  const std::int64_t size = size_of(tensor.info.dtype);
  std::vector<std::byte> buffer(static_cast<std::size_t>(count * size));
  convert_from_f32(values, tensor.info.dtype, buffer);
  tensor.file->write_at(tensor.file_offset + static_cast<std::uint64_t>(first * size), buffer);
}

void CheckpointWriter::write_bytes(std::string_view name, std::span<const std::byte> bytes) {
  Impl::Tensor& tensor = impl_->find(name);
  expect(static_cast<std::int64_t>(bytes.size()) == tensor.info.num_bytes(),
         "write_bytes: as many as planned");
  if (!tensor.own) return;
  Impl::count_written(tensor, tensor.info.numel());
  tensor.file->write_at(tensor.file_offset, bytes);
  tensor.file->start_writing(tensor.file_offset, bytes.size());
}

void CheckpointWriter::write_bytes_part(std::string_view name, std::int64_t first,
                                        std::span<const std::byte> bytes) {
  Impl::Tensor& tensor = impl_->find(name);
  const std::int64_t size = size_of(tensor.info.dtype);
  const auto count = static_cast<std::int64_t>(bytes.size()) / size;
  expect(count * size == static_cast<std::int64_t>(bytes.size()) && first >= 0 &&
             first + count <= tensor.info.numel(),
         "write_bytes_part: elements of the tensor");
  if (!tensor.own) return;
  Impl::count_written(tensor, count);
  const std::uint64_t offset = tensor.file_offset + static_cast<std::uint64_t>(first * size);
  tensor.file->write_at(offset, bytes);
  tensor.file->start_writing(offset, bytes.size());
}

void CheckpointWriter::write_file(std::string_view file_name, std::string_view content) {
  expect(is_place(file_name), "write_file: a file name");
  write_whole(impl_->temporary / file_name, content);
}

void CheckpointWriter::copy_other_files(const Checkpoint& source, std::span<const std::string> except,
                                        Adapters adapters) {
  // Links to files are followed (a download cache is made of them), links to folders are not.
  for (auto entry = fs::recursive_directory_iterator(source.folder()); entry != fs::end(entry); ++entry) {
    const fs::path name = entry->path().lexically_relative(source.folder());
    const bool hidden = name.filename().string().starts_with('.');
    if (entry->is_directory()) {
      const bool left = fs::exists(entry->path() / kAdapterConfigFile) ? adapters == Adapters::kLeave
                                                                       : is_another_model(entry->path());
      if (hidden || left) entry.disable_recursion_pending();
      continue;
    }
    const bool of_adapter =
        name.has_parent_path() && fs::exists(entry->path().parent_path() / kAdapterConfigFile);
    if (!entry->is_regular_file() || hidden || (is_weight_file(name.filename()) && !of_adapter)) continue;
    if (std::find(except.begin(), except.end(), name.string()) != except.end()) continue;
    const fs::path target = impl_->temporary / name;
    if (fs::exists(target)) continue;  // written by this run, or whole by one that it goes on with
    std::error_code error;
    fs::create_directories(target.parent_path(), error);
    if (error) fail_write(target, error.value());
    // Whole under its name or not there: a run that is killed here may be gone on with.
    const fs::path unfinished = target.parent_path() / fmt::format(".{}.part", target.filename().string());
    const MappedFile content(entry->path());
    OutputFile(unfinished).write_at(0, content.bytes());
    fs::rename(unfinished, target, error);
    if (error) fail_write(target, error.value());
  }
}

void CheckpointWriter::finish() {
  impl_->check_written();
  impl_->transpose();
  if (impl_->needs_index()) write_file(kSafetensorsIndexFile, impl_->index());
  impl_->files.clear();
  if (impl_->lock) fs::remove(impl_->temporary / kLockFile);
  for (const auto& entry : fs::recursive_directory_iterator(impl_->temporary)) sync_path(entry.path());
  sync_path(impl_->temporary);
  // An empty folder of that name is replaced; a folder that filled up meanwhile is not.
  if (::rename(impl_->temporary.c_str(), impl_->folder.c_str()) != 0) fail_write(impl_->folder, errno);
  impl_->finished = true;
  sync_renamed(impl_->folder);
}

}  // namespace swiftprune
