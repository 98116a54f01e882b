// What shrink --dry-run tells is what shrink then does.
#include "cli/program.h"
#include "swiftprune/checkpoint/checkpoint.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::Finished;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

class ShrinkDryRun : public test::ProgramTest {
 protected:
  // The document of the dry run and the record of the run itself.
  std::pair<Json, Json> both(const std::string& model, const std::vector<std::string>& more) {
    std::vector<std::string> asked = {"shrink", model,       "-o", at("out"),  "--ids",
                                      ids(400), "--windows", "4",  "--seqlen", "32"};
    asked.insert(asked.end(), more.begin(), more.end());
    std::vector<std::string> dry = asked;
    dry.insert(dry.end(), {"--dry-run", "--json"});
    const Finished told = run(dry);
    EXPECT_EQ(told.exit_code, 0) << told.error;
    EXPECT_FALSE(fs::exists(at("out")));
    EXPECT_TRUE(hidden_files().empty());
    const Finished done = run(asked);
    EXPECT_EQ(done.exit_code, 0) << done.error;
    return {Json::parse(told.out), Json::parse(test::read_text(at("out/swiftprune.json")))};
  }
  static void expect_estimates(const Json& told, const fs::path& out) {
    const Json& estimate = told.at("estimate");
    EXPECT_GT(estimate.at("seconds").get<double>(), 0.0);
    EXPECT_EQ(estimate.at("trial_blocks"), 2);
    EXPECT_GT(estimate.at("memory_bytes").get<double>(), 1e6);
    const auto written = static_cast<double>(fs::file_size(out / "model.safetensors"));
    EXPECT_NEAR(estimate.at("disk_bytes").get<double>() / written, 1.0, 0.15);
  }
};

TEST_F(ShrinkDryRun, TellsTheSizesOfTheTensors) {
  const auto [told, record] = both(model("llama2"), {"--ratio", "0.3", "--units", "mlp", "--align", "1"});
  expect_estimates(told, at("out"));
  // verify compares weight by weight, and says so where it cannot.
  const Finished verified = run({"verify", model("llama2"), at("out")});
  EXPECT_EQ(verified.exit_code, 2);
  EXPECT_THAT(verified.error, AllOf(HasSubstr("that shrink wrote"), HasSubstr("swiftprune compare")));
  EXPECT_EQ(told.at("dry_run"), true);
  EXPECT_TRUE(told.at("not_estimated").empty());
  ASSERT_EQ(told.at("shapes").size(), 1u);
  EXPECT_EQ(told.at("shapes")[0].at("intermediate_size"), record.at("shape").at("intermediate_size"));
  EXPECT_NEAR(
      told.at("parameters").at("shrunk").get<double>() / record.at("parameters").at("shrunk").get<double>(),
      1.0, 0.02);
  const Checkpoint dense = Checkpoint::open(model("llama2")), out = Checkpoint::open(at("out"));
  std::int64_t changed = 0, told_changes = 0;
  for (const TensorInfo& tensor : dense.tensors())
    changed += out.at(tensor.name).shape != tensor.shape ? 1 : 0;
  for (const Json& change : told.at("tensors")) {
    told_changes += change.at("count").get<std::int64_t>();
    std::string name = change.at("name");
    name.replace(name.find('*'), 1, "0");
    EXPECT_EQ(dense.at(name).shape, change.at("from").get<std::vector<std::int64_t>>()) << name;
    EXPECT_EQ(out.at(name).shape, change.at("to").get<std::vector<std::int64_t>>()) << name;
  }
  EXPECT_EQ(told_changes, changed);
}

TEST_F(ShrinkDryRun, SaysWhatItDoesNotEstimate) {
  const Finished layers = run({"shrink", model("llama2"), "-o", at("out"), "--ratio", "0.5", "--units",
                               "layers", "--seqlen", "32", "--windows", "2", "--dry-run"});
  ASSERT_EQ(layers.exit_code, 0) << layers.error;
  EXPECT_THAT(layers.out, AllOf(HasSubstr("nothing is written"), HasSubstr("go, whole"),
                                HasSubstr("and the choice of layers"),
                                HasSubstr("and the model's writing of the calibration text")));
  // What is wrong is told as the run itself would.
  fs::create_directory(at("full"));
  test::write_text(at("full/file"), "x");
  EXPECT_EQ(run({"shrink", model("llama2"), "-o", at("full"), "--ratio", "0.5", "--dry-run"}).exit_code, 3);
  EXPECT_EQ(run({"shrink", model("llama2"), "-o", at("out"), "--ratio", "1.5", "--dry-run"}).exit_code, 2);
}

TEST_F(ShrinkDryRun, OfTuneTellsWhatTheLevelsTake) {
  const std::vector<std::string> asked = {
      "tune",   model("llama2"),    "--ids", ids(2000),    "--seqlen", "64", "--windows",
      "4",      "--search-windows", "4",     "--sparsity", "0.5",      "-o", at("tuned"),
      "--work", folder_.path()};
  std::vector<std::string> dry = asked;
  dry.insert(dry.end(), {"--dry-run", "--json"});
  const Finished result = run(dry);
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_FALSE(fs::exists(at("tuned")));
  for (const auto& entry : fs::directory_iterator(folder_.path()))
    EXPECT_THAT(entry.path().filename().string(), ::testing::Not(HasSubstr("trial")))
        << "the levels are gone";
  const Json told = Json::parse(result.out);
  EXPECT_EQ(told.at("tokens").at("solve"), 256);
  EXPECT_EQ(told.at("estimate").at("trial_blocks"), 2);
  EXPECT_GT(told.at("estimate").at("solve_seconds").get<double>(), 0.0);
  const Finished text = run([&] {
    std::vector<std::string> plain = asked;
    plain.emplace_back("--dry-run");
    return plain;
  }());
  EXPECT_THAT(text.out,
              AllOf(HasSubstr("nothing is written"), HasSubstr("then the search: 256 plans at most")));
  // The same levels, kept.
  std::vector<std::string> kept = asked;
  kept.insert(kept.end(), {"--cache", at("cache"), "--trials", "1"});
  ASSERT_EQ(run(kept).exit_code, 0);
  double bytes = 0.0;
  for (const auto& entry : fs::recursive_directory_iterator(at("cache")))
    bytes += entry.path().extension() == ".safetensors" ? static_cast<double>(entry.file_size()) : 0.0;
  EXPECT_NEAR(told.at("estimate").at("disk_bytes").get<double>() / bytes, 1.0, 0.05);
}

TEST_F(ShrinkDryRun, TellsTheExpertsThatStay) {
  const auto [told, record] =
      both(test::kExpertModels / "qwen3_moe_fused", {"--ratio", "0.5", "--units", "experts"});
  expect_estimates(told, at("out"));
  EXPECT_EQ(told.at("experts").at("left"), record.at("experts").at("left"));
  EXPECT_EQ(told.at("experts").at("layers"), record.at("experts").at("layers").size());
  EXPECT_NEAR(
      told.at("parameters").at("shrunk").get<double>() / record.at("parameters").at("shrunk").get<double>(),
      1.0, 0.02);
}

}  // namespace
}  // namespace swiftprune
