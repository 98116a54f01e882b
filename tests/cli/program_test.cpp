// The program from the outside: the whole way of a model.
#include <algorithm>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "swiftprune/checkpoint/checkpoint.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::Finished;
using test::ProgramTest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

bool same_tensors(const fs::path& a, const fs::path& b) {
  const Checkpoint first = Checkpoint::open(a);
  const Checkpoint second = Checkpoint::open(b);
  if (first.tensors().size() != second.tensors().size()) return false;
  return std::all_of(first.tensors().begin(), first.tensors().end(), [&](const TensorInfo& tensor) {
    const auto left = first.bytes(tensor);
    const auto right = second.bytes(second.at(tensor.name));
    return std::equal(left.begin(), left.end(), right.begin(), right.end());
  });
}

// Only a number that was asked for is refused when the text is shorter.
TEST_F(ProgramTest, TheDefaultNumberOfWindowsFitsTheText) {
  const std::vector<std::string> prune = {"prune", model("llama2"), "-o", at("out"), "--ids", ids(200)};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), prune.begin(), prune.end());
    more.insert(more.end(), {"--seqlen", "64"});
    return more;
  };
  expect_refused(with({"--windows", "16"}), 3, "ids.u16");
  const Finished result = run(with({}));
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.error, HasSubstr("the text fills 3 of the 16 windows that --method best takes here"));
}

// The document's table is the program's.
TEST_F(ProgramTest, ListsTheFamiliesAsTheDocumentDoes) {
  const Finished table = run({"families"});
  ASSERT_EQ(table.exit_code, 0) << table.error;
  EXPECT_THAT(test::read_text(SWIFTPRUNE_TEST_DATA "/../../docs/models.md"), HasSubstr(table.out))
      << "docs/models.md: put the output of `swiftprune families` there";
  const Finished list = run({"families", "--json"});
  const auto families = nlohmann::json::parse(list.out);
  EXPECT_EQ(families[0].at("family"), "llama");
  EXPECT_THAT(families[0].at("shrink"), ElementsAre("mlp", "heads", "layers"));
}

TEST_F(ProgramTest, PrunesVerifiesEvaluatesPacksAndUnpacks) {
  const std::string text = ids(400);
  for (const std::string pattern : {"row", "1:2"}) {
    for (const std::string method : {"best", "fast", "magnitude"}) {
      SCOPED_TRACE(pattern + " " + method);
      const std::string out = at(method + pattern);
      Finished result = run({"prune", model("llama3"), "-o", out, "--pattern", pattern, "--method", method,
                             "--ids", text, "--windows", "4", "--seqlen", "32", "--json"});
      ASSERT_EQ(result.exit_code, 0) << result.error;
      const auto record = nlohmann::json::parse(result.out);
      EXPECT_NEAR(record.at("sparsity").get<double>(), 0.5, 0.03);
      EXPECT_GT(record.at("seconds").at("total").get<double>(), 0.0);
      EXPECT_EQ(record.at("tensors")[0].contains("sensitivity"), pattern == "row" && method == "best");
      EXPECT_EQ(nlohmann::json::parse(test::read_text(out + "/swiftprune.json")), record);
      result = run({"verify", model("llama3"), out});
      EXPECT_EQ(result.exit_code, 0) << result.out << result.error;
      result = run({"eval", out, "--ids", text, "--seqlen", "32", "--json"});
      ASSERT_EQ(result.exit_code, 0) << result.error;
      const double perplexity = nlohmann::json::parse(result.out).at("perplexity").get<double>();
      EXPECT_GT(perplexity, 1.0);
      ASSERT_EQ(run({"pack", out, "--out", out + ".packed"}).exit_code, 0);
      ASSERT_EQ(run({"unpack", out + ".packed", "--out", out + ".dense"}).exit_code, 0);
      EXPECT_TRUE(same_tensors(out + ".dense", out));
      EXPECT_TRUE(hidden_files().empty());
    }
  }
}

// Sparse + low rank from one end to the other: the model alone, with its adapter, packed with it.
TEST_F(ProgramTest, PrunesWithALowRankPartAndTakesItAgain) {
  const std::string text = ids(1200), out = at("low"), adapter = out + "/adapter";
  Finished result = run({"prune", model("llama3"), "-o", out, "--pattern", "1:2", "--low-rank", "4", "--ids",
                         text, "--windows", "8", "--seqlen", "32", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  const auto record = nlohmann::json::parse(result.out);
  EXPECT_EQ(record.at("low_rank").at("rank"), 4);
  EXPECT_EQ(record.at("low_rank").at("folder"), "adapter");
  EXPECT_GT(record.at("low_rank").at("bytes").get<double>(), 0.0);
  EXPECT_EQ(record.at("tensors").at(0).at("low_rank"), 4);
  EXPECT_TRUE(hidden_files().empty());
  result = run({"verify", model("llama3"), out});
  EXPECT_EQ(result.exit_code, 0) << result.out << result.error;
  EXPECT_THAT(result.out, HasSubstr("low-rank parts of the recorded ranks"));

  const auto perplexity = [&](const std::string& folder, const std::string& beside,
                              const char* compute = "f32") {
    std::vector<std::string> arguments = {"eval", folder,      "--ids", text,    "--seqlen",
                                          "32",   "--compute", compute, "--json"};
    if (!beside.empty()) arguments.insert(arguments.end(), {"--adapter", beside});
    const Finished found = run(arguments);
    EXPECT_EQ(found.exit_code, 0) << found.error;
    const auto document = nlohmann::json::parse(found.out);
    EXPECT_EQ(document.contains("adapter"), !beside.empty());
    EXPECT_EQ(document.dump().find("is not used") != std::string::npos, beside.empty());
    return document.at("perplexity").get<double>();
  };
  const double sum = perplexity(out, adapter);
  EXPECT_NE(sum, perplexity(out, ""));
  ASSERT_EQ(run({"pack", out, "--out", at("packed")}).exit_code, 0);
  EXPECT_NEAR(perplexity(at("packed"), at("packed/adapter")) / sum, 1.0, 1e-3);

  result = run({"compare", model("llama3"), out, out, "--adapter", "none", adapter, "--ids", text, "--seqlen",
                "32", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  const auto models = nlohmann::json::parse(result.out).at("models");
  EXPECT_EQ(models.at(2).at("name"), "low + adapter");
  EXPECT_LT(models.at(2).at("divergence").at("mean_kl").get<double>(),
            models.at(1).at("divergence").at("mean_kl").get<double>());
  expect_refused(
      {"compare", model("llama3"), out, out, "--adapter", adapter, "--ids", text, "--seqlen", "32"}, 2,
      "--adapter: found 1 for 2 pruned models");
  expect_refused({"eval", out, "--adapter", at("nothing"), "--ids", text}, 3, "adapter_config.json");
  expect_refused({"bench", out, "--adapter", out, "--prompt", "4", "--decode", "4"}, 3,
                 "adapter_config.json");
  result =
      run({"bench", out, "--adapter", adapter, "--prompt", "4", "--decode", "4", "--rounds", "1", "--json"});
  EXPECT_EQ(result.exit_code, 0) << result.error;

  // What is made of the sparse weights alone has no such part.
  ASSERT_EQ(run({"prune", out, "-o", at("again"), "--method", "magnitude"}).exit_code, 0);
  EXPECT_FALSE(fs::exists(at("again/adapter")));
  fs::remove_all(at("again"));
  expect_refused({"prune", model("llama3"), "-o", at("out"), "--low-rank", "4", "--method", "wanda"}, 2,
                 "low rank: found 4 with refine none");
  expect_refused(
      {"prune", model("llama3"), "-o", at("out"), "--low-rank", "4", "--quantize", "int8", "--group", "row"},
      2, "low rank: found 4 with quantize");
}

TEST_F(ProgramTest, WritesTextWithAnAdapter) {
  const std::string folder = at("model");
  fs::copy(model("llama3"), folder);
  write_tokenizer(folder);
  const auto text = [&](const std::string& adapter) {
    std::vector<std::string> arguments = {"generate", folder, "--prompt", "abc", "-n", "8", "--json"};
    if (!adapter.empty()) arguments.insert(arguments.end(), {"--adapter", adapter});
    const Finished result = run(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.error;
    return nlohmann::json::parse(result.out).at("text").get<std::string>();
  };
  EXPECT_NE(text(""), text(SWIFTPRUNE_TEST_DATA "/adapter/llama3"));
}

TEST_F(ProgramTest, QuantizesAndEvaluates) {
  const std::string text = ids(1000);
  const auto perplexity = [&](const std::string& folder) {
    const Finished result = run({"eval", folder, "--ids", text, "--seqlen", "32", "--json"});
    EXPECT_EQ(result.exit_code, 0) << result.error;
    return nlohmann::json::parse(result.out).at("perplexity").get<double>();
  };
  const double dense = perplexity(model("llama3"));
  for (const char* store : {"packed", "dense"}) {
    for (const char* method : {"best", "rtn"}) {
      const std::string out = at(fmt::format("{}-{}", store, method));
      const Finished result =
          run({"quantize", model("llama3"), "-o", out, "--quantize", "int8", "--group", "row", "--method",
               method, "--ids", text, "--windows", "2", "--seqlen", "32", "--store", store, "--json"});
      ASSERT_EQ(result.exit_code, 0) << result.error;
      const auto record = nlohmann::json::parse(result.out);
      EXPECT_EQ(record.at("tensors").at(0).at("quantize"), "int8(row)");
      EXPECT_EQ(record.contains("packed"), std::string_view(store) == "packed");
      EXPECT_NEAR(perplexity(out) / dense, 1.0, 0.05) << store << " " << method;
    }
  }
  EXPECT_TRUE(hidden_files().empty());
}

TEST_F(ProgramTest, ADryRunTellsThePlanAndWritesNothing) {
  const std::vector<std::string> asked = {
      "prune",        model("llama2"), "-o", at("out"),  "--method", "wanda",      "--ids",
      ids(400),       "--windows",     "4",  "--seqlen", "32",       "--override", "*.down_proj.weight",
      "sparsity=0.25"};
  std::vector<std::string> dry = asked;
  dry.insert(dry.end(), {"--dry-run", "--json"});
  Finished result = run(dry);
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_FALSE(fs::exists(at("out")));
  EXPECT_TRUE(hidden_files().empty());
  const auto told = nlohmann::json::parse(result.out);
  EXPECT_EQ(told.at("calibration").at("windows"), 4);
  EXPECT_GT(told.at("estimate").at("seconds").get<double>(), 0.0);
  EXPECT_GT(told.at("estimate").at("memory_bytes").get<double>(), 1e6);
  ASSERT_EQ(run(asked).exit_code, 0);
  EXPECT_EQ(told.at("plan"), nlohmann::json::parse(test::read_text(at("out/plan.json"))));
  const auto written = static_cast<double>(fs::file_size(at("out/model.safetensors")));
  EXPECT_NEAR(told.at("estimate").at("disk_bytes").get<double>() / written, 1.0, 0.15);

  // What is wrong is told as the run itself would.
  result = run(dry);
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.error, HasSubstr("not empty"));
  result =
      run({"quantize", model("llama2"), "-o", at("int8"), "--group", "row", "--method", "rtn", "--dry-run"});
  EXPECT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out,
              AllOf(HasSubstr("nothing is written"), HasSubstr("int4(row)"), HasSubstr("at most")));
}

TEST_F(ProgramTest, APlanThatWasWrittenRepeatsTheRun) {
  const std::string text = ids(400);
  const std::vector<std::string> common = {"--ids", text, "--windows", "4", "--seqlen", "32"};
  std::vector<std::string> first = {"prune",      model("llama2"),      "-o",           at("one"),
                                    "--override", "*.down_proj.weight", "sparsity=0.25"};
  std::vector<std::string> second = {"prune",   model("llama2"), "-o",
                                     at("two"), "--plan",        at("one/plan.json")};
  for (auto* arguments : {&first, &second}) {
    arguments->insert(arguments->end(), common.begin(), common.end());
    const Finished result = run(*arguments);
    ASSERT_EQ(result.exit_code, 0) << result.error;
  }
  EXPECT_EQ(test::read_text(at("one/model.safetensors")), test::read_text(at("two/model.safetensors")));
  EXPECT_EQ(test::read_text(at("one/plan.json")), test::read_text(at("two/plan.json")));
}

// An order of channels goes through the plan's file, the record and verify.
TEST_F(ProgramTest, ChannelsThatChangedPlacesAreRecorded) {
  const std::vector<std::string> text = {"--ids",    ids(400), "--windows", "4",
                                         "--seqlen", "32",     "--method",  "wanda"};
  std::vector<std::string> first = {"prune",     model("qwen2"), "-o",        at("one"),
                                    "--pattern", "2:4",          "--permute", "all"};
  std::vector<std::string> second = {"prune", model("qwen2"), "-o", at("two"), "--plan", at("one/plan.json")};
  for (auto* arguments : {&first, &second}) {
    arguments->insert(arguments->end(), text.begin(), text.end());
    const Finished result = run(*arguments);
    ASSERT_EQ(result.exit_code, 0) << result.error;
  }
  EXPECT_EQ(test::read_text(at("one/model.safetensors")), test::read_text(at("two/model.safetensors")));
  const auto record = nlohmann::json::parse(test::read_text(at("one/swiftprune.json")));
  EXPECT_EQ(record.at("permute"), "all");
  EXPECT_EQ(record.at("weights_changed"), false);
  EXPECT_THAT(record.at("tensors").dump(), HasSubstr("channel_order"));
  const Finished verified = run({"verify", model("qwen2"), at("one")});
  EXPECT_EQ(verified.exit_code, 0) << verified.out << verified.error;
  const Finished refused = run({"prune", model("qwen2"), "-o", at("three"), "--permute", "all"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.error, HasSubstr("pruned N:M"));
}

TEST_F(ProgramTest, WindowsAutoTellsWhatItRead) {
  const Finished result = run({"prune", model("llama2"), "-o", at("out"), "--method", "wanda", "--ids",
                               ids(2000), "--windows", "auto", "--seqlen", "32", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  const auto calibration = nlohmann::json::parse(result.out).at("calibration");
  EXPECT_GE(calibration.at("windows").get<int>(), 1);
  EXPECT_EQ(calibration.at("stopping").at("changes").size(), calibration.at("windows").get<std::size_t>());
}

// Two installations side by side: which one runs, and with which library.
TEST_F(ProgramTest, TheVersionNamesTheFilesThatRun) {
  const std::string out = run({"--version"}).out;
  EXPECT_THAT(out, HasSubstr(fmt::format("\nprogram    {}\n", fs::canonical(SWIFTPRUNE_PROGRAM).string())));
  EXPECT_THAT(out, HasSubstr(fmt::format("\nlibrary    {} {}", SWIFTPRUNE_VERSION,
                                         fs::canonical(SWIFTPRUNE_PROGRAM).parent_path().string())));
}

TEST_F(ProgramTest, WhatAPersonMixesUpIsSaid) {
  const std::vector<std::string> prune = {"prune",         model("llama3"), "-o",        at("zeros"),
                                          "--method",      "fast",          "--seqlen",  "16",
                                          "--calibration", ids(200),        "--windows", "1"};
  std::vector<std::string> gated = prune;
  gated.insert(gated.end(), {"--gate", at("ids.u16"), "--max-kl", "1e6"});
  const Finished pruned = run(gated);
  ASSERT_EQ(pruned.exit_code, 0) << pruned.error;
  EXPECT_THAT(pruned.error, HasSubstr("--gate: this text calibrates, too"));
  EXPECT_THAT(pruned.error, HasSubstr("16 tokens calibrated, which say little"));
  const auto seconds = nlohmann::json::parse(test::read_text(at("zeros/swiftprune.json"))).at("seconds");
  double sum = -seconds.at("total").get<double>();
  for (const auto& [stage, value] : seconds.items()) sum += value.get<double>();
  EXPECT_NEAR(sum, seconds.at("total").get<double>(), 1e-6);  // all stages, text and the rest among them
  const Finished exchanged = run({"verify", at("zeros"), model("llama3")});
  EXPECT_EQ(exchanged.exit_code, 2);
  EXPECT_THAT(exchanged.error, HasSubstr("were the two exchanged?"));
}

}  // namespace
}  // namespace swiftprune
