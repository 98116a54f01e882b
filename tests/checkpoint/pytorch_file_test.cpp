// pytorch_model.bin: every form that PyTorch wrote gives the same tensors, and no pickle is run.
#include "swiftprune/checkpoint/pytorch_file.h"

#include <cstring>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/pickle.h"
#include "swiftprune/checkpoint/zip_file.h"

namespace swiftprune {
namespace {

using test::expect_error;

std::string pytorch_fixture(const std::string& name) {
  return test::read_text(SWIFTPRUNE_TEST_DATA "/checkpoint/pytorch_" + name + ".bin");
}
std::span<const std::byte> bytes_in(const std::string& text) { return std::as_bytes(std::span(text)); }

class PytorchForms : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(dir_.path() / "m");
    test::write_text(dir_.path() / "m/pytorch_model.bin", pytorch_fixture(GetParam()));
    test::write_text(dir_.path() / "m/config.json", "{}");
  }
  test::TempDir dir_;
};

INSTANTIATE_TEST_SUITE_P(Forms, PytorchForms, testing::Values("zip", "protocol4", "legacy", "big_endian"),
                         [](const auto& test_info) { return test_info.param; });

// w is 3 by 4 and counts from -2.5 (tools/make_pytorch_fixtures.py).
TEST_P(PytorchForms, GiveTheTensorsOfTheScript) {
  const Checkpoint checkpoint = Checkpoint::open(dir_.path() / "m");
  EXPECT_EQ(checkpoint.tensors().size(), 11u);
  const Matrix w = checkpoint.load_matrix("w", 3, 4), turned = checkpoint.load_matrix("turned", 4, 3),
               half = checkpoint.load_matrix("half", 3, 4), brain = checkpoint.load_matrix("brain", 3, 4),
               parameter = checkpoint.load_matrix("parameter", 3, 4),
               doubles = checkpoint.load_matrix("double", 3, 4), rows = checkpoint.load_matrix("rows", 2, 4);
  const std::vector<float> column = checkpoint.load_vector("column", 3);
  for (std::int64_t r = 0; r < 3; ++r) {
    for (std::int64_t c = 0; c < 4; ++c) {
      const float expected = static_cast<float>(4 * r + c) - 2.5f;
      EXPECT_EQ(w.at(r, c), expected);
      EXPECT_EQ(turned.at(c, r), expected);
      EXPECT_EQ(half.at(r, c), expected);
      EXPECT_EQ(brain.at(r, c), expected);
      EXPECT_EQ(parameter.at(r, c), expected + 1.0f);
      EXPECT_EQ(doubles.at(r, c), static_cast<float>(static_cast<double>(expected) / 3.0));
      if (r > 0) {
        EXPECT_EQ(rows.at(r - 1, c), expected);
      }
    }
    EXPECT_EQ(column[static_cast<std::size_t>(r)], static_cast<float>(4 * r + 2) - 2.5f);
  }
  EXPECT_EQ(checkpoint.at("mask").dtype, DType::kBool);
  EXPECT_EQ(checkpoint.at("number").dtype, DType::kI64);
  std::int64_t number = 0;
  std::memcpy(&number, checkpoint.bytes(checkpoint.at("number")).data(), sizeof(number));
  EXPECT_EQ(number, 7);
  EXPECT_EQ(checkpoint.load_matrix("empty", 0, 4).numel(), 0);
}

TEST_P(PytorchForms, OutputIsSafetensors) {
  const Checkpoint source = Checkpoint::open(dir_.path() / "m");
  {
    CheckpointWriter writer(dir_.path() / "out", plan_like(source));
    for (const TensorInfo& tensor : source.tensors()) writer.write_bytes(tensor.name, source.bytes(tensor));
    writer.copy_other_files(source);
    writer.finish();
  }
  const Checkpoint out = Checkpoint::open(dir_.path() / "out");
  EXPECT_EQ(out.at("turned").file, "model.safetensors");
  EXPECT_FALSE(std::filesystem::exists(dir_.path() / "out/pytorch_model.bin"));
  for (const TensorInfo& tensor : source.tensors()) {
    EXPECT_TRUE(std::ranges::equal(out.bytes(out.at(tensor.name)), source.bytes(tensor))) << tensor.name;
  }
}

// Every truncation and every changed byte: an error, or tensors inside the file.
TEST_P(PytorchForms, DamagedFilesAreAnsweredOrReadInside) {
  const std::string good = pytorch_fixture(GetParam());
  const auto try_one = [](const std::string& file) {
    try {
      for (const PytorchTensor& tensor : parse_pytorch(bytes_in(file), "f")) gather(bytes_in(file), tensor);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
    }
  };
  for (std::size_t size = 0; size < good.size(); size += 7) try_one(good.substr(0, size));
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const char change : {'\x01', '\x80', '\xFF'}) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ change);
      try_one(bad);
    }
  }
}

void expect_bad_pickle(const std::string& pickle, const std::string& message) {
  expect_error(
      ErrorKind::kBadInput, [&] { parse_pickle(bytes_in(pickle), "f"); }, "f: ", message);
}

TEST(Pickle, NothingIsRun) {
  const std::string start = "\x80\x02";
  expect_bad_pickle(start + "cos\nsystem\nX\x02\0\0\0ls\x85R.", "found the Python name \"os.system\"");
  expect_bad_pickle(start + "cbuiltins\neval\n.", "\"builtins.eval\"");
  expect_bad_pickle(start + "ctorch\nload\n.", "\"torch.load\"");
  expect_bad_pickle(start + "ctorch.evil\nXStorage\n.", "\"torch.evil.XStorage\"");
  expect_bad_pickle(std::string("\x80\x04\x8c\x02os\x8c\x06system\x93.", 16), "\"os.system\"");
  expect_bad_pickle(start + "i", "found the pickle opcode 0x69 at byte 2");
  expect_bad_pickle(start + "\x81", "opcode 0x81");
}

TEST(Pickle, BrokenOnes) {
  const std::string start = "\x80\x02";
  expect_bad_pickle("", "it is cut short");
  expect_bad_pickle("\x80\x01", "protocol 2 to 5");
  expect_bad_pickle(start, "it is cut short");
  expect_bad_pickle(start + ".", "a value alone at the end");
  expect_bad_pickle(start + "NN.", "a value alone at the end");
  expect_bad_pickle(start + "t", "a mark on the stack");
  expect_bad_pickle(start + "\x86", "values on the stack");
  expect_bad_pickle(start + "h\x05", "a value that was remembered");
  expect_bad_pickle(start + "Na", "a list to add to");
  expect_bad_pickle(start + "NNa", "a list to add to");
  expect_bad_pickle(start + "}(Nu", "keys with values");
  expect_bad_pickle(start + "NQ", "a tuple that names a storage");
  expect_bad_pickle(start + "NR", "a tuple of arguments");
  expect_bad_pickle(start +
                        "X\xFF\xFF\xFF\xFF"
                        "a",
                    "it is cut short");
  expect_bad_pickle(start + "cos", "the end of a line");
  expect_bad_pickle(start + "ccollections\nOrderedDict\nN\x85R", "OrderedDict without arguments");
}

TEST(Pickle, CirclesEnd) {
  const Pickle pickle = parse_pickle(bytes_in(std::string("\x80\x02]q\0h\0a.", 9)), "f");
  EXPECT_EQ(pickle.at(pickle.root).items, std::vector<std::int32_t>{pickle.root});
}

TEST(Zip, BrokenDirectories) {
  const std::string good = pytorch_fixture("zip");
  const auto expect_bad = [](const std::string& file, const std::string& message) {
    expect_error(
        ErrorKind::kBadInput, [&] { parse_zip(bytes_in(file), "f"); }, "f: ", message);
  };
  EXPECT_EQ(parse_zip(bytes_in(good), "f").size(), 14u);
  expect_bad("PK", "expected a zip archive");
  expect_bad(good.substr(0, good.size() - 1), "found no end of a zip archive");
  const std::size_t directory = good.find("PK\x01\x02");
  std::string bad = good;
  bad[directory + 10] = 8;  // the method of the first entry
  expect_bad(bad, "found a compressed one");
  bad = good;
  bad[directory + 8] = static_cast<char>(bad[directory + 8] | 1);
  expect_bad(bad, "found an encrypted one");
  bad = good;
  bad[directory] = 'x';
  expect_bad(bad, "found no entry at byte");
  bad = good;
  std::memset(bad.data() + directory + 42, 0x7F, 3);  // where its local header lies
  expect_bad(bad, "found no header at byte");
}

}  // namespace
}  // namespace swiftprune
