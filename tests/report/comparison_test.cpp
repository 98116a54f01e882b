// The whole comparison of the tiny model with pruned and packed copies, and what the page, the JSON document
// and the Markdown table say of it.
#include "swiftprune/report/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "swiftprune/device/device.h"

#include "evaluation/pruned_copy.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/report/svg.h"
#include "swiftprune/sparse/packed_checkpoint.h"

namespace swiftprune {
namespace {

using test::expect_error;
using test::kTinyModel;
using test::TempDir;
using test::write_changed;
using test::zeros;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kRecord =
    R"({"swiftprune": "9", "method": "<i>own</i>", "weights_changed": false, "tensors": [],
  "command": {"arguments": ["swiftprune", "prune", "my dense", "--out", "o", "--skip", "*.k_proj.weight",
                            "--pattern", "2:4"], "options": {"pattern": "2:4"}},
  "calibration": {"source": "c4.u16", "windows": 2, "seqlen": 64},
  "seconds": {"load": 1.5, "calibrate": 2.0, "refine": 0.25, "total": 4.0}})";

class ComparisonTest : public ::testing::Test {
 protected:
  ComparisonTest() {
    write_changed(folder_.path() / "half", zeros(2, 4), {{"swiftprune.json", kRecord}});
    const Checkpoint half = Checkpoint::open(folder_.path() / "half");
    std::vector<std::string> linears;
    for (const TensorInfo& info : half.tensors()) {
      if (info.name.find("proj") != std::string::npos) linears.push_back(info.name);
    }
    pack_checkpoint(half, linears, folder_.path() / "packed", {});
  }

  ComparisonInput input(const std::vector<std::string>& pruned) {
    ComparisonInput input;
    input.folders = {kTinyModel.string()};
    for (const std::string& name : pruned) input.folders.push_back((folder_.path() / name).string());
    for (const std::string& folder : input.folders) {
      models_.push_back(Model::open(folder));
      input.models.push_back(models_.back().get());
    }
    return input;
  }
  void add_text(ComparisonInput& input) {
    ScoredWindows scored{{20, {}}, {1, 1, 1}};
    for (std::int32_t i = 0; i < 60; ++i) scored.windows.ids.push_back(i * 7 % 300);
    input.text = "own <text>.txt";
    input.convention = "windows of 20";
    input.bytes_per_token = 2.0;
    input.parts = {scored};
  }

  TempDir folder_;
  std::unique_ptr<Device> device_ = open_device("cpu");
  std::vector<std::unique_ptr<Model>> models_;
};

TEST_F(ComparisonTest, SummarisesModels) {
  const auto half = Model::open(folder_.path() / "half");
  const ModelSummary s = summarize_model(*half, (folder_.path() / "half").string() + "/");
  EXPECT_EQ(s.name, "half");
  EXPECT_DOUBLE_EQ(s.sparsity, 0.5);
  EXPECT_EQ(s.pattern, "2:4");
  EXPECT_EQ(s.block_sparsity, (std::vector<double>{0.5, 0.5}));
  EXPECT_EQ(s.linears.size(), 14u);
  EXPECT_FALSE(s.packed);
  EXPECT_EQ(s.method, "<i>own</i>");
  EXPECT_EQ(s.calibration, "2 windows of 64 tokens from c4.u16");
  EXPECT_EQ(s.stage_seconds, (std::vector<std::pair<std::string, double>>{
                                 {"load", 1.5}, {"calibrate", 2.0}, {"refine", 0.25}}));
  EXPECT_EQ(shell_command(s.prune_command),
            "swiftprune prune 'my dense' --out o --skip '*.k_proj.weight' --pattern 2:4");

  const auto packed = Model::open(folder_.path() / "packed");
  const ModelSummary p = summarize_model(*packed, "packed");
  EXPECT_TRUE(p.packed);
  EXPECT_NEAR(p.sparsity, 0.5, 1e-9);
  EXPECT_LT(p.num_bytes, s.num_bytes);
  EXPECT_EQ(p.num_parameters, s.num_parameters);
}

TEST_F(ComparisonTest, StagesOfShrinkCount) {
  write_changed(folder_.path() / "shrunk", zeros(2, 4),
                {{"swiftprune.json", R"({"method": "shrink", "weights_changed": true, "tensors": [],
                   "seconds": {"load": 0.5, "forward": 27.5, "solve": 7.0, "write": 0.25, "total": 35.5}})"}});
  const auto shrunk = Model::open(folder_.path() / "shrunk");
  EXPECT_EQ(summarize_model(*shrunk, "shrunk").stage_seconds,
            (std::vector<std::pair<std::string, double>>{
                {"load", 0.5}, {"forward", 27.5}, {"solve", 7.0}, {"write", 0.25}}));
}

// A record comes from anyone; what stands on the page as a command must be one of ours.
TEST_F(ComparisonTest, OnlyOwnCommandsAreRepeated) {
  for (const char* command : {R"({"arguments": ["rm", "-rf", "x"]})", R"({"arguments": ["swiftprune"]})",
                              R"({"arguments": "x"})", R"({"arguments": ["swiftprune", "prune", 3]})",
                              R"({"arguments": ["swiftprune", "prune", "a\u001bb"]})",
                              R"({"model": "of an older version"})", R"("text")"}) {
    const TempDir folder;
    write_changed(folder.path() / "half", zeros(2, 4),
                  {{"swiftprune.json",
                    fmt::format(R"({{"method": "m", "weights_changed": true, "tensors": [], "command": {}}})",
                                command)}});
    const auto half = Model::open(folder.path() / "half");
    EXPECT_TRUE(summarize_model(*half, "half").prune_command.empty()) << command;
  }
}

TEST_F(ComparisonTest, PackedModelsGiveTheSameNumbers) {
  ComparisonInput in = input({"half", "packed"});
  add_text(in);
  const ComparisonReport report = compare(in, *device_);
  EXPECT_GT(report.models[1].divergence->mean_kl, 0.01);
  EXPECT_NEAR(report.models[1].divergence->mean_kl, report.models[2].divergence->mean_kl, 1e-4);
  EXPECT_NEAR(report.models[1].perplexity->perplexity, report.models[2].perplexity->perplexity,
              1e-3 * report.models[1].perplexity->perplexity);
  ASSERT_TRUE(report.models[2].block_errors);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_NEAR((*report.models[1].block_errors)[i].own, (*report.models[2].block_errors)[i].own, 1e-3);
  }
}

TEST_F(ComparisonTest, GatesSortFailuresFirst) {
  ComparisonInput in = input({"half"});
  add_text(in);
  in.gates = {.max_perplexity_ratio = 1e9, .min_top1 = 1.0, .max_kl = 1e9};
  const ComparisonReport report = compare(in, *device_);
  EXPECT_FALSE(report.passed());
  ASSERT_EQ(report.gates.size(), 3u);
  EXPECT_EQ(report.gates[0].gate, "--min-top1");
  EXPECT_THAT(report.gates[0].line(), HasSubstr("FAIL  half: --min-top1: found 0."));
  EXPECT_TRUE(report.gates[1].passed);
  EXPECT_THAT(verdict_of(report).headline, HasSubstr("Failed"));
}

TEST_F(ComparisonTest, LimitsAreInclusiveAndNansFail) {
  Divergence d;
  d.mean_kl = 0.1;
  d.top1 = 0.9;
  d.perplexity_ratio = std::nan("");
  const auto gates = check_gates({.max_perplexity_ratio = 1.1, .min_top1 = 0.9, .max_kl = 0.1}, "m", d);
  ASSERT_EQ(gates.size(), 3u);
  EXPECT_EQ(gates[0].gate, "--max-perplexity-ratio");
  EXPECT_FALSE(gates[0].passed);
  EXPECT_TRUE(gates[1].passed);
  EXPECT_TRUE(gates[2].passed);
}

TEST(GatesTest, AnswersHaveLimitsToo) {
  GenerationDrift d;
  d.mean_tokens = 30.0;
  d.dense_mean_tokens = 40.0;
  d.new_loops = 0.1;
  d.questions = 10;
  d.exact = 8;
  const auto found = [&](const GateLimits& limits) {
    const auto gates = check_gates(limits, "m", d);
    return gates.empty() ? GateResult{} : gates[0];
  };
  EXPECT_TRUE(check_gates({.max_kl = 0.0}, "m", d).empty());
  EXPECT_TRUE(found({.max_loops = 0.1}).passed);
  EXPECT_FALSE(found({.max_loops = 0.09}).passed);
  EXPECT_DOUBLE_EQ(found({.max_length_change = 0.25}).found, 0.25);
  EXPECT_TRUE(found({.max_length_change = 0.25}).passed);
  EXPECT_FALSE(found({.max_length_change = 0.2}).passed);
  EXPECT_TRUE(found({.min_exact = 0.8}).passed);
  EXPECT_FALSE(found({.min_exact = 0.81}).passed);
  d.dense_mean_tokens = 0.0;
  EXPECT_FALSE(found({.max_length_change = 1e9}).passed);
  const auto all = check_gates({.max_loops = 1.0, .max_length_change = 0.0, .min_exact = 0.0}, "m", d);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].line().substr(0, 31), "FAIL  m: --max-length-change: f");
}

TEST_F(ComparisonTest, GateWithoutMeasurement) {
  ComparisonInput in = input({"half"});
  in.prompts = {{"p", "Cats", {}}};
  in.gates.max_kl = 1.0;
  expect_error(ErrorKind::kUsage, [&] { compare(in, *device_); },
               {"gates", "found no measurement", "--text"});
}

TEST_F(ComparisonTest, OtherTokenizers) {
  const auto tokenizer = test::read_text(kTinyModel / "tokenizer.json");
  auto document = nlohmann::json::parse(tokenizer);
  document["post_processor"] = nullptr;  // no BOS
  std::filesystem::copy(folder_.path() / "half", folder_.path() / "other");
  test::write_text(folder_.path() / "other" / "tokenizer.json", document.dump());
  ComparisonInput in = input({"other"});
  expect_error(ErrorKind::kBadInput, [&] { compare(in, *device_); }, {"other", "found a tokenizer"});
}

TEST_F(ComparisonTest, DocumentsAndPage) {
  ComparisonInput in = input({"half"});
  add_text(in);
  in.prompts = {{"p", "<script>alert(1)</script> & \"Cats\"", {}}};
  in.refusals = {{"r", "Is it?", {"."}}};
  in.max_tokens = 8;
  in.masks = {"model.layers.1.mlp.down_proj.weight"};
  ComparisonReport report = compare(in, *device_);
  report.commands = {"swiftprune compare 'a<b'"};

  const nlohmann::ordered_json document = to_json(report);
  EXPECT_EQ(document["format_version"], 1);
  ASSERT_EQ(document["models"].size(), 2u);
  for (const char* key : {"name", "folder", "bytes", "sparsity", "pattern", "method", "perplexity",
                          "bits_per_byte", "divergence", "worst", "block_errors", "generation", "drift",
                          "refusals", "stage_seconds", "prune_command"}) {
    EXPECT_TRUE(document["models"][1].contains(key)) << key;
  }
  EXPECT_FALSE(document["models"][0].contains("divergence"));
  EXPECT_EQ(document["models"][1]["refusals"][0]["accepted"].is_boolean(), true);

  const std::string html = to_html(report);
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;Cats&quot;"));
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, HasSubstr("&lt;i&gt;own&lt;/i&gt;"));
  EXPECT_THAT(html, Not(HasSubstr("<i>own")));
  EXPECT_THAT(html, HasSubstr("own &lt;text&gt;.txt"));
  EXPECT_THAT(html, HasSubstr("swiftprune compare &#39;a&lt;b&#39;"));
  for (const char* outside : {"http://", "https://", "url(", "@import", " src=", "<link"}) {
    EXPECT_THAT(html, Not(HasSubstr(outside)));
  }
  // Each picture has a title and a description of its own.
  std::size_t pictures = 0;
  for (std::size_t at = html.find("<svg"); at != std::string::npos; at = html.find("<svg", at + 1)) {
    ++pictures;
    EXPECT_THAT(html.substr(at, 400),
                HasSubstr(fmt::format("aria-labelledby=\"chart{0}-t chart{0}-d\"", pictures)));
    EXPECT_THAT(html.substr(at, 400), HasSubstr(fmt::format("<title id=\"chart{}-t\">", pictures)));
  }
  EXPECT_EQ(pictures, 2u + 1u + 1u);  // errors of blocks, the corner of a mask, stages
  EXPECT_THAT(html, HasSubstr("<details class=\"screen\"><summary><code>"));      // masks are folded
  EXPECT_THAT(html, HasSubstr("<div class=\"screen\"><h2>Where the zeros are"));  // no heading alone in print
  EXPECT_THAT(html, Not(HasSubstr("@media (prefers-color-scheme")));              // dark would be printed
  EXPECT_THAT(html, HasSubstr("What the words mean"));

  const std::string markdown = to_markdown(report);
  EXPECT_THAT(markdown, HasSubstr("| half | <i>own</i> | 2:4 | 50.0 % |"));
}

TEST_F(ComparisonTest, MaskPictures) {
  const auto half = Model::open(folder_.path() / "half"), packed = Model::open(folder_.path() / "packed");
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  for (const auto* model : {half.get(), packed.get()}) {
    const MaskPicture picture = picture_mask(*model, name);
    ASSERT_EQ(picture.corner.size(), 24u);  // all outputs
    for (std::size_t c = 0; c < 24; ++c) EXPECT_EQ(picture.corner[0][c], c % 4 >= 2) << c;
    EXPECT_EQ(picture.density.rows(), 24);
  }
  expect_error(ErrorKind::kUsage, [&] { picture_mask(*half, "model.norm.weight"); },
               {"--mask", "model.norm.weight"});
}

TEST(EscapeTest, Html) {
  EXPECT_EQ(escape_html("a<b>&\"'"), "a&lt;b&gt;&amp;&quot;&#39;");
  EXPECT_EQ(escape_html(std::string("x\0\x1b[31m\ny", 9)), "x[31m\ny");
  EXPECT_EQ(escape_html("\xff"), "\xEF\xBF\xBD");
}

TEST(ShellTest, Quotes) {
  const std::vector<std::string> arguments = {"a", "b c", "it's", "", "$x", "2:4"};
  EXPECT_EQ(shell_command(arguments), "a 'b c' 'it'\\''s' '' '$x' 2:4");
}

}  // namespace
}  // namespace swiftprune
