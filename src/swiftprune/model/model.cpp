#include "swiftprune/model/model.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/layer_sizes.h"
#include "swiftprune/model/norm_gain.h"
#include "swiftprune/model/rope.h"
#include "swiftprune/sparse/pack_quantized.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

// fields: those of config.json that the shape follows from.
void check_shape(const Checkpoint& checkpoint, const std::string& name,
                 const std::vector<std::int64_t>& expected, std::string_view fields) {
  const TensorInfo& tensor = checkpoint.at(name);
  if (tensor.shape != expected) {
    bad_input("{}: tensor '{}': found shape [{}], expected [{}] from {} of config.json", tensor.file, name,
              fmt::join(tensor.shape, ", "), fmt::join(expected, ", "), fields);
  }
  if (!is_weight_dtype(tensor.dtype)) {
    bad_input("{}: tensor '{}': found dtype {}, expected F32, F16 or BF16", tensor.file, name,
              name_of(tensor.dtype));
  }
}

void check_norm(const Checkpoint& checkpoint, const NormTensors& norm, std::int64_t size,
                std::string_view field) {
  const NormTensors gain{norm.gain, "", norm.parts};
  for (const std::string& name : gain.names()) {
    check_shape(checkpoint, name, {size / std::max<std::int64_t>(1, norm.parts)}, field);
  }
  if (!norm.bias.empty()) check_shape(checkpoint, norm.bias, {size}, field);
}

void check_head_norm(const Checkpoint& checkpoint, const ModelConfig& m, const BlockConfig& block,
                     const NormTensors& norm, std::int64_t size) {
  const std::string_view fields = block.head_norms == HeadNorms::kEach
                                      ? "head_dim"
                                      : "num_attention_heads, num_key_value_heads and head_dim";
  if (block.head_norms == HeadNorms::kEachOwn && norm.parts == 0) {
    const std::int64_t d = m.head_size_in(block);
    return check_shape(checkpoint, norm.gain, {size / d, d}, fields);
  }
  check_norm(checkpoint, norm, size, fields);
}

void check_linears(const Checkpoint& checkpoint, const ModelConfig& m, const BlockConfig& block) {
  for (const LinearTensors& linear : linears_of(block)) {
    const bool of_mlp = linear.input == LinearInput::kMlp || linear.input == LinearInput::kMlpOutput;
    std::string fields = !of_mlp && block.has_state() ? "hidden_size and the sizes of the layer's mixer"
                         : of_mlp                     ? "hidden_size and " + m.intermediate_field
                                  : "hidden_size, num_attention_heads, num_key_value_heads and head_dim";
    if (m.has_layer_sizes) fields += fmt::format(" ({})", kLayerSizesField);
    if (checkpoint.find(linear.name + ".weight" + kPackedSuffix) ==
        nullptr) {  // packed ones are checked when loaded
      check_shape(checkpoint, linear.name + ".weight", {linear.outputs, linear.inputs}, fields);
    }
    if (linear.bias) check_shape(checkpoint, linear.name + ".bias", {linear.outputs}, fields);
  }
}

void check_experts(const Checkpoint& checkpoint, const ModelConfig& m, const BlockConfig& block) {
  const ExpertsConfig& experts = *block.experts;
  const RouterConfig& router = experts.router;
  check_shape(checkpoint, router.weight, {experts.count, m.hidden_size},
              experts.count_field + " and hidden_size");
  if (!router.bias.empty()) check_shape(checkpoint, router.bias, {experts.count}, experts.count_field);
  if (const std::string& bias = router.correction_bias; !bias.empty()) {
    if (checkpoint.find(bias) == nullptr) {
      bad_input(
          "{}: tensor {} is missing, which this family's router adds to its scores where it chooses experts",
          checkpoint.folder().string(), bias);
    }
    check_shape(checkpoint, bias, {experts.count}, experts.count_field);
  }
  if (!experts.shared_gate.empty())
    check_shape(checkpoint, experts.shared_gate, {1, m.hidden_size}, "hidden_size");
  static_cast<void>(ExpertTensors(checkpoint, experts, m.hidden_size));  // checks them
}

// What a sequence would remember of the layer, which no tensor's shape bounds.
void check_state(const Checkpoint& checkpoint, const RecurrentMixer& mixer) {
  std::array<std::int64_t, 3> shape{};
  if (const auto* m = std::get_if<GatedDeltaNet>(&mixer))
    shape = {m->value_heads, m->key_size, m->value_size};
  if (const auto* m = std::get_if<Mamba2>(&mixer)) shape = {m->heads, m->state_size, m->head_size};
  constexpr std::uint64_t kMost = std::uint64_t{1} << 30;
  if (checked_numel(shape).value_or(kMost + 1) <= kMost) return;
  bad_input(
      "{}: config.json: found {} numbers (heads, keys, values) for a layer to remember of a sequence, "
      "expected at "
      "most {}",
      checkpoint.folder().string(), fmt::join(shape, " times "), kMost);
}

void check_mixer(const Checkpoint& checkpoint, RecurrentMixer mixer) {
  check_state(checkpoint, mixer);
  for (const MixerTensor& tensor : tensors_of(mixer)) {
    check_shape(checkpoint, *tensor.name, tensor.shape, "the sizes of the layer's mixer");
  }
}

// A config.json that leaves them out would make another model of the rest.
void check_without_layer_embeddings(const Checkpoint& checkpoint, const ModelConfig& m) {
  if (m.family != "gemma4") return;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (!tensor.name.ends_with("embed_tokens_per_layer.weight")) continue;
    bad_input(
        "{}: tensor {}: found it, expected none where config.json's hidden_size_per_layer_input is 0 or null",
        tensor.file, tensor.name);
  }
}

// Tables of what tokens add to each block.
void check_layer_embeddings(const Checkpoint& checkpoint, const ModelConfig& m) {
  const LayerEmbeddings& shared = *m.layer_embeddings;
  constexpr std::string_view kFields =
      "vocab_size_per_layer_input, hidden_size_per_layer_input and num_hidden_layers";
  const std::int64_t all = m.num_layers() * shared.size;
  check_shape(checkpoint, shared.table, {m.vocab_size, all}, kFields);
  check_shape(checkpoint, shared.projection, {all, m.hidden_size}, kFields);
  check_norm(checkpoint, shared.norm, shared.size, kFields);
  for (const BlockConfig& block : m.blocks) {
    if (!block.layer_input) continue;
    check_shape(checkpoint, block.layer_input->gate, {shared.size, m.hidden_size}, kFields);
    check_shape(checkpoint, block.layer_input->projection, {m.hidden_size, shared.size}, kFields);
    check_norm(checkpoint, block.layer_input->norm, m.hidden_size, "hidden_size");
  }
}

void check_tensors(const Checkpoint& checkpoint, const ModelConfig& m) {
  constexpr std::string_view kTable = "vocab_size and hidden_size";
  for (const std::string& table : tables_of(m)) {
    if (checkpoint.find(table + kPackedSuffix) != nullptr) continue;  // checked when loaded
    check_shape(checkpoint, table, {m.vocab_size, m.hidden_size}, kTable);
  }
  if (m.position_table) {
    check_shape(checkpoint, *m.position_table, {m.position_offset + m.max_positions, m.hidden_size},
                "max_position_embeddings and hidden_size");
  }
  if (m.head_bias) check_shape(checkpoint, *m.head_bias, {m.vocab_size}, "vocab_size");
  for (const auto* norm : {&m.final_norm, &m.embedding_norm}) {
    if (*norm) check_norm(checkpoint, **norm, m.hidden_size, "hidden_size");
  }
  m.layer_embeddings ? check_layer_embeddings(checkpoint, m) : check_without_layer_embeddings(checkpoint, m);
  for (const BlockConfig& block : m.blocks) {
    if (block.recurrent) check_mixer(checkpoint, *block.recurrent);
    if (block.beside) check_mixer(checkpoint, block.beside->mixer);
    if (!block.output_scale.empty()) check_shape(checkpoint, block.output_scale, {1}, "hidden_size");
    check_linears(checkpoint, m, block);
    for (const auto* norm :
         {&block.attention_norm, &block.mlp_norm, &block.post_attention_norm, &block.post_mlp_norm}) {
      if (*norm) check_norm(checkpoint, **norm, m.hidden_size, "hidden_size");
    }
    if (block.query_norm) check_head_norm(checkpoint, m, block, *block.query_norm, m.query_norm_size(block));
    if (block.key_norm) check_head_norm(checkpoint, m, block, *block.key_norm, m.key_norm_size(block));
    if (!block.sinks.empty()) {
      check_shape(checkpoint, block.sinks, {m.heads_in(block)}, "num_attention_heads");
    }
    if (const auto& x = block.xielu) {
      for (const std::string* name : {&x->alpha_p, &x->alpha_n})
        check_shape(checkpoint, *name, {1}, "hidden_act");
      for (const std::string* name : {&x->beta, &x->eps}) check_shape(checkpoint, *name, {}, "hidden_act");
    }
    if (const auto& latent = block.latent) {
      check_norm(checkpoint, latent->norm, latent->rank, "kv_lora_rank");
      if (latent->query_rank > 0)
        check_norm(checkpoint, latent->query_norm, latent->query_rank, "q_lora_rank");
    }
    if (block.experts) check_experts(checkpoint, m, block);
  }
}

// A file may hold a head of its own although config.json ties it to the embedding. One with other values is
// used, as transformers 5 and vLLM do; transformers 4 took the embedding.
void use_own_head(const Checkpoint& checkpoint, ModelConfig& m, std::vector<std::string>& notes) {
  if (m.head != m.embedding) return;
  const TensorInfo *own = checkpoint.find(m.own_head), *embedding = checkpoint.find(m.embedding);
  if (own == nullptr || embedding == nullptr || own->shape != embedding->shape) return;
  if (own->dtype == embedding->dtype &&
      std::ranges::equal(checkpoint.bytes(*own), checkpoint.bytes(*embedding))) {
    checkpoint.release(*own);
    checkpoint.release(*embedding);
    return;
  }
  m.head = m.own_head;
  notes.push_back(fmt::format(
      "{}: {} differs from the embedding that config.json's tie_word_embeddings makes it: the file's "
      "own is used, as transformers 5 does (transformers 4 took the embedding)",
      (checkpoint.folder() / own->file).string(), m.own_head));
}

// Parts of linears that the file has and the model of config.json has not: left aside, as transformers does, but
// the file's model was another one.
void note_unused_parts(const Checkpoint& checkpoint, const ModelConfig& m, std::vector<std::string>& notes) {
  std::vector<std::string> unused;
  const auto look = [&](const std::string& module, bool bias) {
    for (const char* part : {".bias", ".weight_scale", ".weight_scale_inv"}) {
      if (bias && std::string_view(part) == ".bias") continue;
      if (checkpoint.find(module + part) != nullptr) unused.push_back(module + part);
    }
  };
  for (const BlockConfig& block : m.blocks) {
    for (const LinearTensors& linear : linears_of(block)) look(linear.name, linear.bias);
  }
  if (constexpr std::string_view kWeight = ".weight"; m.own_head.ends_with(kWeight))
    look(m.own_head.substr(0, m.own_head.size() - kWeight.size()), m.head_bias.has_value());
  if (unused.empty()) return;
  notes.push_back(fmt::format(
      "{}: {} tensors belong to linears that have no such part by config.json ({}, ...): left aside, as "
      "transformers does; is it the right config.json?",
      checkpoint.folder().string(), unused.size(), unused.front()));
}

}  // namespace

FinalNorm::FinalNorm(const Checkpoint& checkpoint, const ModelConfig& model) : model_(model) {
  if (!present()) return;
  if (!model.final_norm->gain.empty())
    gain_ = checkpoint.load_vector(model.final_norm->gain, model.hidden_size);
  add_gain_offset(model, gain_);
  if (!model.final_norm->bias.empty())
    bias_ = checkpoint.load_vector(model.final_norm->bias, model.hidden_size);
}

void FinalNorm::apply(const Backend& backend, ConstMatrixView rows, MatrixView target) const {
  expect(present(), "FinalNorm: a model that has one");
  const ConstMatrixView hidden = hidden_of(model_, rows);
  const MatrixView y = target.cols == hidden.cols ? target : hidden_of(model_, target);
  if (model_.norm == NormKind::kRms) {
    backend.rms_norm(hidden, gain_, model_.norm_gain_offset, model_.norm_eps, y);
  } else {
    backend.layer_norm(hidden, gain_, bias_, model_.norm_eps, y);
  }
}

EmbeddingNorm::EmbeddingNorm(const Checkpoint& checkpoint, const ModelConfig& model)
    : gain_(checkpoint.load_vector(model.embedding_norm->gain, model.hidden_size)),
      bias_(checkpoint.load_vector(model.embedding_norm->bias, model.hidden_size)),
      eps_(model.norm_eps) {
  expect(model.norm == NormKind::kLayer, "EmbeddingNorm: a LayerNorm");
}

void EmbeddingNorm::apply(MatrixView hidden) const {
  const auto size = static_cast<double>(hidden.cols);
  for (std::int64_t n = 0; n < hidden.rows; ++n) {
    const std::span<float> row = hidden.row_span(n);
    double mean = 0.0, variance = 0.0;
    for (const float value : row) mean += double{value} / size;
    for (const float value : row) variance += std::pow(double{value} - mean, 2) / size;
    const double scale = 1.0 / std::sqrt(variance + double{eps_});
    for (std::size_t i = 0; i < row.size(); ++i) {
      row[i] = static_cast<float>((double{row[i]} - mean) * scale * double{gain_[i]} + double{bias_[i]});
    }
  }
}

ModelHead::ModelHead(const Checkpoint& checkpoint, const ModelConfig& model, const Backend& backend,
                     ComputeType compute, WeightUse use)
    : model_(model), norm_(checkpoint, model), compute_(compute) {
  if (model.head_bias) head_bias_ = checkpoint.load_vector(*model.head_bias, model.vocab_size);
  compact_ = find_packed(checkpoint, model.head, model.vocab_size, model.hidden_size);
  if (!compact_ && use == WeightUse::kCompact) compact_ = pack_dense(checkpoint, model.head);
  if (compact_) return;
  weight_ = checkpoint.load_matrix(model.head, model.vocab_size, model.hidden_size);
  packed_ = backend.pack(weight_.view(), compute);
}

std::int64_t ModelHead::num_bytes() const {
  return compact_ ? compact_->num_bytes() : weight_.numel() * static_cast<std::int64_t>(sizeof(float));
}

void ModelHead::logits(const Backend& backend, ConstMatrixView hidden, MatrixView logits) const {
  Matrix normed(hidden.rows, model_.hidden_size);
  ConstMatrixView x = hidden_of(model_, hidden);
  if (norm_.present()) {
    norm_.apply(backend, hidden, normed.view());
    x = normed.view();
  }
  if (compact_) {
    compact_->forward(x, head_bias_, logits, compute_);
  } else {
    backend.linear(x, *packed_, head_bias_, logits);
  }
  if (model_.logit_scale != 1.0f) {
    for (std::int64_t n = 0; n < logits.rows; ++n) {
      for (float& value : logits.row_span(n)) value *= model_.logit_scale;
    }
  }
  if (model_.final_softcap > 0.0f) backend.softcap(model_.final_softcap, logits);
}

namespace {

// Messages name the file; which of several models' it is, the folder tells.
ModelConfig config_of(const Checkpoint& checkpoint, std::vector<std::string>* notes) {
  try {
    return model_config(checkpoint.config(), notes);
  } catch (const Error& error) {
    const std::string message = error.what();
    if (!message.starts_with("config.json:")) throw;
    throw Error(error.kind(), (checkpoint.folder() / message).string());
  }
}

}  // namespace

Model::Model(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)), notes_(checkpoint_.notes()) {
  config_ = config_of(checkpoint_, &notes_);
  use_own_head(checkpoint_, config_, notes_);
  check_tensors(checkpoint_, config_);
  note_unused_parts(checkpoint_, config_, notes_);
  embedding_.emplace(checkpoint_, config_);
  if (config_.embedding_norm) embedding_norm_ = EmbeddingNorm(checkpoint_, config_);
}

std::unique_ptr<Model> Model::open(const std::filesystem::path& folder,
                                   const std::filesystem::path& adapter) {
  std::unique_ptr<Model> model(new Model(Checkpoint::open(folder)));
  if (!adapter.empty()) {
    model->adapter_ = Adapter::open(adapter, model->config_);
    model->config_.has_adapter = true;
    return model;
  }
  const std::filesystem::path beside = folder / kAdapterFolder;
  std::error_code ignored;
  if (std::filesystem::exists(beside / kAdapterConfigFile, ignored)) {
    model->notes_.push_back(
        fmt::format("{}: the low-rank part in {} is not used; eval, compare, generate, chat, serve and bench "
                    "take it with "
                    "--adapter {}",
                    folder.string(), kAdapterFolder, beside.string()));
  }
  return model;
}

std::vector<std::string> Model::block_tensors(std::int64_t layer) const {
  const BlockConfig& block = config_.blocks[static_cast<std::size_t>(layer)];
  std::vector<std::string> names = DecoderBlock::tensor_names(block);
  if (!block.experts) return names;
  const ExpertTensors experts(checkpoint_, *block.experts, config_.hidden_size);
  names.insert(names.end(), experts.names().begin(), experts.names().end());
  return names;
}

void Model::release_block(std::int64_t layer) const {
  for (const std::string& name : block_tensors(layer)) {
    const TensorInfo* packed = checkpoint_.find(name + kPackedSuffix);
    checkpoint_.release(packed != nullptr ? *packed : checkpoint_.at(name));
  }
}

std::vector<RopeTable> Model::rope_tables(std::int64_t num_positions) const {
  std::vector<RopeTable> tables;
  for (const RopeConfig& rope : config_.ropes) tables.push_back(make_rope_table(rope, num_positions));
  return tables;
}

void Model::embed(std::span<const std::int32_t> ids, std::int64_t sequence_length,
                  std::int64_t first_position, MatrixView rows) const {
  expect(static_cast<std::int64_t>(ids.size()) == rows.rows && rows.cols == config_.row_size(),
         "embed: shapes agree");
  const MatrixView hidden = hidden_of(config_, rows);
  for (std::int64_t n = 0; n < hidden.rows; ++n) {
    const std::int32_t id = ids[static_cast<std::size_t>(n)];
    if (id < 0 || id >= config_.vocab_size) {
      bad_input(
          "token {}: found id {}, expected less than vocab_size {}; was the text made with this model's "
          "tokenizer?",
          n, id, config_.vocab_size);
    }
    embedding_->load(id, hidden.row_block(n, 1));
    std::fill_n(rows.row(n) + config_.hidden_size, config_.carried, 0.0f);
    if (config_.layer_embeddings) rows.at(n, config_.hidden_size) = static_cast<float>(id);
  }
  if (config_.embedding_norm) embedding_norm_.apply(hidden);
  if (!config_.position_table) return;
  const TensorInfo& positions = checkpoint_.at(*config_.position_table);
  Matrix row(1, hidden.cols);
  for (std::int64_t n = 0; n < hidden.rows; ++n) {
    checkpoint_.load_rows(positions, config_.position_offset + first_position + n % sequence_length,
                          row.view());
    for (std::int64_t i = 0; i < hidden.cols; ++i) hidden.at(n, i) += row.at(0, i);
  }
}

Matrix Model::embed_windows(const TokenWindows& windows, std::int64_t first, std::int64_t count) const {
  const std::int64_t seqlen = windows.seqlen;
  Matrix hidden(count * seqlen, config_.row_size());
  const auto ids =
      std::span(windows.ids)
          .subspan(static_cast<std::size_t>(first * seqlen), static_cast<std::size_t>(count * seqlen));
  embed(ids, seqlen, 0, hidden.view());
  return hidden;
}

void Model::check_length(std::int64_t num_positions, std::string_view flag) const {
  if (num_positions > config_.max_positions) {
    bad_usage("{}: found {} positions, expected at most {} (max_position_embeddings of config.json)", flag,
              num_positions, config_.max_positions);
  }
}

}  // namespace swiftprune
