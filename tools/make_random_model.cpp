// A checkpoint of a known model's shapes with random weights, for timing where no trained file is at hand:
//   make_random_model llama-2-7b FOLDER [--layers N] [--dtype bf16]
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 22;  // elements that one seed fills
constexpr std::string_view kModels =
    "llama-2-7b, llama-2-70b, llama-3-8b, tinyllama-1.1b, pythia-6.9b or qwen3-30b-a3b";
constexpr double kWeightSize = 0.02;  // standard deviation

struct Shapes {
  nlohmann::ordered_json config;
  std::vector<PlannedTensor> tensors;
};

Shapes llama(std::int64_t layers, std::int64_t vocab, std::int64_t hidden, std::int64_t intermediate,
             std::int64_t heads, std::int64_t kv_heads, double theta, std::int64_t positions) {
  const std::int64_t kv = kv_heads * hidden / heads;
  Shapes shapes;
  shapes.config = {{"architectures", {"LlamaForCausalLM"}},
                   {"model_type", "llama"},
                   {"vocab_size", vocab},
                   {"hidden_size", hidden},
                   {"intermediate_size", intermediate},
                   {"num_hidden_layers", layers},
                   {"num_attention_heads", heads},
                   {"num_key_value_heads", kv_heads},
                   {"max_position_embeddings", positions},
                   {"rms_norm_eps", 1e-5},
                   {"rope_theta", theta},
                   {"hidden_act", "silu"},
                   {"bos_token_id", 1},
                   {"tie_word_embeddings", false}};
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    shapes.tensors.push_back({name, DType::kBF16, std::move(shape), ""});
  };
  add("model.embed_tokens.weight", {vocab, hidden});
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string block = fmt::format("model.layers.{}.", i);
    add(block + "self_attn.q_proj.weight", {hidden, hidden});
    add(block + "self_attn.k_proj.weight", {kv, hidden});
    add(block + "self_attn.v_proj.weight", {kv, hidden});
    add(block + "self_attn.o_proj.weight", {hidden, hidden});
    add(block + "mlp.gate_proj.weight", {intermediate, hidden});
    add(block + "mlp.up_proj.weight", {intermediate, hidden});
    add(block + "mlp.down_proj.weight", {hidden, intermediate});
    add(block + "input_layernorm.weight", {hidden});
    add(block + "post_attention_layernorm.weight", {hidden});
  }
  add("model.norm.weight", {hidden});
  add("lm_head.weight", {vocab, hidden});
  return shapes;
}

Shapes pythia(std::int64_t layers) {
  constexpr std::int64_t kHidden = 4096;
  constexpr std::int64_t kIntermediate = 16384;
  constexpr std::int64_t kVocab = 50432;
  Shapes shapes;
  shapes.config = {{"architectures", {"GPTNeoXForCausalLM"}},
                   {"model_type", "gpt_neox"},
                   {"vocab_size", kVocab},
                   {"hidden_size", kHidden},
                   {"intermediate_size", kIntermediate},
                   {"num_hidden_layers", layers},
                   {"num_attention_heads", 32},
                   {"max_position_embeddings", 2048},
                   {"layer_norm_eps", 1e-5},
                   {"rotary_pct", 0.25},
                   {"rotary_emb_base", 10000},
                   {"use_parallel_residual", true},
                   {"hidden_act", "gelu"},
                   {"bos_token_id", 0},
                   {"tie_word_embeddings", false}};
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    shapes.tensors.push_back({name, DType::kBF16, std::move(shape), ""});
  };
  const auto add_linear = [&](const std::string& name, std::int64_t outputs, std::int64_t inputs) {
    add(name + ".weight", {outputs, inputs});
    add(name + ".bias", {outputs});
  };
  const auto add_norm = [&](const std::string& name) {
    add(name + ".weight", {kHidden});
    add(name + ".bias", {kHidden});
  };
  add("gpt_neox.embed_in.weight", {kVocab, kHidden});
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string block = fmt::format("gpt_neox.layers.{}.", i);
    add_linear(block + "attention.query_key_value", 3 * kHidden, kHidden);
    add_linear(block + "attention.dense", kHidden, kHidden);
    add_linear(block + "mlp.dense_h_to_4h", kIntermediate, kHidden);
    add_linear(block + "mlp.dense_4h_to_h", kHidden, kIntermediate);
    add_norm(block + "input_layernorm");
    add_norm(block + "post_attention_layernorm");
  }
  add_norm("gpt_neox.final_layer_norm");
  add("embed_out.weight", {kVocab, kHidden});
  return shapes;
}

// Every layer has 128 experts of 768 channels.
Shapes qwen3_moe(std::int64_t layers) {
  constexpr std::int64_t kHidden = 2048, kWidth = 768, kExperts = 128, kHead = 128, kVocab = 151936;
  constexpr std::int64_t kAttention = 32 * kHead, kKeys = 4 * kHead;
  Shapes shapes;
  shapes.config = {{"architectures", {"Qwen3MoeForCausalLM"}},
                   {"model_type", "qwen3_moe"},
                   {"vocab_size", kVocab},
                   {"hidden_size", kHidden},
                   {"intermediate_size", 6144},
                   {"moe_intermediate_size", kWidth},
                   {"num_hidden_layers", layers},
                   {"num_attention_heads", 32},
                   {"num_key_value_heads", 4},
                   {"head_dim", kHead},
                   {"num_experts", kExperts},
                   {"num_experts_per_tok", 8},
                   {"norm_topk_prob", true},
                   {"decoder_sparse_step", 1},
                   {"mlp_only_layers", nlohmann::ordered_json::array()},
                   {"max_position_embeddings", 40960},
                   {"rms_norm_eps", 1e-6},
                   {"rope_theta", 1000000.0},
                   {"hidden_act", "silu"},
                   {"bos_token_id", 151643},
                   {"tie_word_embeddings", false}};
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    shapes.tensors.push_back({name + ".weight", DType::kBF16, std::move(shape), ""});
  };
  add("model.embed_tokens", {kVocab, kHidden});
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string block = fmt::format("model.layers.{}.", i);
    add(block + "self_attn.q_proj", {kAttention, kHidden});
    add(block + "self_attn.k_proj", {kKeys, kHidden});
    add(block + "self_attn.v_proj", {kKeys, kHidden});
    add(block + "self_attn.o_proj", {kHidden, kAttention});
    for (const char* norm : {"q_norm", "k_norm"}) add(block + "self_attn." + norm, {kHead});
    add(block + "mlp.gate", {kExperts, kHidden});
    for (std::int64_t e = 0; e < kExperts; ++e) {
      const std::string expert = fmt::format("{}mlp.experts.{}.", block, e);
      for (const char* inner : {"gate_proj", "up_proj"}) add(expert + inner, {kWidth, kHidden});
      add(expert + "down_proj", {kHidden, kWidth});
    }
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) add(block + norm, {kHidden});
  }
  add("model.norm", {kHidden});
  add("lm_head", {kVocab, kHidden});
  return shapes;
}

Shapes shapes_of(const std::string& name, std::int64_t layers) {
  const auto blocks = [&](std::int64_t whole) { return layers > 0 ? layers : whole; };
  if (name == "llama-2-7b") return llama(blocks(32), 32000, 4096, 11008, 32, 32, 10000.0, 4096);
  if (name == "llama-2-70b") return llama(blocks(80), 32000, 8192, 28672, 64, 8, 10000.0, 4096);
  if (name == "llama-3-8b") return llama(blocks(32), 128256, 4096, 14336, 32, 8, 500000.0, 8192);
  if (name == "tinyllama-1.1b") return llama(blocks(22), 32000, 2048, 5632, 32, 4, 10000.0, 2048);
  if (name == "pythia-6.9b") return pythia(blocks(32));
  if (name == "qwen3-30b-a3b") return qwen3_moe(blocks(48));
  bad_usage("MODEL: found '{}', expected {}", name, kModels);
}

// Standard normal values at the middles of 65536 equal shares, rounded to bf16: 16 random bits choose one.
std::vector<std::uint16_t> normal_table() {
  constexpr std::size_t kShares = 65536;
  std::vector<std::uint16_t> table(kShares);
  double x = -5.0;
  for (std::size_t i = 0; i < kShares; ++i) {
    const double wanted = (static_cast<double>(i) + 0.5) / static_cast<double>(kShares);
    for (int step = 0; step < 50; ++step) {  // Newton from the neighbour's value
      const double density = std::exp(-0.5 * x * x) / std::sqrt(2.0 * M_PI);
      const double error = 0.5 * std::erfc(-x / std::sqrt(2.0)) - wanted;
      const double move = std::clamp(-error / std::max(density, 1e-12), -0.5, 0.5);
      x += move;
      if (std::abs(move) < 1e-9) break;
    }
    table[i] = f32_to_bf16(static_cast<float>(kWeightSize * x));
  }
  return table;
}

// splitmix64: one number for each place, so that threads need no order.
std::uint64_t mixed(std::uint64_t state) {
  state += 0x9e3779b97f4a7c15ULL;
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ULL;
  state = (state ^ (state >> 27)) * 0x94d049bb133111ebULL;
  return state ^ (state >> 31);
}

void write_random(CheckpointWriter& writer, const PlannedTensor& tensor, std::uint64_t seed,
                  const std::vector<std::uint16_t>& table) {
  std::int64_t numel = 1;
  for (const std::int64_t extent : tensor.shape) numel *= extent;
  if (tensor.shape.size() == 1) {  // norms keep, biases add nothing
    const bool gain = tensor.name.find("norm") != std::string::npos && tensor.name.ends_with(".weight");
    writer.write(tensor.name, std::vector<float>(static_cast<std::size_t>(numel), gain ? 1.0f : 0.0f));
    return;
  }
  const std::int64_t chunks = (numel + kChunk - 1) / kChunk;
  parallel_for(chunks, 1, [&](std::int64_t first, std::int64_t last) {
    std::vector<std::uint16_t> values(static_cast<std::size_t>(kChunk));
    for (std::int64_t c = first; c < last; ++c) {
      const std::int64_t count = std::min(kChunk, numel - c * kChunk);
      const std::uint64_t base = mixed(seed * 1000003 + static_cast<std::uint64_t>(c));
      for (std::size_t i = 0; i < static_cast<std::size_t>(count); i += 4) {
        const std::uint64_t bits = mixed(base + i);
        for (std::size_t e = 0; e < 4; ++e) values[i + e] = table[(bits >> (16 * e)) & 0xffff];
      }
      writer.write_bytes_part(tensor.name, c * kChunk,
                              std::as_bytes(std::span(values).first(static_cast<std::size_t>(count))));
    }
  });
}

void run(const std::string& name, const std::string& folder, std::int64_t layers, std::uint64_t seed) {
  Shapes shapes = shapes_of(name, layers);
  assign_shards(shapes.tensors, kShardBytes);
  shapes.config["torch_dtype"] = "bfloat16";
  CheckpointWriter writer(folder, shapes.tensors);
  const std::vector<std::uint16_t> table = normal_table();
  for (std::size_t i = 0; i < shapes.tensors.size(); ++i) {
    write_random(writer, shapes.tensors[i], seed + i, table);
  }
  writer.write_file("config.json", shapes.config.dump(2) + "\n");
  writer.finish();
}

}  // namespace
}  // namespace swiftprune

int main(int argc, char** argv) {
  using namespace swiftprune;
  CLI::App app{"Writes a checkpoint of a known model's shapes with random bf16 weights"};
  std::string model;
  std::string folder;
  std::int64_t layers = 0;  // 0: all of the model's
  std::uint64_t seed = 0;
  app.add_option("MODEL", model, std::string(kModels))->required();
  app.add_option("FOLDER", folder, "Folder to write; must not exist or be empty")->required();
  app.add_option("--layers", layers, "Blocks, where not all of the model's")->check(CLI::Range(1, 1024));
  app.add_option("--seed", seed, "Seed of the weights")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    run(model, folder, layers, seed);
  } catch (const Error& error) {
    fmt::print(stderr, "make_random_model: {}\n", error.what());
    return static_cast<int>(error.kind());
  }
}
