// A llama of two blocks with random F16 weights, as a folder, made without any other tool.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"

namespace swiftprune::test {

class TinyLlama {
 public:
  std::string config = R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40,
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "hidden_act": "silu", "tie_word_embeddings": true})";
  std::map<std::string, std::vector<std::int64_t>> shapes;
  std::map<std::string, std::vector<float>> values;
  std::map<std::string, std::string> files = {{"tokenizer.json", "{}"}, {"README.md", "text"}};
  DType dtype = DType::kF16;
  std::uint64_t max_shard_bytes = 1'000'000'000;

  TinyLlama() {
    add("model.embed_tokens.weight", {40, 32});
    for (const std::string block : {"model.layers.0.", "model.layers.1."}) {
      add(block + "self_attn.q_proj.weight", {32, 32}), add(block + "self_attn.k_proj.weight", {16, 32});
      add(block + "self_attn.v_proj.weight", {16, 32}), add(block + "self_attn.o_proj.weight", {32, 32});
      add(block + "mlp.gate_proj.weight", {64, 32}), add(block + "mlp.up_proj.weight", {64, 32});
      add(block + "mlp.down_proj.weight", {32, 64});
      add(block + "input_layernorm.weight", {32}), add(block + "post_attention_layernorm.weight", {32});
    }
    add("model.norm.weight", {32});
  }

  static bool is_linear(const std::string& name) { return name.find("proj") != std::string::npos; }

  void add(const std::string& name, const std::vector<std::int64_t>& shape) {
    std::size_t size = 1;
    for (const std::int64_t extent : shape) size *= static_cast<std::size_t>(extent);
    shapes[name] = shape;
    std::vector<float>& tensor = values[name];
    tensor.resize(size);
    for (float& value : tensor) value = normal_(random_) + (random_() % 2 == 0 ? 3.0f : -3.0f);
  }

  // Zeroes the first m - n of every m weights of every linear.
  void prune(std::size_t n, std::size_t m) {
    for (auto& [name, tensor] : values) {
      for (std::size_t i = 0; is_linear(name) && i < tensor.size(); ++i) {
        if (i % m < m - n) tensor[i] = 0.0f;
      }
    }
  }

  void write(const std::filesystem::path& folder) const {
    std::vector<PlannedTensor> plan;
    for (const auto& [name, shape] : shapes) plan.push_back({name, dtype, shape, ""});
    assign_shards(plan, max_shard_bytes);
    CheckpointWriter writer(folder, plan);
    for (const auto& [name, tensor] : values) writer.write(name, tensor);
    writer.write_file("config.json", config);
    for (const auto& [name, content] : files) writer.write_file(name, content);
    writer.finish();
  }

 private:
  std::mt19937 random_{7};
  std::normal_distribution<float> normal_;
};

}  // namespace swiftprune::test
