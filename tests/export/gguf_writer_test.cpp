#include "swiftprune/export/gguf_writer.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/gguf_builder.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/gguf.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::TempDir;

const GgmlTypeTraits* f32() { return find_ggml_type(0); }

std::span<const std::byte> value_bytes(const std::vector<float>& values) {
  return std::as_bytes(std::span(values));
}

// The builder of the import tests, which makes files byte by byte from the format's description.
TEST(GgufWriter, WritesTheBytesOfTheFormat) {
  const TempDir dir;
  GgufMetadata metadata;
  metadata.text("general.architecture", "llama");
  metadata.u32("llama.block_count", 7);
  metadata.f32("llama.eps", 0.5);
  const std::vector<std::string> words = {"a", "", "bc"};
  metadata.texts("words", words);
  const std::vector<float> ramp = {0, 1, 2, 3, 4, 5}, pair = {8, 9};
  {
    GgufWriter writer(dir.path() / "m.gguf", metadata, {{"a", {2, 3}, f32()}, {"b", {2}, f32()}});
    writer.write(1, 0, value_bytes(pair));  // in any order, in parts
    writer.write(0, 8, value_bytes(ramp).subspan(8));
    writer.write(0, 0, value_bytes(ramp).first(8));
    EXPECT_FALSE(fs::exists(dir.path() / "m.gguf"));
    writer.finish();
  }
  const auto text = [](const std::vector<float>& values) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4);
  };
  const std::string expected = test::GgufBuilder()
                                   .text("general.architecture", "llama")
                                   .u32("llama.block_count", 7)
                                   .f32("llama.eps", 0.5f)
                                   .texts("words", words)
                                   .tensor("a", {3, 2}, 0, text(ramp))
                                   .tensor("b", {2}, 0, text(pair))
                                   .build();
  EXPECT_EQ(test::read_text(dir.path() / "m.gguf"), expected);
}

TEST(GgufWriter, ReadsBackEveryValueType) {
  const TempDir dir;
  GgufMetadata metadata;
  metadata.boolean("yes", true);
  const std::vector<std::int32_t> ints = {-1, 2};
  const std::vector<float> floats = {0.25f, -3.0f};
  metadata.i32s("ints", ints);
  metadata.f32s("floats", floats);
  GgufWriter writer(dir.path() / "m.gguf", metadata, {{"t", {1}, f32()}});
  writer.write(0, 0, value_bytes({1.0f}));
  writer.finish();
  const GgufFile file = GgufFile::open(dir.path() / "m.gguf");
  EXPECT_EQ(file.boolean("yes"), true);
  EXPECT_EQ(file.numbers("ints"), (std::vector<double>{-1, 2}));
  EXPECT_EQ(file.numbers("floats"), (std::vector<double>{0.25, -3}));
}

TEST(GgufWriter, LeavesNothingWithoutFinish) {
  const TempDir dir;
  { const GgufWriter writer(dir.path() / "m.gguf", {}, {{"t", {4}, f32()}}); }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(GgufWriter, OverwritesNothing) {
  const TempDir dir;
  test::write_text(dir.path() / "m.gguf", "mine");
  expect_error(
      ErrorKind::kBadInput,
      [&] {
        GgufWriter(dir.path() / "m.gguf", {}, {{"t", {4}, f32()}});
      },
      "m.gguf: the file exists; choose a new name");
  EXPECT_EQ(test::read_text(dir.path() / "m.gguf"), "mine");
  expect_error(
      ErrorKind::kFailure,
      [&] {
        GgufWriter(dir.path() / "m.gguf/x", {}, {{"t", {4}, f32()}});
      },
      "cannot be written");
}

}  // namespace
}  // namespace swiftprune
