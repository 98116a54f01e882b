// config.json: what absent and null fields mean in each family, and what every wrong field answers.
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/tiny_llama.h"
#include "swiftprune/checkpoint/config_file.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/model.h"

namespace swiftprune {
namespace {

using nlohmann::json;
using test::config_of;
using test::kModels;

// The fields that must be there, and one head of 128 so that the defaults of all families fit.
json minimal(const std::string& model_type) {
  return {{"model_type", model_type},
          {"vocab_size", 64},
          {"hidden_size", 4096},
          {"intermediate_size", 8},
          {"num_hidden_layers", 30},
          {"num_attention_heads", 32},
          {"ffn_dim", 8}};
}

json with(json config, const std::string& key, json value) {
  config[key] = std::move(value);
  return config;
}

std::vector<std::int64_t> windows_of(const ModelConfig& model) {
  std::vector<std::int64_t> windows;
  for (const BlockConfig& block : model.blocks) windows.push_back(block.attention_window);
  return windows;
}

TEST(Defaults, OfTheConfigurationClasses) {
  struct Case {
    const char* model_type;
    std::int64_t max_positions, num_kv_heads, head_size;
    float norm_eps;
    bool tied;
    Activation activation;
  };
  const Case cases[] = {
      {"llama", 2048, 32, 128, 1e-6f, false, Activation::kSilu},
      {"mistral", 131072, 8, 128, 1e-6f, false, Activation::kSilu},
      {"qwen2", 32768, 32, 128, 1e-6f, false, Activation::kSilu},
      {"qwen3", 32768, 32, 128, 1e-6f, false, Activation::kSilu},
      {"gemma2", 8192, 4, 256, 1e-6f, true, Activation::kGeluTanh},
      {"gemma3_text", 131072, 4, 256, 1e-6f, true, Activation::kGeluTanh},
      {"gpt_neox", 2048, 32, 128, 1e-5f, false, Activation::kGelu},
      {"phi3", 4096, 32, 128, 1e-5f, false, Activation::kSilu},
      {"opt", 2048, 32, 128, 1e-5f, true, Activation::kRelu},
  };
  for (const Case& c : cases) {
    const ModelConfig model = model_config(minimal(c.model_type));
    EXPECT_EQ(model.max_positions, c.max_positions) << c.model_type;
    EXPECT_EQ(model.num_kv_heads, c.num_kv_heads) << c.model_type;
    EXPECT_EQ(model.head_size, c.head_size) << c.model_type;
    EXPECT_EQ(model.norm_eps, c.norm_eps) << c.model_type;
    EXPECT_EQ(model.head == model.embedding, c.tied) << c.model_type;
    EXPECT_EQ(model.activation, c.activation) << c.model_type;
    EXPECT_EQ(model.num_layers(), 30) << c.model_type;
  }
}

TEST(Defaults, NullHeadsMeanNoGrouping) {
  for (const char* type : {"llama", "mistral", "qwen2", "phi3"})
    EXPECT_EQ(model_config(with(minimal(type), "num_key_value_heads", nullptr)).num_kv_heads, 32) << type;
}

TEST(Defaults, Bias) {
  const auto biases = [](const json& config) {
    std::vector<bool> result;
    for (const LinearTensors& linear : linears_of(model_config(config).blocks[0]))
      result.push_back(linear.bias);
    return result;
  };
  using Flags = std::vector<bool>;
  EXPECT_EQ(biases(minimal("llama")), Flags(7, false));
  EXPECT_EQ(biases(with(minimal("llama"), "attention_bias", true)), (Flags{1, 1, 1, 1, 0, 0, 0}));
  EXPECT_EQ(biases(with(minimal("llama"), "mlp_bias", true)), (Flags{0, 0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(biases(minimal("qwen2")), (Flags{1, 1, 1, 0, 0, 0, 0}));
  EXPECT_EQ(biases(minimal("qwen3")), Flags(7, false));
  EXPECT_EQ(biases(with(minimal("qwen3"), "attention_bias", true)), (Flags{1, 1, 1, 1, 0, 0, 0}));
  EXPECT_EQ(biases(with(minimal("gemma3_text"), "attention_bias", true)), (Flags{1, 1, 1, 1, 0, 0, 0}));
  EXPECT_EQ(biases(minimal("gpt_neox")), Flags(4, true));
  EXPECT_EQ(biases(with(minimal("gpt_neox"), "attention_bias", false)), (Flags{0, 0, 1, 1}));
  EXPECT_EQ(biases(minimal("phi3")), Flags(4, false));
  EXPECT_EQ(biases(minimal("opt")), Flags(6, true));
  EXPECT_EQ(biases(with(minimal("opt"), "enable_bias", false)), Flags(6, false));
}

TEST(SlidingWindow, AbsentNullAndGiven) {
  using Windows = std::vector<std::int64_t>;
  EXPECT_EQ(windows_of(model_config(minimal("mistral"))), Windows(30, 4096));
  EXPECT_EQ(windows_of(model_config(with(minimal("mistral"), "sliding_window", nullptr))), Windows(30, 0));
  EXPECT_EQ(windows_of(model_config(with(minimal("mistral"), "sliding_window", 7))), Windows(30, 7));
  EXPECT_EQ(windows_of(model_config(minimal("phi3"))), Windows(30, 0));
  EXPECT_EQ(windows_of(model_config(with(minimal("phi3"), "sliding_window", 7))), Windows(30, 7));
  EXPECT_EQ(windows_of(model_config(minimal("llama"))), Windows(30, 0));

  for (const char* type : {"qwen2", "qwen3"}) {
    json config = with(minimal(type), "sliding_window", 7);
    EXPECT_EQ(windows_of(model_config(config)), Windows(30, 0)) << "use_sliding_window is false by default";
    config["use_sliding_window"] = true;
    Windows last_two(30, 0);
    last_two[28] = last_two[29] = 7;
    EXPECT_EQ(windows_of(model_config(config)), last_two);
    config["max_window_layers"] = 0;
    EXPECT_EQ(windows_of(model_config(config)), Windows(30, 7));
    config["num_hidden_layers"] = 2;
    config["layer_types"] = {"sliding_attention", "full_attention"};
    EXPECT_EQ(windows_of(model_config(config)), (Windows{7, 0}));
    const auto expect_off = [&](const json& off, const char* field) {
      test::expect_error(ErrorKind::kBadInput, [&] { model_config(off); }, {"'layer_types'", field});
    };
    expect_off(with(config, "sliding_window", nullptr), "sliding_window is off");
    expect_off(with(config, "use_sliding_window", false), "use_sliding_window is off");
  }
}

TEST(SlidingWindow, GemmaAlternates) {
  using Windows = std::vector<std::int64_t>;
  const auto of = [](const char* type, const char* key, json value) {
    return windows_of(model_config(with(with(minimal(type), "num_hidden_layers", 4), key, std::move(value))));
  };
  EXPECT_EQ(of("gemma2", "sliding_window", 7), (Windows{7, 0, 7, 0}));
  EXPECT_EQ(of("gemma3_text", "sliding_window", 7), (Windows{7, 7, 7, 7}));
  EXPECT_EQ(of("gemma3_text", "sliding_window_pattern", 2), (Windows{4096, 0, 4096, 0}));
  EXPECT_EQ(of("gemma3_text", "_sliding_window_pattern", 3), (Windows{4096, 4096, 0, 4096}));
  const ModelConfig model = model_config(with(minimal("gemma3_text"), "num_hidden_layers", 6));
  EXPECT_EQ(model.blocks[4].rope, 0);
  EXPECT_EQ(model.blocks[5].rope, 1);
  EXPECT_FLOAT_EQ(model.ropes[0].inverse_frequency[1], std::pow(1e4f, -2.0f / 256.0f));
  EXPECT_FLOAT_EQ(model.ropes[1].inverse_frequency[1], std::pow(1e6f, -2.0f / 256.0f));
}

TEST(Gemma, CapsAndScales) {
  const ModelConfig absent = model_config(minimal("gemma2"));
  EXPECT_EQ(absent.attention_softcap, 50.0f);
  EXPECT_EQ(absent.final_softcap, 30.0f);
  EXPECT_EQ(absent.attention_scale, 1.0f / 16.0f);
  EXPECT_EQ(absent.embedding_scale, 64.0f);
  EXPECT_EQ(absent.norm_gain_offset, 1.0f);
  const json null_caps =
      with(with(minimal("gemma2"), "attn_logit_softcapping", nullptr), "final_logit_softcapping", nullptr);
  EXPECT_EQ(model_config(null_caps).attention_softcap, 0.0f);
  EXPECT_EQ(model_config(null_caps).final_softcap, 0.0f);
  EXPECT_EQ(model_config(minimal("gemma3_text")).final_softcap, 0.0f);
}

// A rope_theta beside the layers' own is that of full layers (transformers 5.24).
TEST(Olmo3, BasesOfBothKindsOfLayers) {
  const auto bases = [](const json& config) {
    std::vector<float> second;
    for (const RopeConfig& rope : model_config(config).ropes) second.push_back(rope.inverse_frequency[1]);
    return second;
  };
  json config = config_of("olmo3");
  config.erase("rope_parameters");
  config.erase("rope_scaling");
  config.erase("rope_theta");
  const auto frequency = [&](float theta) {
    return std::pow(theta, -2.0f / static_cast<float>(model_config(config).head_size));
  };
  const auto near = [](float value) { return ::testing::FloatEq(value); };
  EXPECT_THAT(bases(config), ::testing::ElementsAre(near(frequency(5e5f)), near(frequency(5e5f))));
  config["rope_theta"] = 1e4;
  EXPECT_THAT(bases(config), ::testing::ElementsAre(near(frequency(5e5f)), near(frequency(1e4f))));
  config["rope_parameters"] = {{"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 1e3}}}};
  EXPECT_THAT(bases(config), ::testing::ElementsAre(near(frequency(1e3f)), near(frequency(1e4f))));
  config["rope_parameters"]["full_attention"] = {{"rope_type", "default"}, {"rope_theta", 1e5}};
  EXPECT_THAT(bases(config), ::testing::ElementsAre(near(frequency(1e3f)), near(frequency(1e5f))));
}

// The names that these fields had before, which transformers takes before today's.
TEST(NemotronH, OlderNamesOfTheMixersFields) {
  json config = config_of("nemotron_h");
  config["mamba_dt_min"] = 0.25;
  config["mamba_n_groups"] = 3;
  config["mamba_d_conv"] = 2;
  config["mamba_conv_bias"] = false;
  const auto mixer = std::get<Mamba2>(*model_config(config).blocks[0].recurrent);
  EXPECT_EQ(mixer.least_step, 0.25f);
  EXPECT_EQ(mixer.groups, 3);
  EXPECT_EQ(mixer.convolution.taps, 2);
  EXPECT_EQ(mixer.convolution.bias, "");
}

TEST(Olmo, AnAbsentClipIsNone) {
  for (const char* type : {"olmo", "olmoe"}) {
    json config = minimal(type);
    config["num_experts"] = config["num_experts_per_tok"] = 2;
    if (std::string_view(type) == "olmo") {
      config.erase("num_experts");
      config.erase("num_experts_per_tok");
    }
    EXPECT_EQ(model_config(config).qkv_clip, 0.0f) << type;
  }
}

TEST(SlidingWindow, NullIsRefusedWhereTransformersRaises) {
  for (const char* name : {"gemma2", "gemma3_text", "gemma4", "olmo3", "cohere2", "ministral"}) {
    test::expect_error(
        ErrorKind::kBadInput, [&] { model_config(with(config_of(name), "sliding_window", nullptr)); },
        "'sliding_window'", "found null");
  }
}

// transformers' class scales as Llama 3.1 where the file says nothing.
TEST(Apertus, ScalesItsRotationByDefault) {
  json config = config_of("apertus");
  config.erase("rope_parameters");
  const RopeConfig found = model_config(config).ropes[0];
  config["rope_parameters"] = {{"rope_type", "llama3"},   {"rope_theta", 12e6},
                               {"factor", 8.0},           {"low_freq_factor", 1.0},
                               {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
  EXPECT_EQ(found.inverse_frequency, model_config(config).ropes[0].inverse_frequency);
}

TEST(Opt, LearnedPositionsAndFinalNorm) {
  const ModelConfig model = model_config(minimal("opt"));
  EXPECT_EQ(model.position_table, "model.decoder.embed_positions.weight");
  EXPECT_EQ(model.position_offset, 2);
  EXPECT_EQ(model.blocks[0].rope, -1);
  EXPECT_TRUE(model.final_norm);
  EXPECT_FALSE(model_config(with(minimal("opt"), "_remove_final_layer_norm", true)).final_norm);
}

// As transformers 4 wrote them: a number that JSON has not.
TEST(Defaults, BareInfinityIsReadAndWrittenAsTransformers5DoesIt) {
  const test::TempDir dir;
  const auto folder = dir.path() / "m";
  std::filesystem::create_directory(folder);
  std::filesystem::copy(kModels / "granite4_mamba" / "model.safetensors", folder);
  std::string text = config_of("granite4_mamba").dump();
  const std::string spelled = R"({"__float__":"Infinity"})";
  ASSERT_NE(text.find(spelled), std::string::npos);
  text.replace(text.find(spelled), spelled.size(), "Infinity");
  test::write_text(folder / "config.json", text);
  const auto model = Model::open(folder);
  EXPECT_TRUE(model->config().has_recurrent_blocks());
  const json written = json::parse(read_config_file(model->checkpoint()).dump());
  EXPECT_EQ(written.at("time_step_limit"), json::parse(R"([0.0, {"__float__": "Infinity"}])"));
  test::write_text(folder / "config.json", "{\"name\": \"Infinity\", \"x\": }");
  test::expect_error(
      ErrorKind::kBadInput, [&] { Model::open(folder); }, "config.json");
}

// Bases of the classes, where the file has none.
TEST(TextTowers, QwenVlHasItsOwnBase) {
  for (const auto& [name, theta] : {std::pair{"qwen2_5_vl", 1e6f}, {"qwen3_vl", 5e5f}, {"qwen3", 1e4f}}) {
    json config = config_of(name);
    json& text = config.contains("text_config") ? config["text_config"] : config;
    text.erase("rope_theta");
    text.erase("rope_parameters");
    const ModelConfig model = model_config(config);
    EXPECT_FLOAT_EQ(model.ropes[0].inverse_frequency[1],
                    std::pow(theta, -2.0f / static_cast<float>(model.head_size)))
        << name;
  }
}

// Before transformers 4.52 Qwen2-VL had its text model's fields among its own.
TEST(TextTowers, QwenVlWithoutATextConfig) {
  const json nested = config_of("qwen2_5_vl");
  json flat = nested.at("text_config");
  flat["model_type"] = "qwen2_5_vl";
  flat["vision_config"] = nested.at("vision_config");
  flat["rope_scaling"] = {{"type", "mrope"}, {"mrope_section", {1, 1, 1}}};
  flat["rope_theta"] = flat["rope_parameters"]["rope_theta"];
  flat.erase("rope_parameters");
  const ModelConfig model = model_config(flat), expected = model_config(nested);
  EXPECT_EQ(model.family, "qwen2");
  EXPECT_EQ(model.embedding, expected.embedding);
  EXPECT_EQ(model.ropes[0].inverse_frequency, expected.ropes[0].inverse_frequency);
}

TEST(ModelInput, TokenOutsideTheVocabularyAndTooManyPositions) {
  const auto model = Model::open(kModels / "llama2");
  Matrix hidden(2, model->config().row_size());
  for (const std::int32_t id : {64, -1, 2147483647}) {
    test::expect_error(
        ErrorKind::kBadInput,
        [&] {
          model->embed(std::vector<std::int32_t>{1, id}, 2, 0, hidden.view());
        },
        "token 1", "vocab_size 64");
  }
  model->check_length(64, "--seqlen");
  test::expect_error(ErrorKind::kUsage, [&] { model->check_length(65, "--seqlen"); },
                     {"--seqlen", "65", "at most 64"});
}

// A head of its own in a file whose config.json ties it to the embedding.
TEST(OwnHead, IsUsedWhereItDiffers) {
  const test::TempDir dir;
  test::TinyLlama tiny;
  tiny.add("lm_head.weight", {40, 32});
  tiny.write(dir.path() / "differs");
  tiny.values["lm_head.weight"] = tiny.values["model.embed_tokens.weight"];
  tiny.write(dir.path() / "equal");
  const auto differs = Model::open(dir.path() / "differs"), equal = Model::open(dir.path() / "equal");
  EXPECT_EQ(differs->config().head, "lm_head.weight");
  ASSERT_EQ(differs->notes().size(), 1u);
  EXPECT_THAT(differs->notes()[0], testing::HasSubstr("lm_head.weight differs from the embedding"));
  EXPECT_EQ(equal->config().head, "model.embed_tokens.weight");
  EXPECT_TRUE(equal->notes().empty());
}

// As a folder that was saved as a family with biases and is read as one without.
TEST(UnusedParts, AreSaid) {
  const test::TempDir dir;
  test::TinyLlama tiny;
  tiny.write(dir.path() / "plain");
  for (const std::string block : {"model.layers.0.", "model.layers.1."})
    tiny.add(block + "self_attn.q_proj.bias", {32});
  tiny.add("model.layers.0.self_attn.rotary_emb.inv_freq", {4});  // a buffer that nobody needs
  tiny.write(dir.path() / "biased");
  EXPECT_TRUE(Model::open(dir.path() / "plain")->notes().empty());
  const auto biased = Model::open(dir.path() / "biased");
  ASSERT_EQ(biased->notes().size(), 1u);
  EXPECT_THAT(biased->notes()[0], testing::HasSubstr("2 tensors belong to linears that have no such part"));
  EXPECT_THAT(biased->notes()[0], testing::HasSubstr("model.layers.0.self_attn.q_proj.bias"));
}

}  // namespace
}  // namespace swiftprune
