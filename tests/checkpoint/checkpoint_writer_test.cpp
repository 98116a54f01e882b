#include "swiftprune/checkpoint/checkpoint_writer.h"

#include <sys/mount.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstring>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/checkpoint/safetensors.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::read_text;
using test::TempDir;
using test::write_text;

constexpr const char* kFixture = SWIFTPRUNE_TEST_DATA "/checkpoint/by_library.safetensors";

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

// A whole folder: name -> content.
std::map<std::string, std::string> contents_of(const fs::path& folder) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) contents[entry.path().lexically_relative(folder)] = read_text(entry.path());
  }
  return contents;
}

void make_source(const fs::path& folder) {
  for (const char* name : {"original", "templates"}) fs::create_directories(folder / name);
  fs::create_directories(folder / ".cache");
  fs::copy_file(kFixture, folder / "model.safetensors");
  write_text(folder / "config.json", R"({"model_type":"llama"})");
  write_text(folder / "tokenizer.json", "{}");
  write_text(folder / "swiftprune.json", "old");
  write_text(folder / "pytorch_model.bin", "weights");
  write_text(folder / "pytorch_model.bin.index.json", "{}");
  write_text(folder / "model.safetensors.index.json", "{}");
  write_text(folder / "original/params.json", "{}");
  write_text(folder / "original/consolidated.00.pth", "weights");
  write_text(folder / "templates/tool_use.jinja", "{{ messages }}");
  write_text(folder / ".cache/x", "hidden");
  write_text(folder / "target.txt", "linked");
  fs::create_symlink("target.txt", folder / "LICENSE");
  fs::create_directory_symlink("..", folder / "loop");
}

void copy_tensors(const Checkpoint& source, CheckpointWriter& writer) {
  for (const TensorInfo& tensor : source.tensors()) writer.write_bytes(tensor.name, source.bytes(tensor));
}

// A run that was killed while it copied is gone on with.
TEST(CheckpointWriter, AHalfCopiedFileIsNotTakenOver) {
  const TempDir dir;
  make_source(dir.path() / "in");
  const Checkpoint source = Checkpoint::open(dir.path() / "in");
  {
    CheckpointWriter writer(dir.path() / "out", plan_like(source), Leftover::kContinue);
    writer.keep_when_unfinished();
    std::ofstream(writer.temporary_folder() / ".tokenizer.json.part") << "{";
  }
  CheckpointWriter writer(dir.path() / "out", plan_like(source), Leftover::kContinue);
  ASSERT_TRUE(writer.continues());
  copy_tensors(source, writer);
  writer.copy_other_files(source);
  writer.finish();
  EXPECT_EQ(contents_of(dir.path() / "out").at("tokenizer.json"),
            contents_of(dir.path() / "in").at("tokenizer.json"));
  EXPECT_FALSE(fs::exists(dir.path() / "out/.tokenizer.json.part"));
}

TEST(CheckpointWriter, CopyIsByteIdentical) {
  const TempDir dir;
  make_source(dir.path() / "in");
  const auto before = contents_of(dir.path() / "in");
  const Checkpoint source = Checkpoint::open(dir.path() / "in");
  CheckpointWriter writer(dir.path() / "out", plan_like(source));
  EXPECT_EQ(writer.temporary_folder().parent_path(), dir.path());
  EXPECT_TRUE(writer.temporary_folder().filename().string().starts_with(".out.partial-"));
  copy_tensors(source, writer);
  writer.write_file("swiftprune.json", "new");
  writer.copy_other_files(source, std::vector<std::string>{"tokenizer.json"});
  EXPECT_FALSE(fs::exists(dir.path() / "out"));
  writer.finish();
  EXPECT_EQ(names_in(dir.path()), (std::vector<std::string>{"in", "out"}));
  EXPECT_EQ(contents_of(dir.path() / "out"),
            (std::map<std::string, std::string>{{"model.safetensors", read_text(kFixture)},
                                                {"config.json", R"({"model_type":"llama"})"},
                                                {"swiftprune.json", "new"},
                                                {"templates/tool_use.jinja", "{{ messages }}"},
                                                {"target.txt", "linked"},
                                                {"LICENSE", "linked"}}));
  EXPECT_EQ(contents_of(dir.path() / "in"), before);
}

// The dense model in another form, with its weights or without (a download may leave them out): neither its config.json nor
// its tokenizer is this model's. A folder with settings of something else comes along.
TEST(CheckpointWriter, OtherModelsInSubfoldersStayBehind) {
  const TempDir dir;
  make_source(dir.path() / "in");
  const std::map<std::string, std::string> files = {
      {"onnx/config.json", R"({"model_type":"llama"})"}, {"onnx/quantized/tokenizer.json", "{}"},
      {"openvino/model.onnx_data", "weights"},           {"openvino/model.xml", "<net/>"},
      {"checkpoint-5/model.safetensors", "weights"},     {"checkpoint-5/trainer_state.json", "{}"},
      {"1_Pooling/config.json", R"({"dimension":4})"},   {"notes/config.json", "not JSON"}};
  for (const auto& [name, content] : files) {
    fs::create_directories((dir.path() / "in" / name).parent_path());
    write_text(dir.path() / "in" / name, content);
  }
  const Checkpoint source = Checkpoint::open(dir.path() / "in");
  CheckpointWriter writer(dir.path() / "out", plan_like(source));
  copy_tensors(source, writer);
  writer.copy_other_files(source);
  writer.finish();
  const auto written = contents_of(dir.path() / "out");
  for (const auto& [name, content] : files)
    EXPECT_EQ(written.contains(name), name.starts_with("1_Pooling/") || name.starts_with("notes/")) << name;
}

TEST(CheckpointWriter, AdaptersComeAlongWholeOrNotAtAll) {
  const TempDir dir;
  make_source(dir.path() / "in");
  fs::create_directories(dir.path() / "in/adapter");
  write_text(dir.path() / "in/adapter/adapter_config.json", "{}");
  write_text(dir.path() / "in/adapter/adapter_model.safetensors", "weights");
  const Checkpoint source = Checkpoint::open(dir.path() / "in");
  for (const Adapters adapters : {Adapters::kLeave, Adapters::kCopy}) {
    const fs::path out = dir.path() / (adapters == Adapters::kCopy ? "with" : "without");
    CheckpointWriter writer(out, plan_like(source));
    copy_tensors(source, writer);
    writer.copy_other_files(source, {}, adapters);
    writer.finish();
    for (const char* file : {"adapter_config.json", "adapter_model.safetensors"})
      EXPECT_EQ(fs::exists(out / "adapter" / file), adapters == Adapters::kCopy) << file;
  }
}

// Tensors of a file in a folder of its own stand beside the model: its index does not name them.
TEST(CheckpointWriter, WhatStandsBesideTheModelIsNotInItsIndex) {
  const TempDir dir;
  for (const bool sharded : {false, true}) {
    const fs::path out = dir.path() / (sharded ? "sharded" : "whole");
    std::vector<PlannedTensor> plan = {{"a", DType::kF32, {2}, ""}, {"b", DType::kF32, {2}, ""}};
    assign_shards(plan, sharded ? 8 : 1000);
    plan.push_back({"c", DType::kF32, {1}, "beside/c.safetensors"});
    {
      CheckpointWriter writer(out, plan, Leftover::kDiscard);
      writer.write("c", std::array{3.0f});
      writer.keep_when_unfinished();
    }
    CheckpointWriter writer(out, plan, Leftover::kContinue);
    ASSERT_TRUE(writer.continues());
    std::array<float, 1> read{};
    writer.read("c", read);
    EXPECT_EQ(read[0], 3.0f);
    writer.mark_written("c");
    writer.write("a", std::array{1.0f, 1.0f});
    writer.write("b", std::array{2.0f, 2.0f});
    writer.write_file("beside/config.json", "{}");
    writer.write_file("config.json", "{}");
    writer.finish();
    EXPECT_EQ(fs::exists(out / kSafetensorsIndexFile), sharded);
    EXPECT_EQ(names_in(out / "beside"), (std::vector<std::string>{"c.safetensors", "config.json"}));
    const Checkpoint written = Checkpoint::open(out);
    EXPECT_EQ(written.tensors().size(), 2u);
  }
}

TEST(CheckpointWriter, FolderHasTheUsualRights) {
  const TempDir dir;
  const mode_t mask = ::umask(0027);
  {
    CheckpointWriter writer(dir.path() / "out", {{"a", DType::kU8, {1}, "model.safetensors"}});
    writer.write_bytes("a", std::as_bytes(std::span("x", 1)));
    writer.finish();
  }
  ::umask(mask);
  EXPECT_EQ(fs::status(dir.path() / "out").permissions(), static_cast<fs::perms>(0750));
  EXPECT_EQ(fs::status(dir.path() / "out/model.safetensors").permissions(), static_cast<fs::perms>(0640));
}

TEST(CheckpointWriter, ConvertsToThePlannedDtypeInAnyOrder) {
  const TempDir dir;
  std::vector<PlannedTensor> plan = {
      {"half", DType::kF16, {3}, ""}, {"full", DType::kF32, {2, 1}, ""}, {"brain", DType::kBF16, {2}, ""}};
  assign_shards(plan, 1000);
  CheckpointWriter writer(dir.path() / "out/", plan);
  writer.write("brain", std::array{1.0f, 3.0f});
  writer.write("full", std::array{-0.0f, 0.1f});
  writer.write("half", std::array{-0.0f, -1e-9f, 1.5f});
  writer.write_file("config.json", "{}");
  writer.finish();

  const Checkpoint out = Checkpoint::open(dir.path() / "out");
  ASSERT_EQ(out.tensors().size(), 3u);
  EXPECT_EQ(out.tensors()[0].name, "full");  // larger elements first, so that all are aligned
  EXPECT_EQ(out.tensors()[1].name, "half");
  const auto half = out.load_vector("half", 3);
  EXPECT_FALSE(std::signbit(half[0]) || std::signbit(half[1]));
  EXPECT_EQ(half[2], 1.5f);
  EXPECT_EQ(out.load_matrix("full", 2, 1).at(1, 0), 0.1f);
  EXPECT_FALSE(std::signbit(out.load_matrix("full", 2, 1).at(0, 0)));
  EXPECT_EQ(out.load_vector("brain", 2), (std::vector<float>{1.0f, 3.0f}));
}

TEST(CheckpointWriter, LongTensorsAreConvertedInChunks) {
  const TempDir dir;
  constexpr std::int64_t kSize = 3 * (1 << 18) + 5;
  std::vector<float> values(kSize);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 2048);
  CheckpointWriter writer(dir.path() / "out", {{"a", DType::kF16, {kSize}, "model.safetensors"}});
  writer.write("a", values);
  writer.write_file("config.json", "{}");
  writer.finish();
  EXPECT_EQ(Checkpoint::open(dir.path() / "out").load_vector("a", kSize), values);
}

TEST(CheckpointWriter, ShardsGetAnIndex) {
  const TempDir dir;
  std::vector<PlannedTensor> plan = {{"a", DType::kF16, {4}, ""},
                                     {"b", DType::kF16, {6}, ""},
                                     {"c", DType::kF16, {50}, ""},
                                     {"d", DType::kF16, {1}, ""}};
  assign_shards(plan, 20);
  EXPECT_EQ(plan[1].file, "model-00001-of-00003.safetensors");
  EXPECT_EQ(plan[2].file, "model-00002-of-00003.safetensors");
  EXPECT_EQ(plan[3].file, "model-00003-of-00003.safetensors");
  CheckpointWriter writer(dir.path() / "out", plan);
  for (const PlannedTensor& tensor : plan) {
    writer.write(tensor.name, std::vector<float>(static_cast<std::size_t>(tensor.shape[0]), 2.0f));
  }
  writer.write_file("config.json", "{}");
  writer.finish();
  const Checkpoint out = Checkpoint::open(dir.path() / "out");
  EXPECT_EQ(out.at("d").file, "model-00003-of-00003.safetensors");
  const auto index = nlohmann::json::parse(read_text(dir.path() / "out/model.safetensors.index.json"));
  EXPECT_EQ(index.at("metadata").at("total_size"), 2 * (4 + 6 + 50 + 1));
}

TEST(CheckpointWriter, WithoutFinishNothingIsLeft) {
  const TempDir dir;
  {
    CheckpointWriter writer(dir.path() / "new/deep/out", {{"a", DType::kU8, {1}, "model.safetensors"}});
    writer.write_file("config.json", "{}");
    EXPECT_TRUE(fs::exists(dir.path() / "new/deep"));
  }
  EXPECT_TRUE(names_in(dir.path()).empty());
}

TEST(CheckpointWriter, AnUnfinishedFolderIsTakenOverOrDiscarded) {
  const TempDir dir;
  const std::vector<PlannedTensor> plan = {{"a", DType::kF32, {2}, "model.safetensors"},
                                           {"b", DType::kF32, {2}, "model.safetensors"}};
  const std::array<float, 2> values = {1.5f, -2.0f};
  const fs::path folder = dir.path() / "out";
  const auto leave = [&] {
    CheckpointWriter writer(folder, plan, Leftover::kDiscard);
    EXPECT_FALSE(writer.continues());
    writer.keep_when_unfinished();
    writer.write("a", values);
  };
  leave();
  EXPECT_FALSE(fs::exists(folder));
  {
    CheckpointWriter writer(folder, plan, Leftover::kContinue);
    ASSERT_TRUE(writer.continues());
    std::array<float, 2> found{};
    writer.read("a", found);
    EXPECT_EQ(found, values);
    writer.mark_written("a");
    writer.write("b", values);
    writer.finish();
  }
  EXPECT_THAT(names_in(folder), ::testing::ElementsAre("model.safetensors"));
  fs::remove_all(folder);

  leave();
  std::vector<PlannedTensor> other = plan;
  other[1].shape = {3};
  {
    CheckpointWriter writer(folder, other, Leftover::kContinue);
    EXPECT_FALSE(writer.continues());
  }
  EXPECT_TRUE(names_in(dir.path()).empty());

  leave();
  {
    CheckpointWriter writer(folder, plan, Leftover::kDiscard);
    std::array<float, 2> found = values;
    writer.read("a", found);
    EXPECT_EQ(found, (std::array<float, 2>{}));
    expect_error(
        ErrorKind::kUsage, [&] { CheckpointWriter(folder, plan, Leftover::kDiscard); }, "another");
    expect_error(
        ErrorKind::kUsage, [&] { CheckpointWriter(folder, plan, Leftover::kContinue); }, "another");
  }
  EXPECT_TRUE(names_in(dir.path()).empty());
}

TEST(CheckpointWriter, UnwrittenTensorIsAnError) {
  const TempDir dir;
  {
    CheckpointWriter writer(dir.path() / "out", {{"a", DType::kU8, {1}, "model.safetensors"}});
    expect_error(
        ErrorKind::kFailure, [&] { writer.finish(); }, "tensor a: found 0 of 1 elements written");
  }
  EXPECT_TRUE(names_in(dir.path()).empty());
}

TEST(CheckpointWriter, TakesAnEmptyFolderAndNoOther) {
  const TempDir dir;
  const std::vector<PlannedTensor> plan = {{"a", DType::kU8, {1}, "model.safetensors"}};
  fs::create_directory(dir.path() / "out");
  {
    CheckpointWriter writer(dir.path() / "out", plan);
    writer.write_bytes("a", std::as_bytes(std::span("x", 1)));
    writer.finish();
  }
  EXPECT_TRUE(fs::exists(dir.path() / "out/model.safetensors"));
  expect_error(
      ErrorKind::kBadInput, [&] { CheckpointWriter(dir.path() / "out", plan); },
      "out: the folder is not empty");
  write_text(dir.path() / "file", "");
  expect_error(
      ErrorKind::kBadInput, [&] { CheckpointWriter(dir.path() / "file", plan); }, "file: found a file");
  EXPECT_EQ(names_in(dir.path()), (std::vector<std::string>{"file", "out"}));
}

TEST(CheckpointWriter, FolderThatFilledUpMeanwhileIsKept) {
  const TempDir dir;
  {
    CheckpointWriter writer(dir.path() / "out", {{"a", DType::kU8, {1}, "model.safetensors"}});
    writer.write_bytes("a", std::as_bytes(std::span("x", 1)));
    fs::create_directory(dir.path() / "out");
    write_text(dir.path() / "out/mine", "mine");
    expect_error(
        ErrorKind::kFailure, [&] { writer.finish(); }, "out: cannot be written");
  }
  EXPECT_EQ(contents_of(dir.path()), (std::map<std::string, std::string>{{"out/mine", "mine"}}));
}

TEST(CheckpointWriter, FolderThatCannotBeMade) {
  const TempDir dir;
  write_text(dir.path() / "file", "");
  expect_error(
      ErrorKind::kFailure,
      [&] {
        CheckpointWriter(dir.path() / "file/out", {{"a", DType::kU8, {1}, "model.safetensors"}});
      },
      "file");
}

// A file system of 4 MB.
class SmallDisk : public testing::Test {
 protected:
  void SetUp() override {
    if (::mount("tmpfs", dir_.path().c_str(), "tmpfs", 0, "size=4m") != 0) {
      GTEST_SKIP() << "mounting a small tmpfs needs root: the disk-full tests do not run";
    }
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) ::umount2(dir_.path().c_str(), MNT_DETACH);
  }
  fs::path disk() const { return dir_.path(); }

 private:
  TempDir dir_;
  bool mounted_ = false;
};

TEST_F(SmallDisk, TooSmallIsSaidBeforeAnyWork) {
  expect_error(
      ErrorKind::kFailure,
      [&] {
        CheckpointWriter(disk() / "out", {{"a", DType::kU8, {4'000'000}, "model.safetensors"}});
      },
      "the disk is too small: found 4.2 MB free, expected 5.0 MB");
  EXPECT_TRUE(names_in(disk()).empty());
}

TEST_F(SmallDisk, WeightsKeepTheirRoomWhenTheDiskFillsUp) {
  CheckpointWriter writer(disk() / "out", {{"a", DType::kU8, {2'000'000}, "model.safetensors"}});
  std::ofstream filler(disk() / "filler");
  filler << std::string(8'000'000, 'x') << std::flush;
  EXPECT_FALSE(filler.good());
  writer.write_bytes("a", std::vector<std::byte>(2'000'000));
  expect_error(
      ErrorKind::kFailure, [&] { writer.write_file("config.json", "{}"); }, "config.json: the disk is full");
}

TEST_F(SmallDisk, FullDiskLeavesNothing) {
  {
    CheckpointWriter writer(disk() / "out", {{"a", DType::kU8, {2'000'000}, "model.safetensors"}});
    expect_error(
        ErrorKind::kFailure, [&] { writer.write_file("tokenizer.json", std::string(3'000'000, 'x')); },
        "tokenizer.json: the disk is full");
  }
  EXPECT_TRUE(names_in(disk()).empty());
}

// What is to be stored as its transpose stands in the plan's order until finish(); a run that died while it was turned
// cannot be gone on with.
TEST(CheckpointWriter, TransposesWhenItIsFinished) {
  const TempDir dir;
  const fs::path folder = dir.path() / "out";
  const std::vector<PlannedTensor> plan = {{"w", DType::kF32, {2, 3}, kSafetensorsFile, false, true},
                                           {"v", DType::kF32, {2, 3}, kSafetensorsFile}};
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  {
    CheckpointWriter writer(folder, plan, Leftover::kContinue);
    writer.keep_when_unfinished();
    writer.write_part("w", 0, std::span(values).first(4));
    writer.write_part("w", 4, std::span(values).subspan(4));
    std::vector<float> back(6);
    writer.read("w", back);
    EXPECT_EQ(back, values);
  }
  {
    CheckpointWriter writer(folder, plan, Leftover::kContinue);
    EXPECT_TRUE(writer.continues());
    writer.keep_when_unfinished();
    write_text(writer.temporary_folder() / ".transposing", "");
  }
  CheckpointWriter writer(folder, plan, Leftover::kContinue);
  EXPECT_FALSE(writer.continues());
  writer.write("w", values);
  writer.write("v", values);
  writer.finish();
  EXPECT_FALSE(fs::exists(folder / ".transposing"));
  const MappedFile file(folder / kSafetensorsFile);
  const SafetensorsHeader header = parse_safetensors(file.bytes(), "file");
  for (const TensorInfo& tensor : header.tensors) {
    std::vector<float> found(6);
    std::memcpy(found.data(), file.bytes().data() + header.data_begin + tensor.begin, 24);
    const bool turned = tensor.name == "w";
    EXPECT_EQ(tensor.shape, turned ? (std::vector<std::int64_t>{3, 2}) : (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(found, turned ? (std::vector<float>{1, 4, 2, 5, 3, 6}) : values);
  }
}

}  // namespace
}  // namespace swiftprune
