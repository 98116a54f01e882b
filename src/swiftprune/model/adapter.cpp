#include "swiftprune/model/adapter.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kRight = ".lora_A.weight", kLeft = ".lora_B.weight";
constexpr std::int64_t kMaxRank = std::int64_t{1} << 20;

// Fields that say nothing of what is computed: what was trained how, from what, and which modules the tensors are of.
constexpr std::array<std::string_view, 19> kIdleFields = {"auto_mapping",     "base_model_name_or_path",
                                                          "corda_config",     "ensure_weight_tying",
                                                          "eva_config",       "exclude_modules",
                                                          "fan_in_fan_out",   "inference_mode",
                                                          "layers_pattern",   "layers_to_transform",
                                                          "loftq_config",     "lora_dropout",
                                                          "megatron_core",    "peft_version",
                                                          "revision",         "runtime_config",
                                                          "target_modules",   "task_type",
                                                          "qalora_group_size"};
constexpr std::array<std::string_view, 7> kReadFields = {
    "alpha_pattern", "init_lora_weights", "lora_alpha", "peft_type", "r", "rank_pattern", "use_rslora"};

template <class List>
bool holds(const List& list, std::string_view value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

bool is_nothing(const nlohmann::json& value) {
  return value.is_null() || (value.is_structured() && value.empty()) || value == false;
}

// What of the configuration matters to the sum.
struct LoraConfig {
  std::int64_t rank = 0;
  double alpha = 0.0;
  bool has_ranks = false;                              // of single modules: the tensors' own
  bool by_root = false;                                // scaling alpha/√r, not alpha/r
  std::vector<std::pair<std::string, double>> alphas;  // by the end of a module's path

  double scaling(const std::string& linear, std::int64_t r) const {
    double own = alpha;
    for (const auto& [end, value] : alphas) {
      if (linear != end && !linear.ends_with("." + end)) continue;
      own = value;
      break;
    }
    return own / (by_root ? std::sqrt(static_cast<double>(r)) : static_cast<double>(r));
  }
};

double finite_number(const JsonField& field) {
  const double value = field.number();
  if (!std::isfinite(value) || std::abs(value) > 1e9) field.unexpected("a number of ordinary size");
  return value;
}

// PEFT takes the keys as regular expressions for the end of a module's path; names are what is written.
void check_plain_key(const JsonField& of, const std::string& key) {
  const bool plain = !key.empty() && std::all_of(key.begin(), key.end(), [](const unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '.';
  });
  if (plain) return;
  bad_input("{}: found the key {}, expected module names without the signs of regular expressions",
            of.where(), json_quoted(key));
}

LoraConfig read_config(const std::filesystem::path& file) {
  const nlohmann::json document = read_json_file(file, {.max_bytes = 16'000'000, .max_values = 1'000'000});
  const JsonField top(document, file.string());
  if (!document.is_object()) top.unexpected("an object");
  if (const std::string& type = top.at("peft_type").string(); type != "LORA")
    bad_input("{}: peft_type: found {}, expected LORA", file.string(), json_quoted(type));
  for (const auto& [key, value] : document.items()) {
    if (holds(kIdleFields, key) || holds(kReadFields, key) || is_nothing(value)) continue;
    if (key == "bias" && value == "none") continue;
    bad_input(
        "{}: {}: found {}, expected a plain LoRA: low-rank parts of linears and nothing else (merge the "
        "adapter into its "
        "model with PEFT's merge_and_unload())",
        file.string(), json_quoted(key), json_excerpt(value));
  }
  if (const auto task = top.string_if("task_type"); task && *task != "CAUSAL_LM")
    bad_input("{}: task_type: found {}, expected CAUSAL_LM", file.string(), json_quoted(*task));
  if (const auto init = top.find("init_lora_weights"); init && init->json().is_string()) {
    // The others change the weights that the part stands beside.
    constexpr std::array<std::string_view, 3> kBeside = {"gaussian", "eva", "orthogonal"};
    if (!holds(kBeside, init->string()))
      init->unexpected("true, false, gaussian, eva or orthogonal: others change the model's own weights");
  }
  LoraConfig config;
  config.rank = top.at("r").integer(1, kMaxRank);
  config.alpha = finite_number(top.at("lora_alpha"));
  config.by_root = top.boolean_or("use_rslora", false);
  if (const auto ranks = top.find("rank_pattern"); ranks && !is_nothing(ranks->json())) {
    if (!ranks->json().is_object()) ranks->unexpected("an object");
    config.has_ranks = true;
  }
  if (const auto alphas = top.find("alpha_pattern"); alphas && !is_nothing(alphas->json())) {
    if (!alphas->json().is_object()) alphas->unexpected("an object");
    for (const auto& [key, value] : alphas->json().items()) {
      check_plain_key(*alphas, key);
      config.alphas.emplace_back(key, finite_number(alphas->at(key)));
    }
  }
  return config;
}

[[noreturn]] void refuse_tensor(const std::string& file, const std::string& name) {
  const auto is = [&](std::string_view part) { return name.find(part) != std::string::npos; };
  const std::string_view what = is("lora_magnitude_vector") ? "DoRA's magnitudes"
                                : is("lora_embedding_")     ? "a part of an embedding"
                                                            : "another kind of tensor";
  bad_input("{}: tensor {}: found {}, expected {}MODULE{} and {}", file, name, what, kPrefix, kRight, kLeft);
}

// By name; an expert's linears are not among them.
std::map<std::string, LinearTensors> linears_by_name(const ModelConfig& model) {
  std::map<std::string, LinearTensors> linears;
  for (const BlockConfig& block : model.blocks) {
    for (const LinearTensors& linear : linears_of(block)) linears.emplace(linear.name, linear);
  }
  return linears;
}

void check_factor(const std::string& file, const TensorInfo& tensor, std::int64_t rows, std::int64_t cols,
                  std::string_view what) {
  if (tensor.shape.size() != 2 || tensor.shape[0] != rows || tensor.shape[1] != cols) {
    bad_input("{}: tensor {}: found shape [{}], expected [{}, {}] ({})", file, tensor.name,
              fmt::join(tensor.shape, ", "), rows, cols, what);
  }
  if (!is_weight_dtype(tensor.dtype)) {
    bad_input("{}: tensor {}: found dtype {}, expected F32, F16 or BF16", file, tensor.name,
              name_of(tensor.dtype));
  }
}

std::filesystem::path tensor_file(const std::filesystem::path& folder) {
  std::error_code ignored;
  const std::filesystem::path file = folder / kAdapterFile;
  if (std::filesystem::exists(file, ignored)) return file;
  const bool old = std::filesystem::exists(folder / "adapter_model.bin", ignored);
  bad_input("{}: found no {}{}", folder.string(), kAdapterFile,
            old ? "; adapter_model.bin is not read: save it again with PEFT, which writes safetensors"
                : ", expected a LoRA folder as PEFT writes it");
}

}  // namespace

std::string adapter_right_name(std::string_view linear) {
  return fmt::format("{}{}{}", kPrefix, linear, kRight);
}
std::string adapter_left_name(std::string_view linear) {
  return fmt::format("{}{}{}", kPrefix, linear, kLeft);
}

Adapter::Adapter(const std::filesystem::path& folder) : folder_(folder), file_(tensor_file(folder)) {}

std::shared_ptr<const Adapter> Adapter::open(const std::filesystem::path& folder, const ModelConfig& model) {
  const LoraConfig config = read_config(folder / kAdapterConfigFile);
  const std::shared_ptr<Adapter> adapter(new Adapter(folder));
  const std::string file = (folder / kAdapterFile).string();
  SafetensorsHeader header = parse_safetensors(adapter->file_.bytes(), file);
  adapter->data_begin_ = header.data_begin;
  const auto linears = linears_by_name(model);
  std::map<std::string, std::array<TensorInfo*, 2>> pairs;  // left, right
  for (TensorInfo& tensor : header.tensors) {
    const std::string_view name = tensor.name;
    const bool left = name.ends_with(kLeft);
    const std::size_t around = kPrefix.size() + kLeft.size();
    if (!name.starts_with(kPrefix) || (!left && !name.ends_with(kRight)) || name.size() <= around)
      refuse_tensor(file, tensor.name);
    const std::string linear(name.substr(kPrefix.size(), name.size() - around));
    if (!linears.contains(linear)) {
      bad_input(
          "{}: tensor {}: found a part of {}, expected one of a linear of this model's blocks that every "
          "token "
          "passes, such as {}",
          file, tensor.name, linear, linears.begin()->first);
    }
    pairs[linear][left ? 0 : 1] = &tensor;
  }
  if (pairs.empty())
    bad_input("{}: found no tensors, expected {}MODULE{} and {}", file, kPrefix, kRight, kLeft);
  for (const auto& [linear, pair] : pairs) {
    if (pair[0] == nullptr || pair[1] == nullptr) {
      bad_input("{}: tensor {}: found without {}", file, (pair[0] == nullptr ? pair[1] : pair[0])->name,
                pair[0] == nullptr ? adapter_left_name(linear) : adapter_right_name(linear));
    }
    const LinearTensors& of = linears.at(linear);
    std::int64_t rank = config.rank;
    if (config.has_ranks) {
      const std::vector<std::int64_t>& shape = pair[1]->shape;
      if (shape.empty() || shape[0] < 1 || shape[0] > kMaxRank)
        bad_input("{}: tensor {}: found shape [{}], expected a rank from 1 to {} and {} inputs", file,
                  pair[1]->name, fmt::join(shape, ", "), kMaxRank, of.inputs);
      rank = shape[0];
    }
    const std::string_view from =
        config.has_ranks ? "rank and inputs" : "r of adapter_config.json and inputs";
    check_factor(file, *pair[1], rank, of.inputs, from);
    check_factor(file, *pair[0], of.outputs, rank, "outputs and rank");
    adapter->parts_.emplace(linear,
                            Part{std::move(*pair[0]), std::move(*pair[1]), config.scaling(linear, rank)});
  }
  return adapter;
}

std::int64_t Adapter::num_parameters() const {
  std::int64_t count = 0;
  for (const auto& [linear, part] : parts_) count += part.left.numel() + part.right.numel();
  return count;
}

std::int64_t Adapter::num_bytes() const {
  std::int64_t count = 0;
  for (const auto& [linear, part] : parts_) count += part.left.num_bytes() + part.right.num_bytes();
  return count;
}

std::int64_t Adapter::rank_of(const std::string& linear) const {
  const auto part = parts_.find(linear);
  return part == parts_.end() ? 0 : part->second.right.shape[0];
}

Matrix Adapter::load_factor(const TensorInfo& tensor) const {
  Matrix values(tensor.shape[0], tensor.shape[1]);
  convert_to_f32(file_.bytes().subspan(data_begin_ + tensor.begin, tensor.end - tensor.begin), tensor.dtype,
                 values.values());
  for (const float value : values.values()) {
    if (std::isfinite(value)) continue;
    bad_input("{}: tensor {}: found {}, expected finite numbers", (folder_ / kAdapterFile).string(),
              tensor.name, value);
  }
  return values;
}

std::optional<LowRank> Adapter::load(const std::string& linear) const {
  const auto found = parts_.find(linear);
  if (found == parts_.end()) return std::nullopt;
  LowRank part{load_factor(found->second.left), load_factor(found->second.right)};
  const auto scaling = static_cast<float>(found->second.scaling);
  if (scaling != 1.0f) {
    for (float& value : part.left.values()) value *= scaling;
  }
  return part;
}

}  // namespace swiftprune
