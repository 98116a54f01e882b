// The tensors of a block: which they are, and how they are read.
#include "swiftprune/model/decoder_block.h"

#include "swiftprune/model/norm_gain.h"
#include "swiftprune/model/xielu.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {

std::vector<std::string> DecoderBlock::tensor_names(const BlockConfig& block) {
  std::vector<std::string> names;
  for (const LinearTensors& linear : linears_of(block)) {
    names.push_back(linear.name + ".weight");
    if (linear.bias) names.push_back(linear.name + ".bias");
  }
  const auto add_norm = [&](const NormTensors& norm) {
    for (std::string& name : norm.names()) names.push_back(std::move(name));
  };
  if (block.experts) {
    const ExpertsConfig& experts = *block.experts;
    for (const std::string* name : {&experts.router.weight, &experts.router.bias,
                                    &experts.router.correction_bias, &experts.shared_gate}) {
      if (!name->empty()) names.push_back(*name);
    }
  }
  if (block.attention_norm) add_norm(*block.attention_norm);
  const bool shared =
      block.attention_norm && block.mlp_norm && block.attention_norm->names() == block.mlp_norm->names();
  if (block.mlp_norm && !shared) add_norm(*block.mlp_norm);
  if (!block.sinks.empty()) names.push_back(block.sinks);
  if (const auto& x = block.xielu) {
    for (const std::string* name : {&x->alpha_p, &x->alpha_n, &x->beta, &x->eps}) names.push_back(*name);
  }
  if (block.has_state()) {
    RecurrentMixer mixer = block.mixer();
    for (const MixerTensor& tensor : tensors_of(mixer)) names.push_back(*tensor.name);
  }
  if (block.layer_input) {
    names.push_back(block.layer_input->gate);
    names.push_back(block.layer_input->projection);
    add_norm(block.layer_input->norm);
  }
  if (!block.output_scale.empty()) names.push_back(block.output_scale);
  if (block.latent) {
    add_norm(block.latent->norm);
    if (block.latent->query_rank > 0) add_norm(block.latent->query_norm);
  }
  for (const auto* norm :
       {&block.post_attention_norm, &block.post_mlp_norm, &block.query_norm, &block.key_norm}) {
    if (*norm) add_norm(**norm);
  }
  return names;
}

void DecoderBlock::load_norm(const Checkpoint& checkpoint, const NormTensors& tensors, std::int64_t size,
                             Norm& norm) const {
  norm.present = true;
  if (!tensors.gain.empty()) norm.gain = load_gain(checkpoint, tensors, size);
  add_gain_offset(model_, norm.gain);
  if (!tensors.bias.empty()) norm.bias = checkpoint.load_vector(tensors.bias, size);
}

DecoderBlock::DecoderBlock(const Checkpoint& checkpoint, const ModelConfig& model, std::int64_t layer,
                           WeightUse use, const Adapter* adapter)
    : model_(model), config_(model.blocks[static_cast<std::size_t>(layer)]) {
  for (const LinearTensors& tensors : linears_of(config_)) {
    BlockLinear linear;
    linear.tensors = tensors;
    const std::string name = tensors.name + ".weight";
    linear.compact = find_packed(checkpoint, name, tensors.outputs, tensors.inputs);
    if (!linear.compact && use == WeightUse::kCompact) linear.compact = pack_dense(checkpoint, name);
    if (linear.compact) {
      linear.dtype = linear.compact->weight().shape().dtype;
    } else {
      linear.dtype = checkpoint.at(name).dtype;
      linear.weight = checkpoint.load_matrix(name, tensors.outputs, tensors.inputs);
    }
    if (tensors.bias) linear.bias = checkpoint.load_vector(tensors.name + ".bias", tensors.outputs);
    if (adapter != nullptr) linear.low_rank = adapter->load(tensors.name);
    linears_.push_back(std::move(linear));
  }
  if (config_.experts) {
    experts_.emplace(checkpoint, model, *config_.experts, use);
    if (const std::string& gate = config_.experts->shared_gate; !gate.empty()) {
      const Matrix row = checkpoint.load_matrix(gate, 1, model.hidden_size);
      shared_gate_.assign(row.values().begin(), row.values().end());
    }
  }
  if (config_.xielu) xielu_ = load_xielu(checkpoint, *config_.xielu);
  if (config_.has_state()) recurrent_.emplace(checkpoint, config_.mixer(), model.norm_eps);
  if (config_.layer_input) layer_inputs_.emplace(checkpoint, model, layer);
  if (!config_.output_scale.empty()) output_scale_ = checkpoint.load_vector(config_.output_scale, 1).front();
  if (!config_.sinks.empty()) sinks_ = checkpoint.load_vector(config_.sinks, model.heads_in(config_));
  if (const auto& latent = config_.latent) {
    load_norm(checkpoint, latent->norm, latent->rank, latent_norm_);
    if (latent->query_rank > 0)
      load_norm(checkpoint, latent->query_norm, latent->query_rank, latent_query_norm_);
  }
  if (config_.attention_norm)
    load_norm(checkpoint, *config_.attention_norm, model.hidden_size, attention_norm_);
  if (config_.mlp_norm) load_norm(checkpoint, *config_.mlp_norm, model.hidden_size, mlp_norm_);
  if (config_.post_attention_norm) {
    load_norm(checkpoint, *config_.post_attention_norm, model.hidden_size, post_attention_norm_);
  }
  if (config_.post_mlp_norm) load_norm(checkpoint, *config_.post_mlp_norm, model.hidden_size, post_mlp_norm_);
  if (config_.query_norm) {
    load_norm(checkpoint, *config_.query_norm, model.query_norm_size(config_), query_norm_);
  }
  if (config_.key_norm) load_norm(checkpoint, *config_.key_norm, model.key_norm_size(config_), key_norm_);
  if (config_.norms_values) {
    value_norm_.present = true;
    value_norm_.gain.assign(static_cast<std::size_t>(model.head_size_in(config_)), 1.0f);
  }
}

}  // namespace swiftprune
