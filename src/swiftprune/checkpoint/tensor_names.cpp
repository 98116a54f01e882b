#include "swiftprune/checkpoint/tensor_names.h"

#include <algorithm>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_set>

#include "swiftprune/checkpoint/text_tower.h"
#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

// How a causal model of a type names its tensors.
struct Naming {
  std::string body;  // what stands before the blocks
  std::string blocks = "layers.";
  std::string embedding = "embed_tokens.weight";  // after the body
  std::string head = "lm_head.weight";
  std::vector<std::string> others;  // bodies elsewhere; "": none, the base model's own
  bool is_tower = false;            // beside other parts
};

// Model types whose causal model has LLaMA's names.
constexpr std::string_view kLlamaNamed[] = {"llama",       "mistral",
                                            "ministral",   "ministral3",
                                            "qwen2",       "qwen3",
                                            "gemma",       "gemma2",
                                            "gemma3",      "phi3",
                                            "phi",         "smollm3",
                                            "olmo",        "olmo2",
                                            "olmo3",       "granite",
                                            "exaone4",     "stablelm",
                                            "glm",         "glm4",
                                            "cohere2",     "granitemoehybrid",
                                            "cohere",      "starcoder2",
                                            "gemma3_text", "apertus",
                                            "arcee",       "nemotron",
                                            "lfm2",        "qwen3_5_text",
                                            "gemma4_text", "falcon_h1"};

std::optional<Naming> naming_of(const nlohmann::json& config) {
  if (const TextTower* tower = text_tower_of(config)) {
    Naming naming{.body = std::string(tower->body),
                  .head = fmt::format("{}weight", tower->head),
                  .others = {"model.language_model.", "language_model.model.", "model.",
                             "model.language_model.model.", ""},
                  .is_tower = true};
    std::erase(naming.others, naming.body);
    return naming;
  }
  const auto field = config.find("model_type");
  const std::string type = field != config.end() && field->is_string() ? field->get<std::string>() : "";
  if (type == "opt")
    return Naming{.body = "model.decoder.", .others = {"decoder.", "model.", "model.model.decoder.", ""}};
  if (type == "bloom") {
    return Naming{.body = "transformer.",
                  .blocks = "h.",
                  .embedding = "word_embeddings.weight",
                  .others = {"model.transformer.", ""}};
  }
  if (type == "nemotron_h") {
    return Naming{
        .body = "backbone.", .embedding = "embeddings.weight", .others = {"model.", "model.backbone.", ""}};
  }
  if (type == "mpt") {
    return Naming{.body = "transformer.",
                  .blocks = "blocks.",
                  .embedding = "wte.weight",
                  .others = {"model.transformer.", ""}};
  }
  if (type == "gptj" || type == "gpt2") {
    return Naming{.body = "transformer.",
                  .blocks = "h.",
                  .embedding = "wte.weight",
                  .others = {"model.transformer.", ""}};
  }
  if (type == "gpt_neox") {
    return Naming{.body = "gpt_neox.",
                  .embedding = "embed_in.weight",
                  .head = "embed_out.weight",
                  .others = {"model.", "model.gpt_neox.", "transformer.", ""}};
  }
  if (std::ranges::find(kLlamaNamed, type) == std::end(kLlamaNamed)) return std::nullopt;
  // Elsewhere: base models, and the text part of models that also see.
  return Naming{.body = "model.",
                .others = {"language_model.model.", "model.language_model.", "model.model.", ""}};
}

bool has_body(std::span<const TensorInfo> tensors, std::string_view body, const Naming& naming) {
  const std::string blocks = fmt::format("{}{}0.", body, naming.blocks);
  return std::any_of(tensors.begin(), tensors.end(),
                     [&](const TensorInfo& tensor) { return tensor.name.starts_with(blocks); });
}

// The head wherever the file has it: with and without the parts around it.
bool is_head(std::string_view name, const Naming& naming) {
  const std::string last =
      naming.head.substr(naming.head.rfind('.', naming.head.rfind('.') - 1) + 1);  // npos + 1 is 0
  return name == naming.head || name == last || name == "model.lm_head.weight" ||
         name == "language_model.lm_head.weight";
}

// Heads for multi-token prediction (Qwen 3.5) stand beside the model.
constexpr std::string_view kFurtherTokens = "mtp.";

std::string renamed(const std::string& name, std::string_view body, const Naming& naming) {
  if (is_head(name, naming)) return naming.head;
  constexpr std::string_view kBias = ".bias", kWeight = ".weight";
  if (name.ends_with(kBias)) {
    const std::string_view module = std::string_view(name).substr(0, name.size() - kBias.size());
    if (is_head(fmt::format("{}{}", module, kWeight), naming)) {
      return naming.head.substr(0, naming.head.size() - kWeight.size()) + std::string(kBias);
    }
  }
  if (body.empty() && name.starts_with(kFurtherTokens)) return name;
  if (name.starts_with(body)) return naming.body + name.substr(body.size());
  // Beside a text model under "model.language_model.": "model.vision_tower.", "model.multi_modal_projector.".
  constexpr std::string_view kModel = "model.";
  if (naming.is_tower && name.starts_with(kModel)) return name.substr(kModel.size());
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
  const std::optional<Naming> known = naming_of(config);
  if (!known) return notes;
  const Naming& naming = *known;
  if (!has_body(tensors, naming.body, naming)) {
    std::vector<std::string> found;
    for (const std::string& other : naming.others) {
      if (has_body(tensors, other, naming)) found.push_back(other);
    }
    if (found.size() > 1) {
      bad_input("{}: found tensors named {}layers.* and {}layers.*, expected one model under {}", folder,
                found[0], found[1], naming.body);
    }
    if (!found.empty()) {
      for (TensorInfo& tensor : tensors) tensor.name = renamed(tensor.name, found[0], naming);
      notes.push_back(found[0].empty()
                          ? fmt::format("{}: names without \"{}\" (saved from the base model) are read, and "
                                        "written, with it",
                                        folder, naming.body)
                          : fmt::format("{}: names under \"{}\" are read, and written, as \"{}\"", folder,
                                        found[0], naming.body));
    }
  }
  // A file of tied embeddings may hold the one matrix under the head's name alone.
  const std::string embedding = naming.body + naming.embedding;
  TensorInfo* head = nullptr;
  bool has_embedding = false;
  for (TensorInfo& tensor : tensors) {
    if (tensor.name == naming.head) head = &tensor;
    has_embedding = has_embedding || tensor.name == embedding;
  }
  if (!has_embedding && head != nullptr && !says_untied(config)) {
    head->name = embedding;
    notes.push_back(
        fmt::format("{}: {} is the embedding too, which the file does not have", folder, naming.head));
  }
  std::unordered_set<std::string_view> names;
  for (const TensorInfo& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      bad_input("{}: found two tensors for {}, expected one", folder, tensor.name);
    }
  }
  return notes;
}

bool is_stored_transposed(const nlohmann::json& config, std::string_view name) {
  const auto type = config.find("model_type");
  if (type == config.end() || *type != "gpt2" || !name.starts_with("transformer.h.")) return false;
  constexpr std::string_view kConv1d[] = {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight",
                                          "mlp.c_proj.weight"};
  return std::ranges::any_of(kConv1d, [&](std::string_view end) { return name.ends_with(end); });
}

}  // namespace swiftprune
