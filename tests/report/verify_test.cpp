#include "swiftprune/report/verify.h"

#include <cmath>
#include <cstring>
#include <functional>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/tiny_llama.h"
#include "swiftprune/model/adapter.h"
#include "swiftprune/pipeline/record.h"
#include "swiftprune/report/prune_record.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::expect_error;
using test::TempDir;
using test::TinyLlama;
using Outcome = VerifyCheck::Outcome;

constexpr const char* kUp = "model.layers.1.mlp.up_proj.weight";

// What prune would write for the linears.
json record_of(const TinyLlama& model, const std::string& pattern, bool weights_changed) {
  json tensors = json::array();
  for (const auto& [name, values] : model.values) {
    if (!TinyLlama::is_linear(name)) continue;
    const auto zeros = std::count(values.begin(), values.end(), 0.0f);
    tensors.push_back({{"name", name},
                       {"rows", model.shapes.at(name)[0]},
                       {"cols", model.shapes.at(name)[1]},
                       {"pattern", pattern},
                       {"asked_sparsity", 0.5},
                       {"sparsity", static_cast<double>(zeros) / static_cast<double>(values.size())},
                       {"later", {1, 2}}});
  }
  return {{"swiftprune", "9.9"},
          {"method", "magnitude"},
          {"weights_changed", weights_changed},
          {"tensors", tensors},
          {"unknown", json::object()}};
}

class Verify : public testing::Test {
 protected:
  void SetUp() override {
    dense_.write(dir_.path() / "dense");
    pruned_.prune(2, 4);
    record_ = record_of(pruned_, "2:4", false);
    record_["input"] = model_hashes(Checkpoint::open(dir_.path() / "dense"));
  }
  VerifyReport verify(const VerifyOptions& options = {}) {
    if (!record_.is_null()) pruned_.files["swiftprune.json"] = record_.dump();
    fs::remove_all(dir_.path() / "pruned");
    pruned_.write(dir_.path() / "pruned");
    return verify_pruned(dir_.path() / "dense", dir_.path() / "pruned", options);
  }
  // The check of that name is the first that fails, and its detail holds the text.
  void expect_failure(const VerifyReport& report, const std::string& check, const std::string& text) {
    const VerifyCheck* failed = report.first_failure();
    ASSERT_NE(failed, nullptr);
    EXPECT_EQ(failed->name, check);
    EXPECT_NE(failed->detail.find(text), std::string::npos) << failed->detail;
    EXPECT_EQ(to_json(report).at("passed"), false);
  }
  static const VerifyCheck& check_named(const VerifyReport& report, const std::string& name) {
    for (const VerifyCheck& check : report.checks) {
      if (check.name == name) return check;
    }
    throw std::runtime_error("no check " + name);
  }
  void patch_file(const char* bytes, std::size_t count, const std::string& tensor, std::size_t element) {
    const fs::path file = dir_.path() / "pruned/model.safetensors";
    const Checkpoint pruned = Checkpoint::open(dir_.path() / "pruned");
    std::string content = test::read_text(file);
    const auto at =
        static_cast<std::size_t>(reinterpret_cast<const char*>(pruned.bytes(pruned.at(tensor)).data()) -
                                 reinterpret_cast<const char*>(pruned.bytes(pruned.tensors()[0]).data()));
    std::uint64_t header = 0;
    std::memcpy(&header, content.data(), 8);
    content.replace(8 + header + at + 2 * element, count, std::string(bytes, count));
    test::write_text(file, content);
  }
  VerifyReport verify_as_written(const VerifyOptions& options = {}) {
    return verify_pruned(dir_.path() / "dense", dir_.path() / "pruned", options);
  }

  // An adapter of this rank beside every linear.
  void write_adapter(std::int64_t rank, DType dtype = DType::kF16) {
    std::vector<PlannedTensor> plan;
    for (const auto& [name, shape] : pruned_.shapes) {
      if (!TinyLlama::is_linear(name)) continue;
      const std::string linear = name.substr(0, name.size() - 7);
      plan.push_back({adapter_right_name(linear), dtype, {rank, shape[1]}, kAdapterFile});
      plan.push_back({adapter_left_name(linear), dtype, {shape[0], rank}, kAdapterFile});
    }
    CheckpointWriter writer(dir_.path() / "pruned" / kAdapterFolder, plan);
    for (const PlannedTensor& tensor : plan)
      writer.write(tensor.name,
                   std::vector<float>(static_cast<std::size_t>(tensor.shape[0] * tensor.shape[1]), 0.5f));
    writer.write_file(kAdapterConfigFile,
                      json({{"peft_type", "LORA"}, {"r", rank}, {"lora_alpha", rank}}).dump());
    writer.finish();
  }

  TempDir dir_;
  TinyLlama dense_, pruned_;
  json record_;
};

TEST_F(Verify, PrunedModelPasses) {
  const VerifyReport report = verify();
  for (const VerifyCheck& check : report.checks) {
    EXPECT_EQ(check.outcome, Outcome::kPassed) << check.name << ": " << check.detail;
  }
  EXPECT_EQ(report.checks.size(), 9u);
  EXPECT_EQ(report.num_tensors, 14);
  EXPECT_EQ(report.num_zeros * 2, report.num_weights);
  EXPECT_EQ(report.num_changed, 0);
  EXPECT_EQ(check_named(report, "pattern").detail, "14 2:4");
  EXPECT_EQ(check_named(report, "files").detail, "2 files equal");
  EXPECT_EQ(to_json(report).at("sparsity"), 0.5);
  EXPECT_EQ(to_json(report).at("passed"), true);
}

TEST_F(Verify, WithoutARecordTheFilesSpeak) {
  record_ = nullptr;
  const VerifyReport report = verify();
  EXPECT_EQ(report.first_failure(), nullptr);
  EXPECT_EQ(report.num_tensors, 14);
  EXPECT_EQ(check_named(report, "pattern").detail, "14 2:4");
  EXPECT_EQ(check_named(report, "record").outcome, Outcome::kSkipped);
  EXPECT_EQ(check_named(report, "kept weights").outcome, Outcome::kSkipped);
  EXPECT_EQ(verify({.pattern = "2:4", .weights_unchanged = true}).first_failure(), nullptr);
  expect_failure(verify({.pattern = "1:4"}), "pattern", "row 0, columns from 0: not 1:4 (and 13 more)");
}

// Row r becomes what row (rows - 1 - r) was.
void turn_rows(TinyLlama& model, const std::string& name) {
  std::vector<float>& values = model.values.at(name);
  const auto cols = static_cast<std::size_t>(model.shapes.at(name)[1]);
  const std::vector<float> old = values;
  for (std::size_t r = 0; r < old.size() / cols; ++r)
    std::copy_n(old.end() - static_cast<std::ptrdiff_t>((r + 1) * cols), cols,
                values.begin() + static_cast<std::ptrdiff_t>(r * cols));
}

void turn_columns(TinyLlama& model, const std::string& name) {
  std::vector<float>& values = model.values.at(name);
  const auto cols = static_cast<std::ptrdiff_t>(model.shapes.at(name)[1]);
  for (auto row = values.begin(); row != values.end(); row += cols) std::reverse(row, row + cols);
}

// As `prune --permute` writes them, kept weights stand where the record says.
TEST_F(Verify, OrdersOfChannelsAreLookedThrough) {
  const std::string mlp = "model.layers.1.mlp.";
  pruned_ = TinyLlama();
  turn_rows(pruned_, mlp + "gate_proj.weight");
  turn_rows(pruned_, mlp + "up_proj.weight");
  turn_columns(pruned_, mlp + "down_proj.weight");
  pruned_.prune(2, 4);
  expect_failure(verify(), "kept weights", "a kept weight is not the dense one");
  std::string order;
  for (int i = 63; i >= 0; --i) order += fmt::format("{} ", i);
  for (auto& tensor : record_["tensors"]) {
    if (tensor["name"] == mlp + "down_proj.weight") tensor["channel_order"] = order;
  }
  const VerifyReport report = verify();
  EXPECT_EQ(report.first_failure(), nullptr);
  EXPECT_EQ(report.num_changed, 0);

  // Gate's rows may be those of a linear that the record does not name.
  auto& tensors = record_["tensors"];
  const json all = tensors;
  tensors.erase(std::find_if(tensors.begin(), tensors.end(),
                             [&](const json& tensor) { return tensor["name"] == mlp + "gate_proj.weight"; }));
  pruned_.values[mlp + "gate_proj.weight"] = TinyLlama().values.at(mlp + "gate_proj.weight");
  expect_failure(verify(), "untouched", mlp + "gate_proj.weight: differs");
  turn_rows(pruned_, mlp + "gate_proj.weight");
  EXPECT_EQ(verify().first_failure(), nullptr);

  // Heads of 8 that share a value in pairs: o's inputs cannot be turned as a whole.
  tensors = all;
  pruned_.prune(2, 4);
  std::string turned;
  for (int i = 31; i >= 0; --i) turned += fmt::format("{} ", i);
  for (auto& tensor : tensors) {
    if (tensor["name"] == "model.layers.0.self_attn.o_proj.weight") tensor["channel_order"] = turned;
  }
  expect_failure(verify(), "record", "a channel_order that its inputs cannot take");
  for (const char* wrong : {"1 0", "x", ""}) {
    for (auto& tensor : tensors) {
      if (tensor["name"] == mlp + "down_proj.weight") tensor["channel_order"] = wrong;
    }
    expect_error(
        ErrorKind::kBadInput, [&] { verify(); }, "channel_order: expected the numbers 0 to 63");
  }
}

TEST_F(Verify, NothingPrunedFails) {
  pruned_ = dense_;
  record_ = nullptr;
  expect_failure(verify(), "pruned", "no tensor differs");
  expect_failure(verify({.pattern = "2:4"}), "pattern", "not 2:4");
}

TEST_F(Verify, Files) {
  pruned_.files["tokenizer.json"] = "other";
  expect_failure(verify(), "files", "tokenizer.json: differs from the dense model's");
  pruned_.files.erase("tokenizer.json");
  expect_failure(verify(), "files", "tokenizer.json: missing");
  pruned_.files["tokenizer.json"] = "{}";
  pruned_.files.erase("README.md");  // a model card may change
  EXPECT_EQ(verify().first_failure(), nullptr);
  pruned_.config += " ";
  expect_failure(verify(), "files", "config.json: differs");
}

TEST_F(Verify, Tensors) {
  pruned_.add("extra.weight", {2, 2});
  expect_failure(verify(), "tensors", "extra.weight: not in the dense model");
  pruned_ = TinyLlama();
  pruned_.values.erase("model.norm.weight"), pruned_.shapes.erase("model.norm.weight");
  expect_failure(verify(), "tensors", "model.norm.weight: missing");
  pruned_ = TinyLlama();
  pruned_.add(kUp, {32, 64});
  expect_failure(verify(), "tensors", "up_proj.weight: found shape [32, 64], expected [64, 32]");
  pruned_ = TinyLlama();
  pruned_.dtype = DType::kBF16;
  expect_failure(verify(), "tensors", "found dtype BF16, expected F16 (and 19 more)");
  pruned_ = TinyLlama();
  pruned_.max_shard_bytes = 5000;
  expect_failure(verify(), "tensors", "expected in model.safetensors");
}

TEST_F(Verify, Untouched) {
  pruned_.values["model.norm.weight"][3] += 0.5f;
  expect_failure(verify(), "untouched", "model.norm.weight: differs, although it is not pruned");
}

TEST_F(Verify, LinearThatTheRecordDoesNotNameMustBeUntouched) {
  record_["tensors"].erase(record_["tensors"].size() - 1);
  expect_failure(verify(), "untouched", "differs, although it is not pruned");
}

TEST_F(Verify, NotFiniteAndNegativeZero) {
  ASSERT_EQ(verify().first_failure(), nullptr);
  patch_file("\x00\x7e", 2, kUp, 2);
  expect_failure(verify_as_written(), "finite", "up_proj.weight: found 1 NaN or infinite weights");
  ASSERT_EQ(verify().first_failure(), nullptr);
  patch_file("\x00\x80", 2, kUp, 0);
  expect_failure(verify_as_written(), "zeros", "up_proj.weight: found 1 negative zeros");
}

TEST_F(Verify, Pattern) {
  const auto at = 5 * 32 + 8;
  pruned_.values[kUp][at] = dense_.values[kUp][at];
  record_ = record_of(pruned_, "2:4", false);
  expect_failure(verify(), "pattern", std::string(kUp) + ": row 5, columns from 8: not 2:4");
  EXPECT_EQ(verify({.pattern = "row"}).first_failure(), nullptr);
}

TEST_F(Verify, KeptWeights) {
  pruned_.values[kUp][3 * 32 + 7] += 1.0f;
  pruned_.values[kUp][9 * 32 + 7] += 1.0f;
  expect_failure(verify(), "kept weights",
                 "up_proj.weight: row 3, column 7: a kept weight is not the dense one (2 such)");
  record_ = record_of(pruned_, "2:4", true);
  const VerifyReport report = verify();
  EXPECT_EQ(report.first_failure(), nullptr);
  EXPECT_EQ(check_named(report, "kept weights").detail, "not promised; 2 kept weights changed");
  expect_failure(verify({.weights_unchanged = true}), "kept weights", "up_proj");
}

TEST_F(Verify, KeptWeightsInF32) {
  dense_.dtype = pruned_.dtype = DType::kF32;
  fs::remove_all(dir_.path() / "dense");
  dense_.write(dir_.path() / "dense");
  record_["input"] = model_hashes(Checkpoint::open(dir_.path() / "dense"));
  EXPECT_EQ(verify().first_failure(), nullptr);
  pruned_.values[kUp][3] = std::nextafter(pruned_.values[kUp][3], 100.0f);
  expect_failure(verify(), "kept weights", "row 0, column 3");
}

TEST_F(Verify, RecordIsTrue) {
  record_["tensors"][0]["sparsity"] = 0.501;
  expect_failure(verify(), "record", "found sparsity 0.5, but the record says 0.501");
  record_["tensors"][0]["sparsity"] = 0.5;
  record_["tensors"][0]["rows"] = 7;
  expect_failure(verify(), "record", "but the record says [7, ");
  record_["tensors"][0]["rows"] = 32;
  record_["tensors"][0]["name"] = "absent.weight";
  expect_failure(verify(), "untouched", "");  // the tensor that is not named any more
  record_ = record_of(pruned_, "2:4", false);
  record_["tensors"].push_back({{"name", "absent.weight"}, {"rows", 1}, {"cols", 1}, {"pattern", "row"}});
  expect_failure(verify(), "record", "absent.weight: named by the record, but not there");
  record_["tensors"].back()["name"] = "model.norm.weight";
  expect_failure(verify(), "record", "model.norm.weight: found F16 [32], expected a weight matrix");
}

TEST_F(Verify, BadPatternIsAUsageError) {
  expect_error(
      ErrorKind::kUsage, [&] { verify({.pattern = "4:2"}); }, "pattern: found '4:2'");
}

class BadRecord : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(BadRecord, IsRefused) {
  const TempDir dir;
  test::write_text(dir.path() / "swiftprune.json", GetParam().first);
  expect_error(
      ErrorKind::kBadInput, [&] { read_prune_record(dir.path()); }, "swiftprune.json: ", GetParam().second);
}

INSTANTIATE_TEST_SUITE_P(
    Rules, BadRecord,
    testing::Values(
        std::pair{"", "not valid JSON"}, std::pair{"[]", "expected an object"},
        std::pair{"{}", "field weights_changed is missing"},
        std::pair{R"({"weights_changed": 1, "tensors": []})", "weights_changed: expected true or false"},
        std::pair{R"({"weights_changed": true})", "field tensors is missing"},
        std::pair{R"({"weights_changed": true, "tensors": {}})", "tensors: expected a list"},
        std::pair{R"({"weights_changed": true, "tensors": [3]})", "tensors[0]: expected an object"},
        std::pair{R"({"weights_changed": true, "tensors": [{}]})", "tensors[0]: field name is missing"},
        std::pair{R"({"weights_changed": true, "tensors": [{"name": 1, "pattern": "row"}]})",
                  "expected a tensor's name"},
        std::pair{R"({"weights_changed": true, "tensors": [{"name": "a\n", "pattern": "row"}]})",
                  "expected a tensor's name"},
        std::pair{R"({"weights_changed": true, "tensors": [{"name": "a", "pattern": 4}]})",
                  "field pattern: expected a string"},
        std::pair{R"({"weights_changed": true, "tensors": [{"name": "a", "pattern": "row"}]})",
                  "field rows is missing"},
        std::pair{R"({"weights_changed": true, "tensors": [{"name": "a", "pattern": "row", "rows": -1}]})",
                  "field rows: expected a number"},
        std::pair{
            R"({"weights_changed": true, "tensors": [{"name": "a", "pattern": "x", "rows": 1, "cols": 1}]})",
            "tensors[0]: field pattern: found 'x'"},
        std::pair{
            R"({"weights_changed": true, "tensors": [{"name": "a", "pattern": "row", "rows": 1, "cols": 1, "sparsity": 2}]})",
            "sparsity: found 2, expected 0 to 1"}));

TEST(PruneRecord, AbsentAndWhole) {
  const TempDir dir;
  EXPECT_FALSE(read_prune_record(dir.path()));
  test::write_text(dir.path() / "swiftprune.json", record_of(TinyLlama(), "block:16x16", true).dump());
  const auto record = read_prune_record(dir.path());
  ASSERT_TRUE(record);
  EXPECT_EQ(record->method, "magnitude");
  EXPECT_TRUE(record->weights_changed);
  EXPECT_EQ(record->tensors.size(), 14u);
  EXPECT_EQ(record->tensors[0].pattern.block_cols, 16);
}

TEST_F(Verify, LooksAtTheAdapterThatTheRecordTellsOf) {
  const auto has_check = [](const VerifyReport& report) {
    return std::any_of(report.checks.begin(), report.checks.end(),
                       [](const VerifyCheck& check) { return check.name == "low rank"; });
  };
  EXPECT_FALSE(has_check(verify()));
  for (json& tensor : record_["tensors"]) tensor["low_rank"] = 3;
  expect_failure(verify(), "low rank", "adapter_config.json");
  write_adapter(3);
  EXPECT_EQ(check_named(verify_as_written(), "low rank").detail, "14 low-rank parts of the recorded ranks");
  EXPECT_EQ(verify_as_written().first_failure(), nullptr);
  fs::remove_all(dir_.path() / "pruned" / kAdapterFolder);
  write_adapter(2);
  expect_failure(verify_as_written(), "low rank",
                 "found rank 2 in the adapter, but the record says 3 (and 13 more)");
  record_["tensors"][0].erase("low_rank");
  verify();
  write_adapter(3);
  expect_failure(verify_as_written(), "low rank", "found parts of 14 linears, but the record says 13");
  record_["tensors"][0]["low_rank"] = "many";
  expect_error(ErrorKind::kBadInput, [&] { verify(); }, {"swiftprune.json", "low_rank"});
}

// A pruned model beside another one's parent, or beside another pruned model, passes all that is said of zeros.
TEST_F(Verify, TheDenseModelIsTheOneThatWasPruned) {
  const json parent = record_["input"];
  json other = parent;
  other["model.safetensors"] = "sha256:0";
  EXPECT_EQ(check_named(verify(), "parent").detail, "2 files as they were pruned");
  record_.erase("input");
  EXPECT_EQ(check_named(verify(), "parent").outcome, Outcome::kSkipped);
  record_["input"] = other;
  expect_failure(verify(), "parent", "model.safetensors: is not the file that was pruned");
  record_["previous"] = {{"input", parent}};  // recover trained what prune made of it
  EXPECT_EQ(verify().first_failure(), nullptr);
  record_.erase("previous");
  record_["input"] = {{"dense.gguf", "sha256:0"}};
  EXPECT_EQ(check_named(verify(), "parent").detail, "it was made of files of other names (dense.gguf)");
  record_["input"] = {{"dense.gguf", 0}};
  expect_error(ErrorKind::kBadInput, [&] { verify(); }, {"swiftprune.json", "dense.gguf: expected a hash"});
}

}  // namespace
}  // namespace swiftprune
