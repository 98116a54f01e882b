// Models with experts through the program: pruned, put on grids, packed, and run.
#include <fstream>
#include <set>

#include <nlohmann/json.hpp>

#include "cli/program.h"

namespace swiftprune {
namespace {

using test::Finished;
namespace fs = std::filesystem;
using ::testing::HasSubstr;

class ExpertsProgram : public test::ProgramTest {
 protected:
  static std::string dense(const std::string& name) { return test::kExpertModels / name; }
  std::vector<std::string> calibrated(std::vector<std::string> arguments) {
    for (const char* more : {"--windows", "4", "--seqlen", "32", "--ids"}) arguments.emplace_back(more);
    arguments.push_back(ids(400));
    return arguments;
  }
  double perplexity(const std::string& folder) {
    const Finished result = run({"eval", folder, "--ids", ids(400), "--seqlen", "32", "--json"});
    EXPECT_EQ(result.exit_code, 0) << result.error;
    return nlohmann::json::parse(result.out).at("perplexity").get<double>();
  }
};

TEST_F(ExpertsProgram, ArePrunedAndVerified) {
  for (const char* family : {"qwen3_moe_fused", "gpt_oss", "deepseek_v3"}) {
    for (const char* method : {"best", "magnitude"}) {
      SCOPED_TRACE(std::string(family) + " " + method);
      const std::string out = at(std::string(family) + method);
      const Finished result = run(
          calibrated({"prune", dense(family), "-o", out, "--method", method, "--min-expert-tokens", "20"}));
      ASSERT_EQ(result.exit_code, 0) << result.error;
      const auto record = nlohmann::json::parse(test::read_text(out + "/swiftprune.json"));
      EXPECT_FALSE(record.at("experts").at("never_pruned").empty());
      if (std::string(method) != "magnitude") {
        EXPECT_THAT(result.out, HasSubstr("by the tokens that were sent to them"));
        for (const auto& layer : record.at("experts").at("layers")) {
          for (std::size_t e = 0; e < layer.at("tokens").size(); ++e) {
            const auto& pooled = layer.at("from_all_tokens");
            EXPECT_EQ(std::find(pooled.begin(), pooled.end(), e) != pooled.end(),
                      layer.at("tokens")[e].get<int>() < 20);
          }
        }
      }
      const Finished verified = run({"verify", dense(family), out});
      EXPECT_EQ(verified.exit_code, 0) << verified.out << verified.error;
      EXPECT_GT(perplexity(out), 1.0);
      // Experts in one tensor count one by one.
      if (std::string(family) == "deepseek_v3") continue;
      const auto inspected = nlohmann::json::parse(run({"inspect", out, "--json"}).out);
      EXPECT_EQ(inspected.at("block_linears").at("count"), record.at("tensors").size());
      EXPECT_NEAR(inspected.at("block_linears").at("sparsity").get<double>(),
                  record.at("sparsity").get<double>(), 1e-9);
    }
  }
}

// Every form of experts in a packed model, which runs, and back again.
TEST_F(ExpertsProgram, ArePackedRunAndUnpacked) {
  for (const char* family : {"qwen3_moe_fused", "gpt_oss", "mixtral"}) {
    for (const char* pattern : {"row", "2:4"}) {
      SCOPED_TRACE(std::string(family) + " " + pattern);
      const std::string out = at(std::string(family) + pattern), packed = out + ".packed",
                        back = out + ".back";
      ASSERT_EQ(run({"prune", dense(family), "-o", out, "--method", "magnitude", "--pattern", pattern,
                     "--skip", "*self_attn*"})
                    .exit_code,
                0);
      const Finished result = run({"pack", out, "-o", packed, "--json"});
      ASSERT_EQ(result.exit_code, 0) << result.error;
      const auto report = nlohmann::json::parse(result.out);
      EXPECT_LT(report.at("ratio").get<double>(),
                1.3);  // panels of 16 rows are filled up in models this small
      const double expected = perplexity(out);
      EXPECT_NEAR(perplexity(packed), expected, 1e-2 * expected);
      ASSERT_EQ(run({"unpack", packed, "-o", back}).exit_code, 0);
      EXPECT_NEAR(perplexity(back), expected, 1e-6 * expected);
      if (std::string(family) != "qwen3_moe_fused") {
        const Finished verified = run({"verify", dense(family), back});
        EXPECT_EQ(verified.exit_code, 0) << verified.out << verified.error;
      }
      EXPECT_TRUE(hidden_files().empty());
    }
  }
}

TEST_F(ExpertsProgram, MXFP4IsExpanded) {
  ASSERT_EQ(run({"unpack", dense("gpt_oss_mxfp4"), "-o", at("bf16")}).exit_code, 0);
  EXPECT_EQ(test::read_text(at("bf16/config.json")).find("quantization_config"), std::string::npos);
  const double expected = perplexity(dense("gpt_oss_mxfp4"));
  EXPECT_NEAR(perplexity(at("bf16")), expected, 1e-6 * expected);
  ASSERT_EQ(run(calibrated({"prune", at("bf16"), "-o", at("pruned"), "--method", "wanda"})).exit_code, 0);
  EXPECT_EQ(run({"verify", at("bf16"), at("pruned")}).exit_code, 0);
  expect_refused({"unpack", at("bf16"), "-o", at("out")}, 3, "not packed");
}

// Experts go, then weights, then bits; what is left runs.
TEST_F(ExpertsProgram, ChainOfExpertsWeightsBitsAndGeneration) {
  const std::string moe = at("moe");
  std::filesystem::copy(dense("qwen3_moe"), moe, std::filesystem::copy_options::recursive);
  write_tokenizer(moe);
  const auto must = [&](const std::vector<std::string>& arguments) {
    const Finished result = run(arguments);
    EXPECT_EQ(result.exit_code, 0) << arguments.front() << ": " << result.error;
    return result.out;
  };
  must(calibrated({"shrink", moe, "-o", at("fewer"), "--units", "experts", "--experts", "4"}));
  must(calibrated({"prune", at("fewer"), "-o", at("sparse"), "--pattern", "2:4", "--method", "wanda"}));
  must({"verify", at("fewer"), at("sparse")});
  must(calibrated({"quantize", at("sparse"), "-o", at("grid"), "--quantize", "int4", "--group", "row"}));
  must(calibrated({"prune", at("fewer"), "-o", at("both"), "--quantize", "int8", "--group", "row"}));
  must({"pack", at("sparse"), "-o", at("packed")});
  must({"pack", at("fewer"), "-o", at("packed8"), "--quantize", "int8"});
  EXPECT_NEAR(perplexity(at("packed")), perplexity(at("sparse")), 1e-2 * perplexity(at("sparse")));
  for (const char* name : {"packed", "packed8", "grid", "both"}) {
    const std::string out =
        must({"generate", at(name), "--prompt", "an expert", "--max-tokens", "5", "--json"});
    EXPECT_EQ(nlohmann::json::parse(out).at("tokens"), 5) << name;
    must({"bench", at(name), "--decode", "4", "--prompt", "8", "--batch", "1", "--rounds", "1", "--json"});
    EXPECT_GT(perplexity(at(name)), 1.0);
  }
  const Finished inspected = run({"inspect", at("sparse")});
  EXPECT_THAT(inspected.out, HasSubstr("2:4"));
  EXPECT_THAT(inspected.out, HasSubstr("tokens an expert"));
  EXPECT_THAT(run({"inspect", at("fewer"), "--json"}).out, HasSubstr("\"entropy\""));
  // Zeros of experts count where models are compared, and a pilot tries them.
  const Finished compared =
      run({"compare", moe, at("sparse"), "--ids", ids(400), "--seqlen", "32", "--json"});
  ASSERT_EQ(compared.exit_code, 0) << compared.error;
  EXPECT_NEAR(nlohmann::json::parse(compared.out).at("models")[1].at("sparsity").get<double>(), 0.5, 1e-6);
  // Records of all steps are there.
  const auto record = nlohmann::json::parse(test::read_text(at("sparse/swiftprune.json")));
  EXPECT_EQ(record.at("previous").at("method"), "shrink experts");
}

// The inner linears of latent attention have no errors of their own: what they read is not observed.
TEST_F(ExpertsProgram, OfLatentAttentionAreCompared) {
  const std::string out = at("latent");
  ASSERT_EQ(run(calibrated({"prune", dense("deepseek_v3"), "-o", out, "--method", "fast"})).exit_code, 0);
  const Finished compared =
      run({"compare", dense("deepseek_v3"), out, "--ids", ids(400), "--seqlen", "32", "--json"});
  ASSERT_EQ(compared.exit_code, 0) << compared.error;
  const auto errors = nlohmann::json::parse(compared.out).at("models")[1].at("block_errors");
  ASSERT_FALSE(errors.empty());
  for (const auto& block : errors) {
    EXPECT_TRUE(
        block.at("linears").contains("model.layers." + block.at("block").dump() + ".self_attn.o_proj"));
    for (const auto& [name, error] : block.at("linears").items())
      EXPECT_EQ(name.find("kv_b_proj"), std::string::npos) << name;
  }
}

TEST_F(ExpertsProgram, WhatIsNotDefinedIsRefused) {
  const auto refused = [&](std::vector<std::string> arguments, int code, const std::string& text) {
    expect_refused(calibrated(std::move(arguments)), code, text);
  };
  const std::string moe = dense("qwen3_moe"), out = at("out");
  refused({"prune", moe, "-o", out, "--allocate", "sensitivity"}, 2, "--allocate sensitivity");
  refused({"prune", moe, "-o", out, "--bits", "6", "--group", "row"}, 2, "--bits");
  refused({"quantize", moe, "-o", out, "--bits", "12", "--group", "row"}, 2, "expected a model without");
  refused({"prune", dense("gpt_oss_mxfp4"), "-o", out, "--method", "wanda"}, 3, "MXFP4");
  refused({"prune", moe, "-o", out, "--min-expert-tokens", "0"}, 2, "--min-expert-tokens");
  refused({"prune", moe, "-o", out, "--skip", "*.experts.7.*"}, 2, "matches no linear");
  refused({"shrink", moe, "-o", out, "--ratio", "0.2", "--units", "heads"}, 2, "--units experts");
  refused({"shrink", moe, "-o", out, "--ratio", "0.2"}, 2, "--align");  // 12 channels, multiples of 32
  refused({"shrink", moe, "-o", out, "--ratio", "0.5", "--align", "1", "--dry-run"}, 2, "--dry-run");
  refused({"shrink", moe, "-o", out, "--align", "1"}, 2, "--ratio");
  refused({"shrink", dense("deepseek_v3"), "-o", out, "--ratio", "0.5", "--align", "1"}, 2, "shared experts");
  refused({"shrink", dense("gpt_oss_mxfp4"), "-o", out, "--ratio", "0.5", "--align", "1"}, 3, "MXFP4");
  refused({"prune", dense("deepseek_v3"), "-o", out, "--override", "*kv_b_proj.weight", "prune=yes"}, 2,
          "not observed");
}

TEST_F(ExpertsProgram, LoseInnerChannels) {
  for (const char* family : {"qwen3_moe_fused", "gpt_oss", "mixtral"}) {
    SCOPED_TRACE(family);
    const std::string out = at(std::string(family) + "_narrow");
    const Finished result =
        run(calibrated({"shrink", dense(family), "-o", out, "--ratio", "0.5", "--align", "1"}));
    ASSERT_EQ(result.exit_code, 0) << result.error;
    const auto record = nlohmann::json::parse(test::read_text(out + "/swiftprune.json"));
    const auto& channels = record.at("channels");
    EXPECT_EQ(2 * channels.at("left").get<int>(), channels.at("dense").get<int>());
    EXPECT_THAT(result.out, HasSubstr("in each expert"));
    EXPECT_GT(perplexity(out), 1.0);
    // What comes out goes on: whole experts, then weights.
    EXPECT_EQ(run(calibrated({"prune", out, "-o", out + "-50", "--method", "wanda"})).exit_code, 0);
  }
}

// Layers that keep different numbers of experts: everything of ours takes the result, and what cannot says so.
TEST_F(ExpertsProgram, DifferFromLayerToLayer) {
  for (const char* family : {"qwen3_moe", "gpt_oss", "deepseek_v2"}) {
    for (const char* score : {"ours", "reap"}) {
      SCOPED_TRACE(std::string(family) + " " + score);
      const std::string moe = at(std::string(family) + score), out = moe + "_few";
      fs::copy(dense(family), moe, fs::copy_options::recursive);
      write_tokenizer(moe);
      const auto must = [&](const std::vector<std::string>& arguments) {
        const Finished result = run(arguments);
        EXPECT_EQ(result.exit_code, 0) << arguments.front() << ": " << result.error;
        return result.out;
      };
      const auto shrink = calibrated({"shrink", moe, "-o", out, "--units", "experts", "--ratio", "0.2",
                                      "--non-uniform", "--score", score});
      must(shrink);
      const auto record = nlohmann::json::parse(test::read_text(out + "/swiftprune.json"));
      const auto left = record.at("experts").at("left").get<std::vector<std::int64_t>>();
      const auto& layers = record.at("experts").at("layers");
      ASSERT_EQ(left.size(), layers.size());
      double all = 0.0;
      for (std::size_t i = 0; i < left.size(); ++i) {
        EXPECT_EQ(layers[i].at("kept").size(), static_cast<std::size_t>(left[i]));
        all += static_cast<double>(left[i]);
      }
      const double dense_count = record.at("experts").at("dense").get<double>();
      EXPECT_NEAR(all / static_cast<double>(left.size()), 0.8 * dense_count, 1.6);
      const auto inspected = nlohmann::json::parse(run({"inspect", out, "--json"}).out);
      const auto& count = inspected.at("config").at("experts").at("count");
      const bool differ = std::set<std::int64_t>(left.begin(), left.end()).size() > 1;
      EXPECT_EQ(count, differ ? nlohmann::json(left) : nlohmann::json(left.front()));
      EXPECT_GT(perplexity(out), 1.0);
      must({"generate", out, "--prompt", "an expert", "--max-tokens", "4"});
      must(calibrated({"prune", out, "-o", out + "_50", "--method", "wanda"}));
      must({"pack", out + "_50", "-o", out + "_packed"});
      must({"generate", out + "_packed", "--prompt", "an expert", "--max-tokens", "4"});
      EXPECT_NEAR(perplexity(out + "_packed"), perplexity(out + "_50"), 1e-2 * perplexity(out + "_50"));
      must(calibrated({"quantize", out, "-o", out + "_int8", "--quantize", "int8", "--group", "row"}));
      EXPECT_GT(perplexity(out + "_int8"), 1.0);
      if (!differ) continue;
      expect_refused(calibrated({"shrink", out, "-o", at("again"), "--units", "experts", "--ratio", "0.2"}),
                     3, "swiftprune_layer_sizes");
      expect_refused({"export", out, "--gguf", at("few.gguf")}, 3, "swiftprune_layer_sizes");
      // The same command gives the same numbers, also where a killed run is gone on with.
      auto again = shrink;
      again[3] = out + "_again";
      again.emplace_back("--resume");
      must(again);
      EXPECT_EQ(test::read_text(out + "_again/model.safetensors"),
                test::read_text(out + "/model.safetensors"));
    }
  }
  const std::string moe = dense("mixtral"), out = at("out");
  expect_refused(
      calibrated({"shrink", moe, "-o", out, "--units", "experts", "--experts", "5", "--non-uniform"}), 2,
      "removes some");
  expect_refused(
      calibrated({"shrink", moe, "-o", out, "--units", "experts", "--ratio", "0.9", "--non-uniform"}), 2,
      "--ratio");
  const Finished dry = run(calibrated(
      {"shrink", moe, "-o", out, "--units", "experts", "--ratio", "0.4", "--non-uniform", "--dry-run"}));
  EXPECT_EQ(dry.exit_code, 0) << dry.error;
  EXPECT_THAT(dry.out, HasSubstr("in the mean"));
  EXPECT_FALSE(fs::exists(out));
}

// Calibration texts of several kinds, each with its share of the windows.
class MixedCalibration : public ExpertsProgram {
 protected:
  void SetUp() override {
    model_ = at("m");
    fs::copy(dense("qwen3_moe"), model_);
    write_tokenizer(model_);
    std::string text;
    for (int i = 0; i < 400; ++i) text += "It was a dark night. ";
    test::write_text(at("a.txt"), text);
    test::write_text(at("b.txt"), text + "And then it was day.");
  }
  std::vector<std::string> prune(const std::vector<std::string>& texts) {
    fs::remove_all(at("out"));
    std::vector<std::string> command = {"prune",     model_, "-o",       at("out"), "--method",     "wanda",
                                        "--windows", "8",    "--seqlen", "16",      "--calibration"};
    command.insert(command.end(), texts.begin(), texts.end());
    return command;
  }
  nlohmann::json record() {
    return nlohmann::json::parse(test::read_text(at("out") + "/swiftprune.json")).at("calibration");
  }
  std::string model_;
};

TEST_F(MixedCalibration, IsDividedByWeightAndRecorded) {
  const Finished first = run(prune({at("a.txt") + "=0.25", at("b.txt") + "=0.75"}));
  ASSERT_EQ(first.exit_code, 0) << first.error;
  const nlohmann::json texts = record().at("texts");
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_EQ(texts[0], (nlohmann::json{{"file", at("a.txt")}, {"weight", 0.25}, {"windows", 2}}));
  EXPECT_EQ(texts[1], (nlohmann::json{{"file", at("b.txt")}, {"weight", 0.75}, {"windows", 6}}));
  EXPECT_THAT(first.error, HasSubstr("100 % of the calibration text is prose"));
  const std::string hash = record().at("ids");
  ASSERT_EQ(run(prune({at("a.txt") + "=1", at("b.txt") + "=3"})).exit_code, 0);
  EXPECT_EQ(record().at("ids"), hash);
  ASSERT_EQ(run(prune({at("a.txt"), at("b.txt")})).exit_code, 0);
  EXPECT_FALSE(record().contains("texts"));
}

TEST_F(MixedCalibration, RefusesWhatMakesNoShares) {
  const auto refused = [&](const std::vector<std::string>& texts, int code, const std::string& text) {
    const Finished result = run(prune(texts));
    EXPECT_EQ(result.exit_code, code) << text << result.error;
    EXPECT_THAT(result.error, HasSubstr(text));
    EXPECT_FALSE(fs::exists(at("out")));
  };
  const std::string a = at("a.txt"), b = at("b.txt");
  for (const char* weight : {"0", "-1", "nan", "inf", "1e999", "half", "", "0.5 "}) {
    refused({a + "=" + weight, b + "=1"}, 2,
            std::string("found the weight '") + weight + "', expected a number");
  }
  refused({a + "=1", b}, 2, "with a weight and");
  refused({a + "=1", at("m/../a.txt") + "=1"}, 2, "twice, expected each file once");
  refused({a, a}, 2, "twice, expected each file once");
  refused({a + "=1", at("none.txt") + "=1"}, 3, "none.txt");
  refused({a + "=1", b + "=0.001"}, 2, "whose share of 8 windows is none");
  refused({a + "=1", "self=1"}, 2, "found self beside files");
  refused({a + "=1", ids(400) + "=1"}, 2, "expected token ids alone");
}

TEST_F(MixedCalibration, AFileMayHaveAnEqualsSignInItsName) {
  fs::rename(at("b.txt"), at("b=2.txt"));
  ASSERT_EQ(run(prune({at("a.txt"), at("b=2.txt")})).exit_code, 0);
  ASSERT_EQ(run(prune({at("a.txt") + "=1", at("b=2.txt") + "=1"})).exit_code, 0);
  EXPECT_EQ(record().at("texts")[1].at("file"), at("b=2.txt"));
}

}  // namespace
}  // namespace swiftprune
