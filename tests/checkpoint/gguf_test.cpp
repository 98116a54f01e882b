#include "swiftprune/checkpoint/gguf.h"

#include <cmath>
#include <functional>
#include <tuple>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/gguf_builder.h"
#include "support/temp_dir.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;

using test::expect_error;
using test::GgufBuilder;
using test::raw;
using test::TempDir;

class Gguf : public testing::Test {
 protected:
  GgufFile open(const std::string& content) {
    test::write_text(dir_.path() / "m.gguf", content);
    return GgufFile::open(dir_.path() / "m.gguf");
  }
  void expect_bad(const std::string& content, const std::string& message) {
    expect_error(
        ErrorKind::kBadInput, [&] { open(content); }, "m.gguf: ", message);
  }

 private:
  TempDir dir_;
};

GgufBuilder small() {
  GgufBuilder builder;
  builder.text("general.architecture", "llama").u32("llama.block_count", 2);
  builder.floats("a.weight", {3, 2}).tensor("b.weight", {32}, 8, std::string(34, '\1'));
  return builder;
}

TEST_F(Gguf, ReadsTensors) {
  const GgufFile file = open(small().build());
  ASSERT_EQ(file.tensors().size(), 2u);
  const GgufTensor* a = file.find("a.weight");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(a->type->name, "F32");
  EXPECT_EQ(file.bytes(*a).size(), 24u);
  std::vector<float> values(6);
  dequantize(*a->type, file.bytes(*a), values);
  EXPECT_EQ(values[5], 5.0f);
  file.release(*a);
  EXPECT_EQ(file.find("b.weight")->numel(), 32);
  EXPECT_EQ(file.find("c.weight"), nullptr);
}

TEST_F(Gguf, ReadsEveryValueType) {
  GgufBuilder b;
  b.add("u8", test::kU8, raw<std::uint8_t>(200)).add("i8", test::kI8, raw<std::int8_t>(-3));
  b.add("u16", test::kU16, raw<std::uint16_t>(60000)).add("i16", test::kI16, raw<std::int16_t>(-300));
  b.u32("u32", 4'000'000'000u).add("i32", test::kI32, raw<std::int32_t>(-5));
  b.f32("f32", 0.5f).add("f64", test::kF64, raw(0.1)).add("bool", test::kBool, raw<std::uint8_t>(1));
  b.add("u64", test::kU64, raw<std::uint64_t>(1) + "").add("i64", test::kI64, raw<std::int64_t>(-7));
  b.text("string", "h\xc3\xa9llo").texts("strings", {"a", "", "bc"});
  b.array("floats", test::kF32, 2, raw(1.5f) + raw(-2.0f)).array("none", test::kU8, 0, "");
  b.array("bools", test::kBool, 2, std::string("\1\0", 2));
  b.array("ints", test::kI32, 2, raw<std::int32_t>(-1) + raw<std::int32_t>(7));
  b.array("huge list", test::kU64, 2, raw<std::uint64_t>(1) + raw(~std::uint64_t{0}));
  b.add("huge", test::kU64, raw(~std::uint64_t{0})).f32("nan", NAN);
  const GgufFile file = open(b.build());
  EXPECT_EQ(file.integer("u8"), 200);
  EXPECT_EQ(file.integer("i8"), -3);
  EXPECT_EQ(file.integer("u16"), 60000);
  EXPECT_EQ(file.integer("i16"), -300);
  EXPECT_EQ(file.integer("u32"), 4'000'000'000);
  EXPECT_EQ(file.integer("i32"), -5);
  EXPECT_EQ(file.integer("u64"), 1);
  EXPECT_EQ(file.integer("i64"), -7);
  EXPECT_EQ(file.number("f32"), 0.5);
  EXPECT_EQ(file.number("f64"), 0.1);
  EXPECT_EQ(file.number("i8"), -3.0);
  EXPECT_EQ(file.boolean("bool"), true);
  EXPECT_EQ(file.text("string"), "h\xc3\xa9llo");
  EXPECT_EQ(file.texts("strings"), (std::vector<std::string_view>{"a", "", "bc"}));
  EXPECT_EQ(file.numbers("floats"), (std::vector<double>{1.5, -2.0}));
  EXPECT_EQ(file.numbers("bools"), (std::vector<double>{1.0, 0.0}));
  EXPECT_TRUE(file.numbers("none")->empty());
  EXPECT_EQ(file.integers("ints"), (std::vector<std::int64_t>{-1, 7}));
  EXPECT_EQ(file.integers("i16"), std::vector<std::int64_t>{-300});
  EXPECT_TRUE(file.integers("none")->empty());
  EXPECT_FALSE(file.integers("absent"));
  EXPECT_FALSE(file.integer("absent"));
  EXPECT_FALSE(file.text("absent"));
  EXPECT_TRUE(file.has("u8"));

  const auto bad = [&](const std::function<void()>& call, const std::string& message) {
    expect_error(ErrorKind::kBadInput, call, "m.gguf: ", message);
  };
  bad([&] { file.integer("f32"); }, "f32: found float32, expected an integer");
  bad([&] { file.integer("floats"); }, "floats: found an array of float32, expected an integer");
  bad([&] { file.integer("huge"); }, "huge: found 1.8446744073709552e+19, which is too large");
  bad([&] { file.integer("ints"); }, "ints: found an array of int32, expected an integer");
  bad([&] { file.integers("floats"); }, "floats: found an array of float32, expected an array of integers");
  bad([&] { file.integers("bool"); }, "found boolean, expected an array of integers");
  bad([&] { file.integers("huge list"); }, "huge list: found 1.8446744073709552e+19, which is too large");
  bad([&] { file.number("string"); }, "found string, expected a number");
  bad([&] { file.number("nan"); }, "expected a finite number");
  bad([&] { file.number("bool"); }, "found boolean, expected a number");
  bad([&] { file.text("u8"); }, "found uint8, expected a string");
  bad([&] { file.boolean("u8"); }, "expected a boolean");
  bad([&] { file.texts("floats"); }, "expected an array of string");
  bad([&] { file.texts("string"); }, "expected an array of string");
  bad([&] { file.numbers("strings"); }, "expected an array of numbers");
}

TEST_F(Gguf, VersionsAndMagic) {
  GgufBuilder b = small();
  b.version = 2;
  EXPECT_EQ(open(b.build()).tensors().size(), 2u);
  b.version = 1;
  expect_bad(b.build(), "version 1, expected version 2 or 3; convert the original model again");
  b.version = 0x03000000;
  expect_bad(b.build(), "big-endian");
  b.version = 4;
  expect_bad(b.build(), "version 4");
  expect_bad("GGML" + b.build().substr(4), "expected a GGUF file");
  expect_bad("", "expected a GGUF file");
}

TEST_F(Gguf, Alignment) {
  GgufBuilder b;
  b.alignment = 64;
  b.u32("general.alignment", 64).floats("a.weight", {1}).floats("b.weight", {2});
  EXPECT_EQ(open(b.build()).find("b.weight")->begin % 64, 0u);
  expect_bad(GgufBuilder().u32("general.alignment", 0).build(),
             "general.alignment: found 0, expected a power of two");
  expect_bad(GgufBuilder().u32("general.alignment", 48).build(), "found 48");
  expect_bad(GgufBuilder().text("general.alignment", "32").build(), "found string");
}

TEST_F(Gguf, BadMetadata) {
  expect_bad(GgufBuilder().u32("a", 1).u32("a", 2).build(), "a: found twice");
  expect_bad(GgufBuilder().add("a", 13, "").build(), "a: found the value type 13");
  expect_bad(GgufBuilder().array("a", 13, 0, "").build(), "a: found the value type 13");
  expect_bad(GgufBuilder().array("a", test::kArray, 1, "").build(), "a: found an array of arrays");
  expect_bad(GgufBuilder().u32("", 1).build(),
             "a metadata key: found \"\", expected 1 to 255 printable characters");
  expect_bad(GgufBuilder().u32("a\x1b[2J", 1).build(), "found \"a\\x1b[2J\", expected");
  expect_bad(GgufBuilder().u32("a\xff\xc2\x9b", 1).build(), "found \"a\\xff\\xc2\\x9b\", expected");
  expect_bad(GgufBuilder().u32(std::string(70'000, 'k'), 1).build(),
             "found \"" + std::string(40, 'k') + "...\", expected");
  expect_bad(GgufBuilder().floats("t\x01", {4}).build(), "a tensor name: found \"t\\x01\", expected");
  expect_bad(GgufBuilder().add("a", test::kString, raw(~std::uint64_t{0})).build(), "inside a");
  expect_bad(GgufBuilder().array("a", test::kU64, ~std::uint64_t{0}, "").build(), "inside a");
  expect_bad(GgufBuilder().array("a", test::kString, ~std::uint64_t{0}, "").build(), "inside a");
  GgufBuilder b;
  b.extra_values = ~std::uint64_t{0};
  expect_bad(b.build(), "a metadata key");
  GgufBuilder c = small();
  c.extra_tensors = std::uint64_t{1} << 60;
  expect_bad(c.build(), "");
}

TEST_F(Gguf, BadTensors) {
  const std::string data(64, '\0');
  expect_bad(GgufBuilder().tensor("a", {}, 0, data).build(), "tensor a: found 0 dimensions, expected 1 to 4");
  expect_bad(GgufBuilder().tensor("a", {1, 1, 1, 1, 1}, 0, data).build(), "found 5 dimensions");
  expect_bad(GgufBuilder().tensor("a", {~std::uint64_t{0}}, 0, data).build(), "tensor a: found extent");
  expect_bad(GgufBuilder().tensor("a", {0, std::uint64_t{1} << 50}, 0, data).build(),
             "tensor a: found extent 0");
  expect_bad(GgufBuilder().tensor("a", {1u << 31, 1u << 31, 4}, 0, data).build(), "past the end of the file");
  expect_bad(GgufBuilder().tensor("a", {std::uint64_t{1} << 62}, 0, data).build(),
             "past the end of the file");
  expect_bad(GgufBuilder().tensor("a", {17}, 0, data).build(),
             "tensor a: found F32 [17] at offset 0, past the end");
  expect_bad(GgufBuilder().tensor("a", {33}, 8, data).build(),
             "found rows of 33, expected a multiple of 32 for Q8_0");
  for (const auto& [type, size, name] : {std::tuple{20u, 32u, "IQ4_NL"},
                                         {39u, 32u, "MXFP4"},
                                         {23u, 256u, "IQ4_XS"},
                                         {34u, 256u, "TQ1_0"},
                                         {35u, 256u, "TQ2_0"}}) {
    expect_bad(GgufBuilder().tensor("a", {size - 1}, type, data).build(),
               fmt::format("found rows of {}, expected a multiple of {} for {}", size - 1, size, name));
    expect_bad(GgufBuilder().tensor("a", {1024}, type, data).build(),
               fmt::format("tensor a: found {} [1024] at offset 0, past the end", name));
  }
  expect_bad(GgufBuilder().tensor("a", {32}, 15, data).build(),
             "tensor a: found the type Q8_K, expected one of F32");
  expect_bad(GgufBuilder().tensor("a", {32}, 4, data).build(), "found the type type 4");
  expect_bad(GgufBuilder().tensor("a", {1}, 0, data, 4).build(), "found offset 4, expected a multiple of 32");
  expect_bad(GgufBuilder().tensor("a", {1}, 0, data, 1 << 20).build(), "past the end of the file");
  expect_bad(GgufBuilder().tensor("a", {16}, 0, data).tensor("b", {1}, 0, data, 32).build(),
             "tensors a and b overlap");
  expect_bad(GgufBuilder().floats("a", {1}).floats("a", {1}).build(), "tensor a: found twice");
  expect_bad(GgufBuilder().floats("a\n", {1}).build(), "a tensor name: found \"a\\x0a\", expected");
}

TEST_F(Gguf, LargestOffsetDoesNotWrap) {
  std::string file = GgufBuilder().tensor("a", {1}, 0, std::string(32, '\0'), 0).build();
  const std::uint64_t offset = ~std::uint64_t{31};
  file.replace(file.find(std::string("a") + raw<std::uint32_t>(1)) + 1 + 4 + 8 + 4, 8, raw(offset));
  expect_bad(file, "past the end of the file");
}

TEST_F(Gguf, EveryTruncationIsRefused) {
  const std::string file = small().build();
  for (std::size_t n = 0; n < file.size() - 30; ++n) {  // the last tensor is followed by padding
    EXPECT_TRUE(test::error_of([&] { open(file.substr(0, n)); })) << n;
  }
}

TEST_F(Gguf, EveryMutationIsRefusedOrInBounds) {
  const std::string file = small().build();
  for (std::size_t at = 0; at < file.size(); ++at) {
    for (const int value : {0, 1, 2, 8, 9, 12, 32, 127, 128, 255}) {
      std::string mutated = file;
      mutated[at] = static_cast<char>(value);
      const auto error = test::error_of([&] {
        const GgufFile opened = open(mutated);
        for (const GgufTensor& tensor : opened.tensors()) {
          ASSERT_LE(tensor.end, mutated.size());
          std::vector<float> values(static_cast<std::size_t>(tensor.numel()));
          dequantize(*tensor.type, opened.bytes(tensor), values);
        }
      });
      if (error) {
        EXPECT_EQ(error->kind(), ErrorKind::kBadInput);
      }
    }
  }
}

// ---- a model in several files

class SplitGguf : public testing::Test {
 protected:
  static std::string name_of(int part, int count = 3) {
    return fmt::format("m-{:05}-of-{:05}.gguf", part, count);
  }
  fs::path path_of(int part) const { return dir_.path() / name_of(part); }
  // The first has the metadata; a tensor each.
  static GgufBuilder part(int number, int count = 3, int total = 3, char tensor = ' ') {
    GgufBuilder builder;
    if (number == 0) builder.text("general.architecture", "llama").u32("llama.block_count", 2);
    builder.add("split.no", test::kU16, raw(static_cast<std::uint16_t>(number)));
    builder.add("split.count", test::kU16, raw(static_cast<std::uint16_t>(count)));
    builder.add("split.tensors.count", test::kI32, raw(static_cast<std::int32_t>(total)));
    builder.floats(fmt::format("{}.weight", tensor == ' ' ? "abc"[number] : tensor),
                   {3, static_cast<std::uint64_t>(number + 1)});
    return builder;
  }
  void write(int number, const GgufBuilder& builder) {
    test::write_text(path_of(number + 1), builder.build());
  }
  void SetUp() override {
    for (int number = 0; number < 3; ++number) write(number, part(number));
  }
  void expect_bad(int named, const std::vector<std::string>& texts) {
    const auto error = test::error_of([&] { GgufFile::open(path_of(named)); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind(), ErrorKind::kBadInput);
    for (const std::string& text : texts) EXPECT_THAT(error->what(), testing::HasSubstr(text));
  }

  TempDir dir_;
};

TEST_F(SplitGguf, AnyPartOpensAll) {
  for (int named = 1; named <= 3; ++named) {
    const GgufFile file = GgufFile::open(path_of(named));
    EXPECT_EQ(file.name(), path_of(1).string());
    EXPECT_EQ(file.integer("llama.block_count"), 2);
    ASSERT_EQ(file.tensors().size(), 3u);
    const GgufTensor* last = file.find("c.weight");
    ASSERT_NE(last, nullptr);
    std::vector<float> values(9);
    dequantize(*last->type, file.bytes(*last), values);
    EXPECT_EQ(values[8], 8.0f);
    file.release(*last);
    EXPECT_EQ(file.bytes(*file.find("a.weight")).size(), 12u);
  }
}

TEST_F(SplitGguf, PartsFollowFromTheName) {
  EXPECT_EQ(gguf_parts("x/m-00002-of-00003.gguf"),
            (std::vector<fs::path>{"x/m-00001-of-00003.gguf", "x/m-00002-of-00003.gguf",
                                   "x/m-00003-of-00003.gguf"}));
  for (const char* alone :
       {"m.gguf", "m-00001-of-00001.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf",
        "m-0001-of-0003.gguf", "-00001-of-00002.gguf", "m-00001-of-00002.bin"}) {
    EXPECT_EQ(gguf_parts(alone), std::vector<fs::path>{alone});
  }
}

TEST_F(SplitGguf, AMissingPartIsNamed) {
  fs::remove(path_of(2));
  expect_bad(3, {name_of(2) + ": part 2 of 3 is missing", name_of(3)});
}

TEST_F(SplitGguf, PartsThatContradictTheirNames) {
  write(1, part(2));
  expect_bad(1, {name_of(2), "found part 3 of 3, expected 2 of 3"});
  write(1, part(1, 4));
  expect_bad(1, {name_of(2), "found part 2 of 4"});
  write(1, part(1));
  write(0, part(0, 3, 5));
  expect_bad(2, {name_of(1), "split.tensors.count: found 5, expected 3"});
  write(0, part(0));
  write(2, part(2, 3, 3, 'a'));
  expect_bad(2, {name_of(3), "tensor a.weight: found twice"});
}

TEST_F(SplitGguf, OneUnderAnotherName) {
  fs::copy(path_of(2), dir_.path() / "renamed.gguf");
  expect_error(
      ErrorKind::kBadInput, [&] { GgufFile::open(dir_.path() / "renamed.gguf"); },
      "renamed.gguf: found part 2 of 3", "-00002-of-00003.gguf");
}

}  // namespace
}  // namespace swiftprune
