#include "swiftprune/checkpoint/checkpoint.h"

#include <cmath>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/safetensors.h"

namespace swiftprune {
namespace {

using test::expect_error;
using test::TempDir;
using test::write_text;

std::string fixture() { return test::read_text(SWIFTPRUNE_TEST_DATA "/checkpoint/by_library.safetensors"); }

// One U8 tensor.
std::string small_file(const std::string& tensor, std::string_view content) {
  const std::vector<TensorInfo> tensors = {
      {tensor, DType::kU8, {static_cast<std::int64_t>(content.size())}, "", 0, content.size()}};
  return format_safetensors_header(tensors) + std::string(content);
}

class CheckpointFolder : public testing::Test {
 protected:
  void SetUp() override { write("config.json", R"({"model_type": "llama"})"); }
  void write(const std::string& name, std::string_view content) { write_text(folder() / name, content); }
  void write_shards() {
    write("model-00001-of-00002.safetensors", small_file("a", "12"));
    write("model-00002-of-00002.safetensors", small_file("b", "345"));
    write("model.safetensors.index.json",
          R"({"metadata":{"total_size":5},"weight_map":{"a":"model-00001-of-00002.safetensors",)"
          R"("b":"model-00002-of-00002.safetensors"}})");
  }
  std::filesystem::path folder() const { return dir_.path(); }
  void expect_bad(const std::string& text, const std::string& text2 = "") {
    expect_error(
        ErrorKind::kBadInput, [&] { Checkpoint::open(folder()); }, text, text2);
  }

 private:
  TempDir dir_;
};

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST_F(CheckpointFolder, OpensOneFile) {
  write("model.safetensors", fixture());
  const Checkpoint checkpoint = Checkpoint::open(folder());
  EXPECT_EQ(checkpoint.folder(), folder());
  EXPECT_EQ(checkpoint.config().at("model_type"), "llama");
  EXPECT_EQ(checkpoint.tensors().size(), 7u);
  EXPECT_EQ(checkpoint.at("g.mask").file, "model.safetensors");
  EXPECT_EQ(text_of(checkpoint.bytes(checkpoint.at("g.mask"))), std::string("\1\0\1", 3));
  EXPECT_EQ(checkpoint.find("nothing"), nullptr);
  expect_error(
      ErrorKind::kBadInput, [&] { checkpoint.at("nothing"); }, "tensor nothing is missing");
  expect_error(
      ErrorKind::kBadInput, [&] { checkpoint.at("mask"); }, "tensor mask is missing; found g.mask");
}

TEST_F(CheckpointFolder, LoadsAsFloat) {
  write("model.safetensors", fixture());
  const Checkpoint checkpoint = Checkpoint::open(folder());
  const Matrix half = checkpoint.load_matrix("b.half", 2, 3);
  EXPECT_EQ(half.at(0, 1), -2.5f);
  EXPECT_EQ(half.at(0, 2), 65504.0f);
  EXPECT_EQ(half.at(1, 0), 0x1p-24f);
  EXPECT_TRUE(std::signbit(half.at(1, 2)));
  EXPECT_EQ(checkpoint.load_vector("a.brain", 3)[0], 3.140625f);
  EXPECT_EQ(checkpoint.load_vector("a.brain", 3)[2], INFINITY);
  EXPECT_EQ(checkpoint.load_matrix("c.float", 1, 2).at(0, 1), 1e-40f);
  EXPECT_EQ(checkpoint.load_matrix("e.empty", 0, 4).numel(), 0);
}

TEST_F(CheckpointFolder, LoadsRowsIntoAStridedView) {
  write("model.safetensors", fixture());
  const Checkpoint checkpoint = Checkpoint::open(folder());
  Matrix target = Matrix::zeros(2, 5);
  checkpoint.load_rows(checkpoint.at("b.half"), 1, target.view().row_block(1, 1).col_block(1, 3));
  EXPECT_EQ(target.at(1, 1), 0x1p-24f);
  for (float value : {target.at(0, 0), target.at(0, 4), target.at(1, 0), target.at(1, 2), target.at(1, 4)}) {
    EXPECT_EQ(value, 0.0f);
  }
}

TEST_F(CheckpointFolder, WrongShapesAndDtypesAreRefused) {
  write("model.safetensors", fixture());
  const Checkpoint checkpoint = Checkpoint::open(folder());
  expect_error(
      ErrorKind::kBadInput, [&] { checkpoint.load_matrix("b.half", 3, 2); }, "tensor b.half",
      "found shape [2, 3], expected [3, 2]");
  expect_error(
      ErrorKind::kBadInput, [&] { checkpoint.load_vector("b.half", 6); }, "expected [6]");
  expect_error(
      ErrorKind::kBadInput, [&] { checkpoint.load_vector("g.mask", 3); }, "found dtype BOOL");
  Matrix row(1, 4);
  expect_error(
      ErrorKind::kBadInput, [&] { checkpoint.load_rows(checkpoint.at("b.half"), 0, row.view()); },
      "expected [2, 4]");
  expect_error(
      ErrorKind::kBadInput, [&] { checkpoint.load_rows(checkpoint.at("f.scalar"), 0, row.view()); },
      "f.scalar");
}

TEST_F(CheckpointFolder, ReleasedPagesCanBeReadAgain) {
  const std::string content(100'000, 'x');
  write("model.safetensors", small_file("a", content));
  const Checkpoint checkpoint = Checkpoint::open(folder());
  EXPECT_EQ(text_of(checkpoint.bytes(checkpoint.at("a"))), content);
  checkpoint.release(checkpoint.at("a"));
  EXPECT_EQ(text_of(checkpoint.bytes(checkpoint.at("a"))), content);
}

TEST_F(CheckpointFolder, OpensShards) {
  write_shards();
  const Checkpoint checkpoint = Checkpoint::open(folder());
  ASSERT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.at("b").file, "model-00002-of-00002.safetensors");
  EXPECT_EQ(text_of(checkpoint.bytes(checkpoint.at("a"))), "12");
  EXPECT_EQ(text_of(checkpoint.bytes(checkpoint.at("b"))), "345");
}

TEST_F(CheckpointFolder, PrefersTheSingleFile) {
  write_shards();
  write("model.safetensors", small_file("single", "x"));
  const Checkpoint checkpoint = Checkpoint::open(folder());
  ASSERT_EQ(checkpoint.tensors().size(), 1u);
  EXPECT_EQ(checkpoint.tensors()[0].name, "single");
}

TEST_F(CheckpointFolder, MovesKeepTheNames) {
  write_shards();
  Checkpoint first = Checkpoint::open(folder());
  const Checkpoint second = std::move(first);
  EXPECT_EQ(second.at("a").numel(), 2);
}

TEST_F(CheckpointFolder, MissingThings) {
  expect_bad("found neither model.safetensors nor model.safetensors.index.json");
  write("other.bin", "");
  expect_bad("found other.bin, expected model.safetensors, pytorch_model.bin or their shards");
  std::filesystem::remove(folder() / "other.bin");
  write("pytorch_model.bin", "");
  expect_bad("pytorch_model.bin: found neither a zip archive nor a pickle");
  std::filesystem::remove(folder() / "pytorch_model.bin");
  write("x.gguf", "");
  expect_bad("x.gguf: found another kind of file, expected a GGUF file");
  write("model.safetensors", small_file("a", "x"));
  std::filesystem::remove(folder() / "config.json");
  expect_bad("config.json: cannot be read: No such file");
  expect_error(
      ErrorKind::kBadInput, [&] { Checkpoint::open(folder() / "nowhere"); }, "nowhere: no such folder");
  expect_error(
      ErrorKind::kBadInput, [&] { Checkpoint::open(folder() / "model.safetensors"); }, "found a file");
}

TEST_F(CheckpointFolder, BadConfig) {
  write("model.safetensors", small_file("a", "x"));
  write("config.json", "[]");
  expect_bad("config.json: expected a JSON object");
  write("config.json", R"({"a": 1, "a": 2})");
  expect_bad("config.json: found the key \"a\" twice");
  write("config.json", "{\"a\": \n");
  expect_bad("config.json: not valid JSON");
  write("config.json", std::string(100'000, '['));
  expect_bad("nested deeper than 64");
  std::filesystem::remove(folder() / "config.json");
  std::filesystem::create_directory(folder() / "config.json");
  expect_bad("config.json: found a folder");
}

TEST_F(CheckpointFolder, NoTensors) {
  write("model.safetensors", format_safetensors_header({}));
  expect_bad("found no tensors");
}

TEST_F(CheckpointFolder, BadFileIsNamed) {
  write("model.safetensors", "");
  expect_bad("model.safetensors: found 0 bytes");
}

TEST_F(CheckpointFolder, BadIndexes) {
  write_shards();
  const auto index = [&](std::string_view text) { write("model.safetensors.index.json", text); };
  index("{}");
  expect_bad("index.json: found no weight_map");
  index("[]");
  expect_bad("found no weight_map");
  index(R"({"weight_map":{}})");
  expect_bad("found no weight_map");
  index(R"({"weight_map":{"a":1}})");
  expect_bad("weight_map: a: expected a file name");
  index(R"({"weight_map":{"a":"../x.safetensors"}})");
  expect_bad("in this folder");
  index(R"({"weight_map":{"a":"config.json"}})");
  expect_bad("expected the name of a .safetensors file");
  index(R"({"weight_map":{"a\n":"x.safetensors"}})");
  expect_bad("control character");
  index(R"({"weight_map":{"a":"model-00001-of-00002.safetensors","a":"model-00002-of-00002.safetensors"}})");
  expect_bad("key \"a\" twice");
  index(R"({"weight_map":{"a":"model-00003-of-00003.safetensors"}})");
  expect_bad("names the shard model-00003-of-00003.safetensors, which is missing");
}

TEST_F(CheckpointFolder, IndexesThatDisagreeHarmlesslyAreSaid) {
  write_shards();
  const auto expect_note = [&](std::string_view text, const std::string& note) {
    write("model.safetensors.index.json", text);
    const Checkpoint checkpoint = Checkpoint::open(folder());
    ASSERT_EQ(checkpoint.notes().size(), 1u);
    EXPECT_NE(checkpoint.notes()[0].find(note), std::string::npos) << checkpoint.notes()[0];
    EXPECT_EQ(text_of(checkpoint.bytes(checkpoint.at("a"))), "12");
  };
  expect_note(
      R"({"weight_map":{"a":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}})",
      "0 tensors in another file than the index says, 1 in none, 1 that it does not name (first: c)");
  expect_note(
      R"({"weight_map":{"a":"model-00002-of-00002.safetensors","b":"model-00001-of-00002.safetensors"}})",
      "2 tensors in another file");
}

TEST_F(CheckpointFolder, TensorInTwoShards) {
  write_shards();
  write("model-00002-of-00002.safetensors", small_file("a", "34"));
  write("model.safetensors.index.json",
        R"({"weight_map":{"a":"model-00002-of-00002.safetensors","b":"model-00001-of-00002.safetensors"}})");
  EXPECT_EQ(text_of(Checkpoint::open(folder()).bytes(Checkpoint::open(folder()).at("a"))), "34")
      << "the one that the index names";
  write("model.safetensors.index.json",
        R"({"weight_map":{"c":"model-00002-of-00002.safetensors","b":"model-00001-of-00002.safetensors"}})");
  expect_bad("tensor a is in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors");
  write("model-00002-of-00002.safetensors", small_file("a", "12"));
  EXPECT_EQ(Checkpoint::open(folder()).tensors().size(), 1u) << "equal copies";
}

TEST_F(CheckpointFolder, TheIndexChoosesAmongManyCopies) {
  write("a.safetensors", small_file("a", "12"));
  write("b.safetensors", small_file("a", "34"));
  write("c.safetensors", small_file("a", "56"));
  for (const auto& [name, text] : {std::pair("a", "12"), std::pair("b", "34"), std::pair("c", "56")}) {
    write(
        "model.safetensors.index.json",
        fmt::format(
            R"({{"weight_map":{{"a":"{}.safetensors","x":"a.safetensors","y":"b.safetensors","z":"c.safetensors"}}}})",
            name));
    const Checkpoint checkpoint = Checkpoint::open(folder());
    EXPECT_EQ(text_of(checkpoint.bytes(checkpoint.at("a"))), text);
  }
}

TEST_F(CheckpointFolder, DoublesAreReadAsFloats) {
  const double values[] = {1.5, -0.1, 1e300};
  const std::vector<TensorInfo> tensors = {{"d", DType::kF64, {3}, "", 0, 24}};
  write("model.safetensors",
        format_safetensors_header(tensors) + std::string(reinterpret_cast<const char*>(values), 24));
  const Checkpoint checkpoint = Checkpoint::open(folder());
  EXPECT_EQ(checkpoint.at("d").dtype, DType::kF32);
  EXPECT_EQ(checkpoint.at("d").num_bytes(), 12);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(checkpoint.load_vector("d", 3), (std::vector<float>{1.5f, -0.1f, INFINITY}));
    checkpoint.release(checkpoint.at("d"));
  }
  ASSERT_EQ(checkpoint.notes().size(), 1u);
}

TEST_F(CheckpointFolder, DtypesThatNobodyReadsArePassed) {
  const std::pair<DType, std::uint64_t> cases[] = {
      {DType::kF8E8M0, 4}, {DType::kF4, 2},         {DType::kF6E2M3, 3},    {DType::kF6E3M2, 3},
      {DType::kC64, 32},   {DType::kF8E4M3Fnuz, 4}, {DType::kF8E5M2Fnuz, 4}};
  for (const auto& [dtype, bytes] : cases) {
    const std::vector<TensorInfo> tensors = {{"t", dtype, {4}, "", 0, bytes}};
    write("model.safetensors", format_safetensors_header(tensors) + std::string(bytes, 'x'));
    EXPECT_EQ(text_of(Checkpoint::open(folder()).bytes(Checkpoint::open(folder()).at("t"))),
              std::string(bytes, 'x'));
  }
  const std::vector<TensorInfo> odd = {{"t", DType::kF4, {3}, "", 0, 2}};
  write("model.safetensors", format_safetensors_header(odd) + "xx");
  expect_bad("tensor t: found 2 bytes", "expected an impossible number for F4 [3]");
}

TEST_F(CheckpointFolder, GitLfsPointers) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
  for (const char* name : {"pytorch_model.bin", "model.safetensors", "config.json"}) {
    write(name, pointer);
    expect_bad(std::string(name) + ": found a git-lfs pointer", "git lfs pull");
    if (std::string_view(name) == "model.safetensors") write(name, small_file("a", "x"));
  }
}

}  // namespace
}  // namespace swiftprune
