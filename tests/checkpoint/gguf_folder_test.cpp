// A GGUF file read without import: whatever a command sees of it must be what it sees of the folder that import makes.
#include "swiftprune/checkpoint/gguf_folder.h"

#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/gguf_fixture.h"
#include "support/expect_error.h"
#include "support/gguf_builder.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/import_gguf.h"
#include "swiftprune/checkpoint/model_location.h"
#include "swiftprune/pipeline/record.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::read_text;
using test::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

fs::path fixture_file(const std::string& name) { return test::gguf_fixture(name + ".gguf"); }

class ReadGguf : public testing::TestWithParam<const char*> {};

// Rows in another order (llama, gptneox), an offset (gemma), biases, matrices as they lie.
INSTANTIATE_TEST_SUITE_P(Families, ReadGguf,
                         testing::Values("llama", "llama_bias", "qwen3", "gpt2", "nemotron", "gemma2",
                                         "gptneox", "phi3", "qwen2moe", "gpt_oss", "glm4moe", "deepseek_v2",
                                         "command_r"),
                         [](const auto& test_info) { return test_info.param; });

// Assembled: experts one by one, fused and in MXFP4, and kv_b_proj.
INSTANTIATE_TEST_SUITE_P(Experts, ReadGguf,
                         testing::Values("mixtral", "qwen3moe", "gpt_oss_mxfp4", "deepseek_v3"),
                         [](const auto& test_info) { return test_info.param; });

TEST_P(ReadGguf, IsTheFolderThatImportMakes) {
  const TempDir dir;
  import_gguf(fixture_file(GetParam()), dir.path() / "imported", {});
  const GgufFolder folder(fixture_file(GetParam()));
  for (const char* name : {"config.json", "generation_config.json"})
    EXPECT_EQ(read_text(folder.path() / name), read_text(dir.path() / "imported" / name));
  EXPECT_EQ(folder.path().filename(), GetParam());

  const Checkpoint expected = Checkpoint::open(dir.path() / "imported");
  const Checkpoint found = Checkpoint::open(folder.path());
  ASSERT_EQ(found.tensors().size(), expected.tensors().size());
  for (const TensorInfo& tensor : expected.tensors()) {
    SCOPED_TRACE(tensor.name);
    const TensorInfo& own = found.at(tensor.name);
    EXPECT_EQ(own.dtype, tensor.dtype);
    EXPECT_EQ(own.shape, tensor.shape);
    EXPECT_EQ(own.num_bytes(), tensor.num_bytes());
    if (is_weight_dtype(tensor.dtype)) {
      EXPECT_EQ(found.load_tensor(tensor.name, tensor.shape),
                expected.load_tensor(tensor.name, tensor.shape));
    }
    for (int time = 0; time < 2; ++time) {  // again, after what was expanded is gone
      const auto bytes = found.bytes(own);
      EXPECT_EQ(bytes.data(), found.bytes(own).data()) << "kept until it is released";
      EXPECT_TRUE(std::ranges::equal(bytes, expected.bytes(tensor)));
      found.release(own);
    }
    // Parts of a tensor that the folder holds transposed are not to be had.
    for (std::int64_t i = 0; i < tensor.shape.front() && !tensor.transposed; ++i) {
      std::vector<std::byte> part, expected_part;
      EXPECT_TRUE(std::ranges::equal(found.bytes_of_part(own, i, 1, part),
                                     expected.bytes_of_part(tensor, i, 1, expected_part)))
          << i;
    }
    if (tensor.shape.size() != 2) continue;
    const std::int64_t rows = tensor.shape[0], cols = tensor.shape[1];
    EXPECT_EQ(found.load_matrix(tensor.name, rows, cols).values()[0],
              expected.load_matrix(tensor.name, rows, cols).values()[0]);
    Matrix last(1, cols), expected_last(1, cols);
    found.load_rows(own, rows - 1, last.view());
    expected.load_rows(tensor, rows - 1, expected_last.view());
    EXPECT_TRUE(std::ranges::equal(last.values(), expected_last.values()));
  }
  EXPECT_THAT(found.notes().front(), HasSubstr("of a GGUF file, read as "));
}

TEST_P(ReadGguf, IsWrittenAsASafetensorsFolder) {
  const TempDir dir;
  import_gguf(fixture_file(GetParam()), dir.path() / "imported", {});
  const GgufFolder folder(fixture_file(GetParam()));
  const Checkpoint source = Checkpoint::open(folder.path());
  CheckpointWriter writer(dir.path() / "copy", plan_like(source));
  for (const TensorInfo& tensor : source.tensors()) {
    writer.write_bytes(tensor.name, source.bytes(tensor));
    source.release(tensor);
  }
  writer.copy_other_files(source);
  writer.finish();
  for (const auto& entry : fs::directory_iterator(dir.path() / "imported")) {
    const fs::path name = entry.path().filename();
    EXPECT_EQ(read_text(dir.path() / "copy" / name), read_text(entry.path())) << name;
  }
  EXPECT_FALSE(fs::exists(dir.path() / "copy" / source.tensors().front().file)) << "the weights once more";
}

TEST(GgufFolder, IsThereAsLongAsItIsUsed) {
  const TempDir dir;
  fs::copy(fixture_file("llama"), dir.path() / "My model.Q4.gguf");
  const fs::path file = dir.path() / "My model.Q4.gguf";
  fs::path folder;
  {
    LocatedModel located = locate_model(file);
    ASSERT_NE(located.gguf, nullptr);
    folder = located.folder;
    EXPECT_EQ(model_name(folder), "My model.Q4");
    EXPECT_EQ(fs::last_write_time(folder / "config.json"), fs::last_write_time(file))
        << "another run finds the same input";
    EXPECT_EQ(Checkpoint::open(folder).tensors().front().file, "My model.Q4.gguf");
  }
  EXPECT_FALSE(fs::exists(folder.parent_path()));
  EXPECT_EQ(locate_model(dir.path()).gguf, nullptr);
}

TEST(GgufFolder, WhatCannotBeReadIsSaidAndNothingIsLeft) {
  const TempDir dir;
  fs::create_directory(dir.path() / "tmp");
  ::setenv("TMPDIR", (dir.path() / "tmp").c_str(), 1);
  test::write_text(dir.path() / "bad.gguf", "GGUF but no more");
  expect_error(
      ErrorKind::kBadInput, [&] { GgufFolder(dir.path() / "bad.gguf"); }, "bad.gguf: ");
  EXPECT_THAT(std::vector<fs::path>(fs::directory_iterator(dir.path() / "tmp"), {}), IsEmpty());
  ::setenv("TMPDIR", (dir.path() / "nowhere").c_str(), 1);
  expect_error(
      ErrorKind::kFailure, [&] { GgufFolder(fixture_file("llama")); }, "TMPDIR");
  ::unsetenv("TMPDIR");
}

TEST(GgufFolder, AFolderWithOneIsReadWhenItHasAConfig) {
  const TempDir dir;
  fs::copy(fixture_file("llama"), dir.path() / "a.gguf");
  const auto refused = [&](const std::string& text) {
    expect_error(
        ErrorKind::kBadInput, [&] { Checkpoint::open(dir.path()); }, text);
  };
  refused("found a.gguf but no config.json beside it; give the file itself as the model");
  const GgufFolder folder(fixture_file("llama"));
  fs::copy(folder.path() / "config.json", dir.path() / "config.json");
  EXPECT_EQ(Checkpoint::open(dir.path()).tensors().front().file, "a.gguf");
  fs::copy(fixture_file("llama"), dir.path() / "b.gguf");
  refused("give the file itself as the model");
}

TEST(GgufFolder, OfAModelInSeveralFilesReadsAll) {
  const TempDir dir;
  import_gguf(fixture_file("qwen3"), dir.path() / "imported", {});
  const Checkpoint expected = Checkpoint::open(dir.path() / "imported");
  const auto check = [&](const fs::path& folder) {
    const Checkpoint found = Checkpoint::open(folder);
    ASSERT_EQ(found.tensors().size(), expected.tensors().size());
    for (const TensorInfo& tensor : expected.tensors()) {
      const TensorInfo& own = found.at(tensor.name);
      EXPECT_TRUE(std::ranges::equal(found.bytes(own), expected.bytes(tensor))) << tensor.name;
    }
  };
  const GgufFolder folder(fixture_file("qwen3_split-00002-of-00003"));
  check(folder.path());
  EXPECT_EQ(model_files(Checkpoint::open(folder.path())).size(), 4u) << "config.json and all parts";
  // Where they lie beside a config.json they are one model, too.
  const fs::path whole = dir.path() / "whole";
  fs::create_directory(whole);
  for (const auto& entry : fs::directory_iterator(folder.path()))
    fs::copy_file(fs::canonical(entry.path()), whole / entry.path().filename());
  check(whole);
  fs::remove(whole / "qwen3_split-00003-of-00003.gguf");
  expect_error(
      ErrorKind::kBadInput, [&] { Checkpoint::open(whole); }, "give the file itself as the model");
}

// Another kind of tokenizer leaves a model that works on token ids.
TEST(GgufFolder, ATokenizerThatIsNotUnderstoodIsANote) {
  const TempDir dir;
  std::string file = read_text(fixture_file("llama"));
  const std::size_t place = file.find("gpt2");
  ASSERT_NE(place, std::string::npos);
  file.replace(place, 4, "bert");
  test::write_text(dir.path() / "m.gguf", file);
  const GgufFolder folder(dir.path() / "m.gguf");
  ASSERT_EQ(folder.notes().size(), 1u);
  EXPECT_THAT(folder.notes().front(), HasSubstr("without a tokenizer: "));
  EXPECT_FALSE(fs::exists(folder.path() / "tokenizer.json"));
  EXPECT_NO_THROW(Checkpoint::open(folder.path()));
}

}  // namespace
}  // namespace swiftprune
