#include "swiftprune/checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace swiftprune {
namespace {

using test::expect_error;

std::string safetensors_fixture() {
  return test::read_text(SWIFTPRUNE_TEST_DATA "/checkpoint/by_library.safetensors");
}

SafetensorsHeader parse(std::string_view file) {
  return parse_safetensors(std::as_bytes(std::span(file)), "f.safetensors");
}

// A file with this header and this much data.
std::string file_of(std::string_view header, std::size_t data_bytes) {
  const std::uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + std::string(header) +
         std::string(data_bytes, '\0');
}

TEST(Safetensors, ReadsTheLibrarysFile) {
  const std::string file = safetensors_fixture();
  const SafetensorsHeader header = parse(file);
  ASSERT_EQ(header.tensors.size(), 7u);
  EXPECT_EQ(header.data_begin, 0x1e0u);
  const TensorInfo& first = header.tensors[0];
  EXPECT_EQ(first.name, "d.long");
  EXPECT_EQ(first.dtype, DType::kI64);
  EXPECT_EQ(first.shape, (std::vector<std::int64_t>{2, 1, 1}));
  EXPECT_EQ(first.begin, 0u);
  EXPECT_EQ(first.end, 16u);
  EXPECT_EQ(header.tensors[4].name, "b.half");
  EXPECT_EQ(header.tensors[4].begin, 34u);
  EXPECT_EQ(header.tensors[5].numel(), 0);
  EXPECT_TRUE(header.tensors[2].shape.empty());
  EXPECT_EQ(header.tensors[2].numel(), 1);
  EXPECT_EQ(header.tensors[6].dtype, DType::kBool);
}

TEST(Safetensors, WritesTheLibrarysHeaderByteForByte) {
  const std::string file = safetensors_fixture();
  const SafetensorsHeader header = parse(file);
  EXPECT_EQ(format_safetensors_header(header.tensors), file.substr(0, header.data_begin));
}

TEST(Safetensors, EscapesNames) {
  const std::vector<TensorInfo> tensors = {{"a \"b\" \\ é", DType::kU8, {3}, "", 0, 3}};
  const SafetensorsHeader header = parse(format_safetensors_header(tensors) + "xyz");
  ASSERT_EQ(header.tensors.size(), 1u);
  EXPECT_EQ(header.tensors[0].name, tensors[0].name);
  EXPECT_EQ(header.data_begin % 8, 0u);
}

TEST(Safetensors, AcceptsNoTensorsAndTrailingSpaces) {
  EXPECT_TRUE(parse(file_of("{}", 0)).tensors.empty());
  EXPECT_TRUE(parse(file_of(R"({"__metadata__":{"a":"b"}}   )", 0)).tensors.empty());
}

struct Corrupt {
  const char* rule;
  std::string file;
  const char* message;
};

class CorruptSafetensors : public testing::TestWithParam<Corrupt> {};

TEST_P(CorruptSafetensors, IsRefused) {
  expect_error(
      ErrorKind::kBadInput, [] { parse(GetParam().file); }, "f.safetensors: ", GetParam().message);
}

std::string raw_length(std::uint64_t n) { return {reinterpret_cast<const char*>(&n), sizeof(n)}; }

INSTANTIATE_TEST_SUITE_P(
    Rules, CorruptSafetensors,
    testing::Values(
        Corrupt{"NoLength", "1234567", "found 7 bytes"},
        Corrupt{"HugeHeader", raw_length(100'000'001) + "{}", "header of 100000001 bytes, expected at most"},
        Corrupt{"OverflowingHeader", raw_length(~std::uint64_t{0}) + "{}", "expected at most"},
        Corrupt{"HeaderPastEnd", raw_length(3) + "{}", "cut short"},
        Corrupt{"EmptyHeader", raw_length(0), "start with '{'"},
        Corrupt{"LeadingSpace", file_of(" {}", 0), "start with '{'"},
        Corrupt{"NotJson", file_of("{x}", 0), "not valid JSON"},
        Corrupt{"TextAfterJson", file_of("{}{}", 0), "not valid JSON"},
        Corrupt{"BadUtf8", file_of("{\"\xff\":{}}", 0), "not valid JSON"},
        Corrupt{"TensorIsNumber", file_of(R"({"a":1})", 0), "found a number"},
        Corrupt{"TensorIsList", file_of(R"({"a":[]})", 0), "found an array"},
        Corrupt{"NestedObject", file_of(R"({"a":{"dtype":{}}})", 0), "found an object"},
        Corrupt{"Deep", file_of(R"({"a":{"shape":[[)" + std::string(100000, '['), 0), "found an array"},
        Corrupt{"UnknownField", file_of(R"({"a":{"dtype":"U8","strides":[1]}})", 0),
                "found an array at \"strides\""},
        Corrupt{"MetadataNotString", file_of(R"({"__metadata__":{"a":1}})", 0), "__metadata__ of strings"},
        Corrupt{"MetadataTwice", file_of(R"({"__metadata__":{"a":"","a":""}})", 0), "key twice"},
        Corrupt{"MetadataObjectTwice", file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), "twice"},
        Corrupt{"UnknownDtype", file_of(R"({"a":{"dtype":"F7","shape":[],"data_offsets":[0,1]}})", 1),
                "tensor a: found dtype \"F7\""},
        Corrupt{"DtypeTwice", file_of(R"({"a":{"dtype":"U8","dtype":"U8"}})", 0), "once each"},
        Corrupt{"ShapeTwice", file_of(R"({"a":{"shape":[],"shape":[]}})", 0), "once each"},
        Corrupt{"OffsetsTwice", file_of(R"({"a":{"data_offsets":[0,0],"data_offsets":[0,0]}})", 0),
                "once each"},
        Corrupt{"NoDtype", file_of(R"({"a":{"shape":[],"data_offsets":[0,1]}})", 1), "found no dtype"},
        Corrupt{"NoShape", file_of(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1), "found no shape"},
        Corrupt{"NoOffsets", file_of(R"({"a":{"dtype":"U8","shape":[]}})", 1), "found no data_offsets"},
        Corrupt{"NegativeExtent", file_of(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}})", 0),
                "a negative number"},
        Corrupt{"FractionalExtent", file_of(R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1),
                "not an integer"},
        Corrupt{"ExtentAbove62Bits",
                file_of(R"({"a":{"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,1]}})", 1),
                "2^62"},
        Corrupt{"ExtentAbove64Bits",
                file_of(R"({"a":{"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,1]}})", 1),
                "not an integer"},
        Corrupt{"NumelOverflows",
                file_of(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296,2],"data_offsets":[0,0]}})", 0),
                "an impossible number"},
        Corrupt{"BytesOverflow",
                file_of(R"({"a":{"dtype":"F64","shape":[2305843009213693952,2],"data_offsets":[0,0]}})", 0),
                "an impossible number"},
        Corrupt{"ThreeOffsets", file_of(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1,2]}})", 1),
                "more than two data_offsets"},
        Corrupt{"OneOffset", file_of(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0]}})", 1),
                "[begin, end]"},
        Corrupt{"OffsetsSwapped", file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", 1),
                "begin <= end"},
        Corrupt{"SizeMismatch", file_of(R"({"a":{"dtype":"F16","shape":[2,2],"data_offsets":[0,7]}})", 7),
                "found 7 bytes in data_offsets, expected 8 for F16 [2, 2]"},
        Corrupt{"ControlCharacter",
                file_of(R"({"a\u001b[2J":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})", 1),
                "control character"},
        Corrupt{"NameTwice",
                file_of(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},)"
                        R"("a":{"dtype":"U8","shape":[],"data_offsets":[1,2]}})",
                        2),
                "tensor a: found twice"},
        Corrupt{"Hole",
                file_of(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},)"
                        R"("b":{"dtype":"U8","shape":[],"data_offsets":[2,3]}})",
                        3),
                "tensor b: found data at byte 2, expected 1"},
        Corrupt{"HoleAtStart", file_of(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[1,2]}})", 2),
                "found data at byte 1, expected 0"},
        Corrupt{"Overlap",
                file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                        R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                        3),
                "tensor b: found data at byte 1, expected 2"},
        Corrupt{"DataCutShort", file_of(R"({"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}})", 8),
                "cut short"},
        Corrupt{"DataTooLong", file_of(R"({"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}})", 10),
                "found 10 bytes of data, expected 9"}),
    [](const auto& test_info) { return test_info.param.rule; });

TEST(Safetensors, ManyExtentsAreRefused) {
  std::string shape = "1";
  for (int i = 0; i < 64; ++i) shape += ",1";
  expect_error(
      ErrorKind::kBadInput,
      [&] { parse(file_of(R"({"a":{"dtype":"U8","shape":[)" + shape + R"(],"data_offsets":[0,1]}})", 1)); },
      "more than 64 extents");
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string file = safetensors_fixture();
  for (std::size_t n = 0; n < file.size(); ++n) {
    EXPECT_TRUE(test::error_of([&] { parse(std::string_view(file).substr(0, n)); })) << n;
  }
}

// Whatever the header says, what is accepted lies inside the file.
TEST(Safetensors, EveryMutationIsRefusedOrInBounds) {
  const std::string file = safetensors_fixture();
  const std::size_t header_end = parse(file).data_begin;
  for (std::size_t at = 0; at < header_end; ++at) {
    for (const char value : {'\0', ' ', '"', '{', '}', '[', ',', '0', '9', '-', 'e', '\x7f', '\xff'}) {
      std::string mutated = file;
      mutated[at] = value;
      const auto error = test::error_of([&] {
        const SafetensorsHeader header = parse(mutated);
        for (const TensorInfo& tensor : header.tensors) {
          EXPECT_LE(tensor.begin, tensor.end);
          EXPECT_LE(header.data_begin + tensor.end, mutated.size());
          EXPECT_EQ(tensor.num_bytes(), tensor.numel() * size_of(tensor.dtype));
        }
      });
      if (error) {
        EXPECT_EQ(error->kind(), ErrorKind::kBadInput);
      }
    }
  }
}

}  // namespace
}  // namespace swiftprune
