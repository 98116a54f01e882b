// Every field of config.json in every family: read, harmless, or refused by name unless it changes nothing.
#include "swiftprune/model/config_fields.h"

#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/expect_error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/family.h"

namespace swiftprune {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// What transformers itself wrote for each family.
json config_of_family(const ModelFamily& family) {
  for (const std::string& name : test::all_model_names()) {
    json config = read_json_file(test::model_folder(name) / "config.json");
    if (&family_for(config) == &family && !config.contains("text_config")) return config;
  }
  ADD_FAILURE() << family.name << " has no fixture";
  return {};
}

std::vector<std::string> words(std::string_view list) {
  std::istringstream stream{std::string(list)};
  return {std::istream_iterator<std::string>(stream), {}};
}

TEST(ConfigFields, WhatTransformersWritesIsKnown) {
  for (const std::string& name : test::all_model_names()) {
    std::vector<std::string> notes;
    model_config(read_json_file(test::model_folder(name) / "config.json"), &notes);
    EXPECT_THAT(notes, testing::IsEmpty()) << name;
  }
}

// A field in a family's list is really read: an object in its place is answered with its name.
TEST(ConfigFields, FieldsOfEachFamilyAreRead) {
  for (const ModelFamily& family : all_families()) {
    for (const std::string& field : words(family.fields)) {
      // Read only beside others: by a rope of version 4, where there is none of version 5, and the like.
      json config = config_of_family(family);
      if (field == "rope_theta" || field == "rope_scaling" || field == "rope_local_base_freq" ||
          field == "rotary_emb_base" || field == "partial_rotary_factor" || field == "rotary_pct") {
        config.erase("rope_parameters");
      }
      if (field == "sliding_window") config["use_sliding_window"] = true, config.erase("layer_types");
      if (!family.name.starts_with("qwen")) config.erase("use_sliding_window");
      if (field == "_sliding_window_pattern") config.erase("sliding_window_pattern");
      config[field] = {{"not", "this"}};
      const auto error = test::error_of([&] { model_config(config); });
      ASSERT_TRUE(error) << family.name << " " << field;
      EXPECT_THAT(std::string(error->what()), HasSubstr(field)) << family.name;
    }
  }
}

TEST(ConfigFields, FieldsThatWouldChangeTheModelAreRefusedByName) {
  for (const ModelFamily& family : all_families()) {
    for (const NeutralField& field : neutral_fields()) {
      if (is_in_list(field.name, family.fields)) continue;
      json config = config_of_family(family);
      config[std::string(field.name)] = "changes";
      const auto error = test::error_of([&] { model_config(config); });
      ASSERT_TRUE(error) << family.name << " " << field.name;
      EXPECT_EQ(error->kind(), ErrorKind::kBadInput);
      EXPECT_THAT(std::string(error->what()),
                  HasSubstr("config.json: field '" + std::string(field.name) + "'"));
      for (const std::string& value : words(field.values)) {
        config[std::string(field.name)] = json::parse(value);
        EXPECT_NO_THROW(model_config(config)) << family.name << " " << field.name << " " << value;
      }
      config[std::string(field.name)] = nullptr;
      EXPECT_NO_THROW(model_config(config)) << family.name << " " << field.name;
    }
  }
}

TEST(ConfigFields, UnknownOnesAreSaid) {
  for (const ModelFamily& family : all_families()) {
    json config = config_of_family(family);
    config["a_field_of_tomorrow"] = 3;
    config["nothing"] = nullptr;
    std::vector<std::string> notes;
    model_config(config, &notes);
    ASSERT_EQ(notes.size(), 1u) << family.name;
    EXPECT_THAT(notes[0], HasSubstr("left aside: \"a_field_of_tomorrow\""));
    EXPECT_THAT(notes[0], testing::Not(HasSubstr("nothing")));
  }
}

TEST(ConfigFields, LayerTypesOfEveryFamily) {
  for (const ModelFamily& family : all_families()) {
    json config = config_of_family(family);
    const ModelConfig model = model_config(config);
    json types = json::array();
    for (const BlockConfig& block : model.blocks)
      types.push_back(block.attention_window > 0 ? "sliding_attention" : "full_attention");
    config["layer_types"] = types;
    EXPECT_NO_THROW(model_config(config)) << family.name;
    config["layer_types"][0] = "chunked_attention";
    test::expect_error(
        ErrorKind::kBadInput, [&] { model_config(config); }, "layer_types", "chunked_attention");
    if (is_in_list("layer_types", family.fields)) continue;
    config["layer_types"][0] = types[0] == "full_attention" ? "sliding_attention" : "full_attention";
    test::expect_error(
        ErrorKind::kBadInput, [&] { model_config(config); }, "layer_types", "attend alike");
  }
}

TEST(ConfigFields, NumbersThatRepeatOthersAreFine) {
  json config = config_of_family(family_for({{"model_type", "opt"}}));
  config["head_dim"] = config["hidden_size"].get<int>() / config["num_attention_heads"].get<int>();
  EXPECT_NO_THROW(model_config(config));
  config["head_dim"] = 1;
  test::expect_error(
      ErrorKind::kBadInput, [&] { model_config(config); }, "head_dim");
}

TEST(ConfigFields, RopeParametersAreKnownToo) {
  json config = config_of_family(family_for({{"model_type", "llama"}}));
  config.erase("rope_parameters");
  const auto expect_bad = [&](const json& rope, const std::string& field) {
    config["rope_scaling"] = rope;
    test::expect_error(
        ErrorKind::kBadInput, [&] { model_config(config); }, "rope_scaling." + field);
  };
  expect_bad({{"rope_type", "dynamic"}, {"factor", 2.0}, {"alpha", 1000}}, "alpha");
  expect_bad({{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}, "partial_rotary_factor");
  expect_bad({{"rope_type", "linear"}, {"factor", 2.0}, {"attention_factor", 1.5}}, "attention_factor");
  config["rope_scaling"] = {
      {"rope_type", "default"}, {"mrope_section", {1, 2}}, {"partial_rotary_factor", 1.0}};
  EXPECT_NO_THROW(model_config(config));
}

TEST(ConfigFields, QuantisedCheckpointsAreRefusedByTheirMethod) {
  json config = config_of_family(family_for({{"model_type", "llama"}}));
  for (const std::string method : {"gptq", "awq", "fp8", "bitsandbytes", "compressed-tensors", "mxfp4"}) {
    config["quantization_config"] = {{"quant_method", method}};
    test::expect_error(
        ErrorKind::kBadInput, [&] { model_config(config); }, "quantised by \"" + method + "\"",
        "quantization_config");
  }
  json nested = read_json_file(test::model_folder("gemma3_with_vision") / "config.json");
  nested["text_config"]["quantization_config"] = {{"bits", 4}};
  test::expect_error(
      ErrorKind::kBadInput, [&] { model_config(nested); }, "text_config.quantization_config",
      "unnamed method");
}

TEST(ConfigFields, CodeOfTheFolderIsNotRun) {
  const json map = {{"AutoConfig", "configuration_x.XConfig"},
                    {"AutoModelForCausalLM", "modeling_x.XForCausalLM"}};
  test::expect_error(
      ErrorKind::kBadInput,
      [&] {
        model_config({{"model_type", "x"}, {"auto_map", map}});
      },
      "field 'model_type': found 'x'",
      "code of its own (auto_map: \"modeling_x.XForCausalLM\"), which is not run");
  json config = config_of_family(family_for({{"model_type", "phi3"}}));
  config["auto_map"] = map;
  std::vector<std::string> notes;
  model_config(config, &notes);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_THAT(notes[0], HasSubstr("is not run: the model is computed as transformers' phi3"));
}

}  // namespace
}  // namespace swiftprune
