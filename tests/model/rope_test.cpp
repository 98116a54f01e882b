// Tables of cos and sin of every rope type against transformers' (tests/data/model/ropes.json).
#include "swiftprune/model/rope.h"

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/expect_error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/family.h"

namespace swiftprune {
namespace {

// An angle of 2048 radians is a float exact to 1.2e-4; transformers' frequencies differ from ours by at most
// one bit.
constexpr double kRopeTolerance = 2.5e-4;

TEST(Rope, EveryTypeAgreesWithTransformers) {
  const nlohmann::json cases = read_json_file(test::kModels / "ropes.json");
  ASSERT_GE(cases.size(), 12u);
  for (const nlohmann::json& c : cases) {
    const ModelConfig model = model_config(c.at("config"));
    ASSERT_EQ(model.ropes.size(), c.at("tables").size());
    for (std::size_t t = 0; t < model.ropes.size(); ++t) {
      const RopeTable table = make_rope_table(model.ropes[t], c.at("seqlen"));
      for (const auto& [part, found] : {std::pair{"cos", &table.cos}, std::pair{"sin", &table.sin}}) {
        const nlohmann::json& rows = c.at("tables")[t].at(part);
        for (std::size_t i = 0; i < rows.size(); ++i) {
          const std::int64_t position = c.at("positions")[i];
          const auto expected = rows[i].get<std::vector<float>>();
          ASSERT_EQ(static_cast<std::int64_t>(expected.size()), found->cols()) << c.at("name");
          for (std::int64_t pair = 0; pair < found->cols(); ++pair) {
            EXPECT_NEAR(found->at(position, pair), expected[static_cast<std::size_t>(pair)], kRopeTolerance)
                << c.at("name") << " " << part << " position " << position << " pair " << pair;
          }
        }
      }
    }
  }
}

RopeConfig rope_of(const char* parameters, const RopeOptions& options) {
  const nlohmann::json config = {{"rope_scaling", nlohmann::json::parse(parameters)}};
  return read_rope(ConfigReader(config), options);
}

constexpr RopeOptions kFour{.rotary_size = 4, .max_positions = 64};

TEST(Rope, FrequenciesByHand) {
  EXPECT_EQ(plain_rope(kFour).inverse_frequency, (std::vector<float>{1.0f, 0.01f}));
  EXPECT_EQ(rope_of(R"({"rope_type": "linear", "factor": 2, "rope_theta": 16})", kFour).inverse_frequency,
            (std::vector<float>{0.5f, 0.125f}));
  // An odd size counts one more pair, with exponents of the odd size.
  EXPECT_EQ(plain_rope({.rotary_size = 1, .max_positions = 64}).inverse_frequency.size(), 1u);
}

// transformers moves the field into the object, over what is there.
TEST(Rope, OriginalPositionsBesideTheObjectCountFirst) {
  for (const char* scaling :
       {R"({"rope_type": "yarn", "factor": 4})",
        R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4})",
        R"({"rope_type": "longrope", "short_factor": [1, 2], "long_factor": [2, 4]})"}) {
    nlohmann::json config = {{"rope_scaling", nlohmann::json::parse(scaling)}};
    config["rope_scaling"]["original_max_position_embeddings"] = 16;
    const RopeConfig inside = read_rope(ConfigReader(config), kFour);
    config["rope_scaling"]["original_max_position_embeddings"] = 48;
    config["original_max_position_embeddings"] = 16;
    const RopeConfig beside = read_rope(ConfigReader(config), kFour);
    EXPECT_EQ(beside.inverse_frequency, inside.inverse_frequency) << scaling;
    EXPECT_EQ(beside.long_from, inside.long_from) << scaling;
  }
  // Rotations of each layer type have their own.
  nlohmann::json layered = read_json_file(test::model_folder("gemma3_text_v5") / "config.json");
  layered["original_max_position_embeddings"] = 16;
  test::expect_error(
      ErrorKind::kBadInput, [&] { model_config(layered); }, "original_max_position_embeddings");
}

TEST(Rope, OlderSpellings) {
  const char* with_type = R"({"type": "su", "short_factor": [1, 2], "long_factor": [2, 4]})";
  const char* with_rope_type = R"({"rope_type": "longrope", "short_factor": [1, 2], "long_factor": [2, 4]})";
  const RopeOptions options{.rotary_size = 4, .max_positions = 64, .original_positions = 16};
  const RopeConfig a = rope_of(with_type, options);
  const RopeConfig b = rope_of(with_rope_type, options);
  EXPECT_EQ(a.inverse_frequency, b.inverse_frequency);
  EXPECT_EQ(a.long_inverse_frequency, b.long_inverse_frequency);
  EXPECT_EQ(a.long_from, 16);
  EXPECT_EQ(make_rope_table(a, 16).cos.at(1, 0), static_cast<float>(std::cos(1.0) * a.magnitude));
  EXPECT_EQ(make_rope_table(a, 17).cos.at(1, 0), static_cast<float>(std::cos(0.5) * a.magnitude));
}

TEST(Rope, OlderFieldWinsAsInTransformers) {
  const nlohmann::json config = nlohmann::json::parse(
      R"({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_type": "default"}})");
  EXPECT_EQ(read_rope(ConfigReader(config), kFour).inverse_frequency[0], 0.5f);
}

TEST(Rope, BadParameters) {
  struct Case {
    const char* parameters;
    std::vector<std::string> texts;
  };
  const Case cases[] = {
      {R"({"rope_type": "spiral"})", {"rope_scaling.rope_type", "'spiral'", "llama3"}},
      {R"({"type": "spiral"})", {"rope_scaling.type", "'spiral'"}},
      {R"({"rope_type": 3})", {"rope_scaling.rope_type", "found 3"}},
      {R"({"rope_type": "linear"})", {"rope_scaling.factor", "absent"}},
      {R"({"rope_type": "linear", "factor": 0})", {"rope_scaling.factor", "found 0"}},
      {R"({"rope_type": "linear", "factor": 1e-44})", {"rope_scaling.rope_type", "finite"}},
      {R"({"rope_type": "linear", "factor": 1e-300})", {"rope_scaling.factor", "found 1e-300", "positive"}},
      {R"({"rope_type": "dynamic"})", {"rope_scaling.factor", "absent"}},
      {R"({"rope_type": "default", "rope_theta": -1})", {"rope_scaling.rope_theta", "found -1"}},
      {R"({"rope_type": "yarn", "factor": 2, "rope_theta": 1})", {"rope_scaling.rope_theta", "more than 1"}},
      {R"({"rope_type": "yarn", "factor": 2, "beta_fast": 0})", {"rope_scaling.beta_fast", "found 0"}},
      {R"({"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 0})",
       {"rope_scaling.original_max_position_embeddings", "found 0"}},
      {R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4})",
       {"rope_scaling.high_freq_factor", "low_freq_factor"}},
      {R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1})",
       {"rope_scaling.high_freq_factor", "absent"}},
      {R"({"rope_type": "longrope", "long_factor": [1, 1]})", {"rope_scaling.short_factor"}},
      {R"({"rope_type": "longrope", "short_factor": [1], "long_factor": [1, 1]})",
       {"rope_scaling.short_factor", "found 1", "expected 2"}},
      {R"({"rope_type": "longrope", "short_factor": [1, 1], "long_factor": [1, -1]})",
       {"rope_scaling.long_factor", "found -1 at 1"}},
      {R"({"rope_type": "longrope", "short_factor": [1, 1], "long_factor": [1, "a"]})",
       {"rope_scaling.long_factor", "found \"a\" at 1"}},
      {R"({"rope_type": "longrope", "short_factor": [1, 1], "long_factor": [1, 1],
           "original_max_position_embeddings": 1})",
       {"rope_scaling.original_max_position_embeddings", "found 1"}},
      {R"({"full_attention": {"rope_type": "default"}})", {"rope_scaling.full_attention", "layer type"}},
      {"5", {"rope_scaling", "expected an object"}},
  };
  for (const Case& c : cases) {
    const auto error = test::error_of([&] { rope_of(c.parameters, kFour); });
    ASSERT_TRUE(error) << c.parameters;
    EXPECT_EQ(error->kind(), ErrorKind::kBadInput);
    EXPECT_THAT(error->what(), ::testing::StartsWith("config.json: field 'rope_scaling"));
    for (const std::string& text : c.texts) EXPECT_THAT(error->what(), ::testing::HasSubstr(text));
  }
}

TEST(Rope, RotarySizeOfAFraction) {
  const auto size = [](const char* config, std::int64_t head_size) {
    const nlohmann::json fields = nlohmann::json::parse(config);
    return read_rotary_size(ConfigReader(fields), head_size, "rotary_pct", 0.25);
  };
  EXPECT_EQ(size("{}", 64), 16);
  EXPECT_EQ(size(R"({"rotary_pct": 0.5})", 64), 32);
  EXPECT_EQ(size(R"({"rotary_pct": 0.5, "rope_parameters": {"partial_rotary_factor": 1.0}})", 64), 64);
  EXPECT_EQ(size(R"({"rotary_pct": 0.65})", 8), 5);
  test::expect_error(
      ErrorKind::kBadInput, [&] { size(R"({"rotary_pct": 1.5})", 64); }, "rotary_pct", "1.5");
  test::expect_error(
      ErrorKind::kBadInput, [&] { size(R"({"rotary_pct": 0.01})", 64); }, "rotary_pct");
  test::expect_error(
      ErrorKind::kBadInput, [&] { size(R"({"rotary_pct": 1})", 9); }, "rotary_pct", "9");
}

}  // namespace
}  // namespace swiftprune
