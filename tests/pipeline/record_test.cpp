// The record says what was asked, what was read and what came out.
#include "swiftprune/pipeline/record.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "support/temp_dir.h"
#include "support/tiny_llama.h"
#include "swiftprune/core/sha256.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

class RecordTest : public ::testing::Test {
 protected:
  RecordTest() {
    test::TinyLlama tiny;
    tiny.max_shard_bytes = 20'000;  // several files of weights
    tiny.write(folder());
    model_ = Model::open(folder());
    plan_ = uniform_plan(*model_, {parse_pattern("2:4"), 0.5, parse_score("wanda"), {}}, {});
    for (const PlanEntry& entry : plan_.entries) {
      TensorResult tensor;
      tensor.name = entry.tensor;
      tensor.pattern = "2:4";
      tensor.rows = entry.rows;
      tensor.cols = entry.cols;
      tensor.asked_sparsity = 0.5;
      tensor.sparsity = entry.input == LinearInput::kMlpOutput ? 0.75 : 0.5;
      result_.tensors.push_back(tensor);
    }
    result_.sparsity = 0.55;
    result_.seconds.total = 4.0;
  }
  fs::path folder() const { return dir_.path() / "model"; }
  ordered_json record(const std::optional<Allocation>& allocation = {},
                      const ordered_json& hashes = nullptr) const {
    return make_record(*model_, plan_, "own", options_, calibration_, allocation, result_,
                       {{"model", "m"}, {"sparsity", 0.5}}, hashes);
  }

  test::TempDir dir_;
  std::unique_ptr<Model> model_;
  Plan plan_;
  PruneOptions options_;
  PruneResult result_;
  CalibrationRecord calibration_{"a.txt", "sha256:ids", 16, 2048, 7, {}};
};

TEST_F(RecordTest, NamesTheFilesThatItWasMadeFromByTheirHashes) {
  const ordered_json input = record().at("input");
  std::size_t weights = 0;
  for (const auto& file : fs::directory_iterator(folder()))
    weights += file.path().extension() == ".safetensors";
  ASSERT_GT(weights, 1u);
  EXPECT_EQ(input.size(), weights + 1);
  for (const auto& [file, hash] : input.items())
    EXPECT_EQ(hash.get<std::string>(), "sha256:" + sha256_file(folder() / file)) << file;
  EXPECT_TRUE(input.contains("config.json"));
  // What the caller has computed already is taken as it is.
  EXPECT_EQ(record({}, {{"config.json", "known"}}).at("input"), ordered_json({{"config.json", "known"}}));
}

TEST_F(RecordTest, TellsTheRun) {
  options_.propagation = Propagation::kDense;
  options_.compute = ComputeType::kBF16;
  calibration_.stopping = StableWindows{16, true, {0.5, 0.25}};
  result_.weights_changed = true;
  result_.resumed_blocks = 1;
  const ordered_json r = record();
  EXPECT_EQ(r.at("swiftprune"), SWIFTPRUNE_VERSION);
  EXPECT_EQ(r.at("command"), ordered_json({{"model", "m"}, {"sparsity", 0.5}}));
  EXPECT_EQ(r.at("method"), "own");
  EXPECT_EQ(r.at("family"), "llama");
  EXPECT_EQ(r.at("weights_changed"), true);
  EXPECT_EQ(r.at("resumed_blocks"), 1);
  EXPECT_DOUBLE_EQ(r.at("asked_sparsity").get<double>(), 0.5);
  EXPECT_EQ(r.at("sparsity"), 0.55);
  EXPECT_EQ(r.at("select"), std::string(name_of(PruneOptions{}.select)));
  EXPECT_EQ(r.at("propagate"), "dense");
  EXPECT_EQ(r.at("compute"), "bf16");
  const ordered_json& c = r.at("calibration");
  EXPECT_EQ(c.at("source"), "a.txt");
  EXPECT_EQ(c.at("ids"), "sha256:ids");
  EXPECT_EQ(c.at("windows"), 16);
  EXPECT_EQ(c.at("seqlen"), 2048);
  EXPECT_EQ(c.at("seed"), 7);
  EXPECT_EQ(c.at("stopping"), ordered_json({{"stable", true}, {"changes", {0.5, 0.25}}}));
}

TEST_F(RecordTest, LeavesOutWhatWasNotMeasured) {
  const ordered_json r = record();
  EXPECT_FALSE(r.at("calibration").contains("stopping"));
  for (const ordered_json& tensor : r.at("tensors")) {
    for (const char* key : {"output_error", "damping", "lambda", "sensitivity"})
      EXPECT_FALSE(tensor.contains(key)) << key;
  }
  for (const ordered_json& block : r.at("blocks")) EXPECT_FALSE(block.contains("largest_output_error"));
}

TEST_F(RecordTest, BlocksAddUpTheirTensors) {
  const std::size_t per_block = plan_.entries.size() / 2;
  result_.tensors[0].error = 0.25;
  result_.tensors[1].error = 0.5;
  const ordered_json blocks = record().at("blocks");
  ASSERT_EQ(blocks.size(), 2u);
  double zeros = 0.0, weights = 0.0;
  for (std::size_t i = 0; i < per_block; ++i) {
    const PlanEntry& entry = plan_.entries[i];
    weights += entry.num_weights();
    zeros += result_.tensors[i].sparsity * entry.num_weights();
  }
  for (std::size_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(blocks[layer].at("layer"), layer);
    EXPECT_DOUBLE_EQ(blocks[layer].at("sparsity").get<double>(), zeros / weights);
  }
  EXPECT_GT(zeros / weights, 0.5);
  EXPECT_EQ(blocks[0].at("largest_output_error"), 0.5);
  EXPECT_FALSE(blocks[1].contains("largest_output_error"));
}

TEST_F(RecordTest, SensitivitiesStandBesideTheirTensorWhateverTheOrder) {
  Allocation allocation;
  for (std::size_t i = 0; i < plan_.entries.size(); ++i)
    allocation.sensitivities.push_back(0.5 + static_cast<double>(i));
  allocation.seconds = 2.0;
  std::reverse(result_.tensors.begin(), result_.tensors.end());
  const ordered_json r = record(allocation);
  for (std::size_t i = 0; i < plan_.entries.size(); ++i) {
    const ordered_json& tensor = r.at("tensors").at(plan_.entries.size() - 1 - i);
    EXPECT_EQ(tensor.at("name"), plan_.entries[i].tensor);
    EXPECT_EQ(tensor.at("sensitivity"), 0.5 + static_cast<double>(i));
  }
  EXPECT_EQ(r.at("seconds").at("allocate"), 2.0);
  EXPECT_EQ(r.at("seconds").at("total"), 6.0);  // with the allocation's
}

TEST_F(RecordTest, ThePreviousRecordIsTheOneThatLiesBesideTheModel) {
  EXPECT_TRUE(previous_record(model_->checkpoint()).is_null());
  test::write_text(folder() / "swiftprune.json", R"({"method": "shrink", "previous": {"method": "wanda"}})");
  EXPECT_EQ(previous_record(model_->checkpoint()).at("previous").at("method"), "wanda");
  test::write_text(folder() / "swiftprune.json", R"({"method": )");
  EXPECT_THROW(previous_record(model_->checkpoint()), Error);
}

}  // namespace
}  // namespace swiftprune
