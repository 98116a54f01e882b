#include "swiftprune/checkpoint/tensor_names.h"

#include <algorithm>
#include <array>
#include <span>
#include <string_view>
#include <unordered_set>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

// A family's names: what stands before "layers.", in the causal model and elsewhere.
struct Naming {
  std::string_view model_type;
  bool with_vision;  // config.json has a text_config
  std::string_view body;
  std::string_view embedding;  // after the body
  std::string_view head;
  std::array<std::string_view, 4> others;  // bodies; "": none, the base model's own
};

// What most families share: base models, and the text part of models that also see.
constexpr std::array<std::string_view, 4> kLlamaOthers = {"language_model.model.", "model.language_model.",
                                                          "model.model.", ""};
constexpr std::string_view kEmbedding = "embed_tokens.weight", kHead = "lm_head.weight";

constexpr Naming kNamings[] = {
    {"llama", false, "model.", kEmbedding, kHead, kLlamaOthers},
    {"mistral", false, "model.", kEmbedding, kHead, kLlamaOthers},
    {"qwen2", false, "model.", kEmbedding, kHead, kLlamaOthers},
    {"qwen3", false, "model.", kEmbedding, kHead, kLlamaOthers},
    {"gemma2", false, "model.", kEmbedding, kHead, kLlamaOthers},
    {"gemma3_text", false, "model.", kEmbedding, kHead, kLlamaOthers},
    {"gemma3", false, "model.", kEmbedding, kHead, kLlamaOthers},
    {"gemma3",
     true,
     "language_model.model.",
     kEmbedding,
     "language_model.lm_head.weight",
     {"model.language_model.", "model.", "model.language_model.model.", ""}},
    {"phi3", false, "model.", kEmbedding, kHead, kLlamaOthers},
    {"opt", false, "model.decoder.", kEmbedding, kHead, {"decoder.", "model.", "model.model.decoder.", ""}},
    {"gpt_neox",
     false,
     "gpt_neox.",
     "embed_in.weight",
     "embed_out.weight",
     {"model.", "model.gpt_neox.", "transformer.", ""}},
};

const Naming* naming_of(const nlohmann::json& config) {
  const auto type = config.find("model_type");
  if (type == config.end() || !type->is_string()) return nullptr;
  const auto text = config.find("text_config");
  const bool with_vision = text != config.end() && text->is_object();
  for (const Naming& naming : kNamings) {
    if (naming.model_type == type->get_ref<const std::string&>() && naming.with_vision == with_vision)
      return &naming;
  }
  return nullptr;
}

bool has_body(std::span<const TensorInfo> tensors, std::string_view body) {
  const std::string blocks = std::string(body) + "layers.0.";
  return std::any_of(tensors.begin(), tensors.end(),
                     [&](const TensorInfo& tensor) { return tensor.name.starts_with(blocks); });
}

// The head wherever the file has it: with and without the parts around it.
bool is_head(std::string_view name, const Naming& naming) {
  const std::string_view last =
      naming.head.substr(naming.head.rfind('.', naming.head.rfind('.') - 1) + 1);  // npos + 1 is 0
  return name == naming.head || name == last || name == "model.lm_head.weight" ||
         name == "language_model.lm_head.weight";
}

std::string renamed(const std::string& name, std::string_view body, const Naming& naming) {
  if (is_head(name, naming)) return std::string(naming.head);
  if (name.starts_with(body)) return std::string(naming.body) + name.substr(body.size());
  // Beside a text model under "model.language_model.": "model.vision_tower.", "model.multi_modal_projector.".
  constexpr std::string_view kModel = "model.";
  if (naming.with_vision && name.starts_with(kModel)) return name.substr(kModel.size());
  return name;
}

bool says_untied(const nlohmann::json& config) {
  const auto is_false = [](const nlohmann::json& object) {
    const auto field = object.find("tie_word_embeddings");
    return field != object.end() && field->is_boolean() && !field->get<bool>();
  };
  const auto text = config.find("text_config");
  return is_false(config) || (text != config.end() && text->is_object() && is_false(*text));
}

}  // namespace

std::vector<std::string> unify_names(const nlohmann::json& config, const std::string& folder,
                                     std::vector<TensorInfo>& tensors) {
  std::vector<std::string> notes;
  const Naming* naming = naming_of(config);
  if (naming == nullptr) return notes;
  if (!has_body(tensors, naming->body)) {
    std::vector<std::string_view> found;
    for (const std::string_view other : naming->others) {
      if (has_body(tensors, other)) found.push_back(other);
    }
    if (found.size() > 1) {
      bad_input("{}: found tensors named {}layers.* and {}layers.*, expected one model under {}", folder,
                found[0], found[1], naming->body);
    }
    if (!found.empty()) {
      for (TensorInfo& tensor : tensors) tensor.name = renamed(tensor.name, found[0], *naming);
      notes.push_back(found[0].empty()
                          ? fmt::format("{}: names without \"{}\" (saved from the base model) are read, and "
                                        "written, with it",
                                        folder, naming->body)
                          : fmt::format("{}: names under \"{}\" are read, and written, as \"{}\"", folder,
                                        found[0], naming->body));
    }
  }
  // A file of tied embeddings may hold the one matrix under the head's name alone.
  const std::string embedding = std::string(naming->body) + std::string(naming->embedding);
  TensorInfo* head = nullptr;
  bool has_embedding = false;
  for (TensorInfo& tensor : tensors) {
    if (tensor.name == naming->head) head = &tensor;
    has_embedding = has_embedding || tensor.name == embedding;
  }
  if (!has_embedding && head != nullptr && !says_untied(config)) {
    head->name = embedding;
    notes.push_back(
        fmt::format("{}: {} is the embedding too, which the file does not have", folder, naming->head));
  }
  std::unordered_set<std::string_view> names;
  for (const TensorInfo& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      bad_input("{}: found two tensors for {}, expected one", folder, tensor.name);
    }
  }
  return notes;
}

}  // namespace swiftprune
