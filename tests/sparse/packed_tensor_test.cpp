// Every rule of the packed format is broken once, by hand and then by chance; with a right checksum, so that
// the rule itself must notice.
#include "swiftprune/sparse/packed_tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <bit>
#include <cstring>
#include <random>

#include "sparse/weights.h"
#include "swiftprune/core/error.h"
#include "swiftprune/sparse/linear.h"
#include "swiftprune/sparse/packed_header.h"

namespace swiftprune {
namespace {

using testing::HasSubstr;
using testing_sparse::random_block_weight;
using testing_sparse::random_grid_weight;
using testing_sparse::random_nm_weight;
using testing_sparse::random_weight;

// Offsets of header fields (docs/formats.md).
constexpr std::size_t kVersion = 4, kKind = 6, kDType = 8, kGroupN = 10, kGroupM = 12, kReserved = 14,
                      kRows = 16, kCols = 24, kNumValues = 32, kNumBytes = 40, kChecksum = 48, kBits = 14,
                      kGroup = 15, kCodeBytes = 56;

// Packed bytes that a test may damage, at a 64-byte boundary.
class Bytes {
 public:
  explicit Bytes(const PackedTensor& tensor) : Bytes(tensor.bytes()) {}
  explicit Bytes(std::span<const std::byte> source) : size_(source.size()) {
    memory_.reset(static_cast<std::byte*>(::operator new[](size_ + 64, std::align_val_t{64})));
    std::memcpy(memory_.get(), source.data(), size_);
  }
  std::span<std::byte> span() { return {memory_.get(), size_}; }
  template <class T>
  void set(std::size_t offset, T value) {
    std::memcpy(memory_.get() + offset, &value, sizeof value);
  }
  template <class T>
  T get(std::size_t offset) const {
    T value;
    std::memcpy(&value, memory_.get() + offset, sizeof value);
    return value;
  }
  void truncate(std::size_t size) { size_ = size; }
  void seal() {
    set<std::uint64_t>(kChecksum, 0);
    set<std::uint64_t>(kChecksum, XXH3_64bits(memory_.get(), size_));
  }
  std::string error(bool sealed = true) {
    if (sealed && size_ >= 64) seal();
    try {
      PackedTensor::parse(span(), "layer.weight", nullptr);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
      EXPECT_THAT(error.what(), testing::StartsWith("layer.weight"));
      return error.what();
    }
    return "";
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<std::byte[], Free> memory_;
  std::size_t size_ = 0;
};

PackedTensor bitmap() {
  return pack(random_weight(20, 37, DType::kBF16, 0.5).view(), {PackedKind::kBitmap16});
}
PackedTensor bitmap_int8() {
  return pack(random_weight(20, 37, DType::kBF16, 0.5).view(), {PackedKind::kBitmapInt8});
}
PackedTensor bitmap_fp8() {
  return pack(random_weight(20, 37, DType::kBF16, 0.5).view(), {PackedKind::kBitmapFp8});
}
PackedTensor dense_fp8() {
  return pack(random_weight(20, 37, DType::kBF16, 0.0).view(), {PackedKind::kDenseFp8});
}
PackedTensor nm(int n, int m) {
  return pack(random_nm_weight(20, 48, DType::kF16, n, m).view(), {PackedKind::kNm16, n, m});
}
PackedTensor blocks() {
  return pack(random_block_weight(40, 100, DType::kBF16, 0.5).view(), {PackedKind::kBlock16});
}
PackedTensor dense() { return pack(random_weight(20, 37, DType::kBF16, 0.0).view(), {PackedKind::kDense16}); }

// Asymmetric; row groups end inside a chunk, and the second panel holds four rows.
PackedTensor dense_grid(int bits) {
  return pack(random_grid_weight(20, 37, {bits, 0, true}, 0.0), {PackedKind::kDenseGrid});
}
PackedTensor bitmap_grid(int bits) {
  return pack(random_grid_weight(20, 64, {bits, 32, true}, 0.5), {PackedKind::kBitmapGrid});
}
PackedTensor nm_grid(int bits) {
  return pack(random_grid_weight(20, 64, {bits, 32, false}, 0.1, 2), {PackedKind::kNmGrid, 2, 4});
}

TEST(PackedTensor, HeaderRules) {
  const auto with = [](std::size_t offset, auto value) {
    Bytes bytes(bitmap());
    bytes.set(offset, value);
    return bytes.error();
  };
  EXPECT_THAT(with(0, 'X'), HasSubstr("not a packed tensor"));
  EXPECT_THAT(with(kVersion, std::uint16_t{2}), HasSubstr("version 2"));
  EXPECT_THAT(with(kKind, std::uint16_t{11}), HasSubstr("kind 11"));
  EXPECT_THAT(with(kDType, std::uint16_t{2}), HasSubstr("dtype 2"));
  EXPECT_THAT(with(kReserved, std::uint16_t{1}), HasSubstr("reserved"));
  EXPECT_THAT(with(56, std::uint64_t{1}), HasSubstr("reserved"));
  EXPECT_THAT(with(kGroupN, std::uint16_t{2}), HasSubstr("groups in kind bitmap16"));
  EXPECT_THAT(with(kGroupM, std::uint16_t{4}), HasSubstr("groups in kind bitmap16"));
  EXPECT_THAT(with(kRows, std::uint64_t{0}), HasSubstr("shape [0, 37]"));
  EXPECT_THAT(with(kRows, std::uint64_t{1} << 63), HasSubstr("shape"));
  EXPECT_THAT(with(kCols, ~std::uint64_t{0}), HasSubstr("shape"));
  EXPECT_THAT(with(kCols, std::uint64_t{1} << 38), HasSubstr("shape"));
  EXPECT_THAT(with(kNumValues, ~std::uint64_t{0}), HasSubstr("values for"));
  EXPECT_THAT(with(kNumValues, std::uint64_t{1000000}), HasSubstr("its shape needs"));
  EXPECT_THAT(with(kNumBytes, std::uint64_t{64}), HasSubstr("its header says 64"));
  EXPECT_EQ(with(kVersion, std::uint16_t{1}), "");
}

TEST(PackedTensor, ShapeOfTheHeaderAlone) {
  for (const PackedTensor& packed : {bitmap(), nm(2, 4), dense_fp8(), dense_grid(4), nm_grid(3)}) {
    Bytes bytes(packed);
    std::memset(bytes.span().data() + 64, 0xff, bytes.span().size() - 64);  // nothing else is looked at
    const PackedShape found = read_packed_shape(bytes.span(), "layer.weight"), &expected = packed.shape();
    EXPECT_EQ(found.kind, expected.kind);
    EXPECT_EQ(found.dtype, expected.dtype);
    EXPECT_EQ(found.rows, expected.rows);
    EXPECT_EQ(found.cols, expected.cols);
    EXPECT_EQ(found.group_n, expected.group_n);
    EXPECT_EQ(found.grid, expected.grid);
    bytes.set(kVersion, std::uint16_t{2});
    EXPECT_THROW(read_packed_shape(bytes.span(), "layer.weight"), Error);
    EXPECT_THROW(read_packed_shape(bytes.span().first(63), "layer.weight"), Error);
  }
}

TEST(PackedTensor, NmHeaderRules) {
  const auto with = [](int n, int m, std::int64_t cols) {
    Bytes bytes(nm(2, 4));
    bytes.set(kGroupN, static_cast<std::uint16_t>(n));
    bytes.set(kGroupM, static_cast<std::uint16_t>(m));
    bytes.set(kCols, cols);
    return bytes.error();
  };
  EXPECT_EQ(with(2, 4, 48), "");
  EXPECT_THAT(with(0, 4, 48), HasSubstr("0:4"));
  EXPECT_THAT(with(4, 4, 48), HasSubstr("4:4"));
  EXPECT_THAT(with(2, 5, 50), HasSubstr("2:5"));
  EXPECT_THAT(with(2, 0, 48), HasSubstr("2:0"));
  EXPECT_THAT(with(2, 4, 47), HasSubstr("over 47 columns"));
  EXPECT_THAT(with(1, 4, 48), HasSubstr("values, expected 240"));
}

TEST(PackedTensor, Int8ColumnsAreBounded) {
  Bytes bytes(bitmap_int8());
  bytes.set(kCols, std::uint64_t{65540});
  EXPECT_THAT(bytes.error(), HasSubstr("at most 65536"));
}

TEST(PackedTensor, SizeAndChecksum) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{63}, std::size_t{64}, std::size_t{128}}) {
    Bytes bytes(bitmap());
    bytes.truncate(size);
    EXPECT_THAT(bytes.error(), HasSubstr("bytes")) << size;
  }
  Bytes bytes(bitmap());
  const std::size_t last = bytes.span().size() - 65;
  bytes.set(last, static_cast<std::byte>(~bytes.get<std::uint8_t>(last)));
  EXPECT_THAT(bytes.error(false), HasSubstr("checksum mismatch"));
}

template <class Pack>
std::string damaged(Pack&& make, const std::function<void(Bytes&, const PackedSections&)>& damage) {
  const PackedTensor tensor = make();
  Bytes bytes(tensor);
  damage(bytes, sections_of(tensor.shape()));
  return bytes.error();
}

TEST(PackedTensor, BitmapRules) {
  const auto at = [](std::int64_t offset) { return static_cast<std::size_t>(offset); };
  // One weight more than the offsets say, and one less.
  EXPECT_THAT(
      damaged(bitmap, [&](Bytes& b, const PackedSections& s) { b.set(at(s.masks), ~std::uint32_t{0}); }),
      HasSubstr("the masks before it count"));
  EXPECT_THAT(
      damaged(bitmap, [&](Bytes& b, const PackedSections& s) { b.set(at(s.masks), std::uint32_t{0}); }),
      HasSubstr("the masks before it count"));
  EXPECT_THAT(
      damaged(bitmap, [&](Bytes& b, const PackedSections& s) { b.set(at(s.offsets), std::uint64_t{1}); }),
      HasSubstr("offset of panel 0"));
  EXPECT_THAT(damaged(bitmap, [&](Bytes& b,
                                  const PackedSections& s) { b.set(at(s.offsets) + 8, ~std::uint64_t{0}); }),
              HasSubstr("offset of panel 1"));
  // Row 20 and column 37 are outside.
  EXPECT_THAT(damaged(bitmap,
                      [&](Bytes& b, const PackedSections& s) {
                        b.set(at(s.masks) + 19 * 4, b.get<std::uint32_t>(at(s.masks) + 19 * 4) | 1u << 8);
                      }),
              HasSubstr("outside the matrix"));
  EXPECT_THAT(damaged(bitmap,
                      [&](Bytes& b, const PackedSections& s) {
                        b.set(at(s.masks) + 18 * 4, b.get<std::uint32_t>(at(s.masks) + 18 * 4) | 2u);
                      }),
              HasSubstr("outside the matrix"));
  EXPECT_THAT(damaged(bitmap, [&](Bytes& b, const PackedSections& s) { b.set(at(s.masks) + 38 * 4, '\1'); }),
              HasSubstr("after the masks"));
  EXPECT_THAT(damaged(bitmap, [&](Bytes& b, const PackedSections& s) { b.set(at(s.offsets) + 24, '\1'); }),
              HasSubstr("after the offsets"));
  EXPECT_THAT(damaged(bitmap, [&](Bytes& b, const PackedSections& s) { b.set(at(s.num_bytes) - 1, '\1'); }),
              HasSubstr("after the values"));
  EXPECT_THAT(damaged(bitmap,
                      [&](Bytes& b, const PackedSections&) {
                        b.set(kNumValues, b.get<std::uint64_t>(kNumValues) - 1);
                      }),
              HasSubstr("after the values"));
  EXPECT_THAT(damaged(bitmap,
                      [&](Bytes& b, const PackedSections&) {
                        b.set(kNumValues, b.get<std::uint64_t>(kNumValues) + 1);
                      }),
              HasSubstr("the masks count"));
}

TEST(PackedTensor, Int8Rules) {
  const auto at = [](std::int64_t offset) { return static_cast<std::size_t>(offset); };
  for (const float scale : {-1.0f, INFINITY, NAN}) {
    EXPECT_THAT(damaged(bitmap_int8, [&](Bytes& b, const PackedSections& s) { b.set(at(s.scales), scale); }),
                HasSubstr("scale of row 0"));
  }
  EXPECT_THAT(
      damaged(bitmap_int8, [&](Bytes& b, const PackedSections& s) { b.set(at(s.scales) + 20 * 4, 1.0f); }),
      HasSubstr("scale of row 20"));
  EXPECT_THAT(
      damaged(bitmap_int8, [&](Bytes& b, const PackedSections& s) { b.set(at(s.masks), std::uint64_t{0}); }),
      HasSubstr("the masks before it count"));
}

TEST(PackedTensor, Fp8Rules) {
  const auto at = [](std::int64_t offset) { return static_cast<std::size_t>(offset); };
  for (const auto& make : {bitmap_fp8, dense_fp8}) {
    EXPECT_EQ(damaged(make, [](Bytes&, const PackedSections&) {}), "");
    for (const std::uint8_t nan : {std::uint8_t{0x7f}, std::uint8_t{0xff}}) {
      EXPECT_THAT(damaged(make, [&](Bytes& b, const PackedSections& s) { b.set(at(s.values) + 5, nan); }),
                  HasSubstr("value 5: found"));
    }
    EXPECT_THAT(damaged(make, [&](Bytes& b, const PackedSections& s) { b.set(at(s.scales), -1.0f); }),
                HasSubstr("scale of row 0"));
    EXPECT_THAT(damaged(make, [&](Bytes& b, const PackedSections& s) { b.set(at(s.scales) + 20 * 4, 1.0f); }),
                HasSubstr("scale of row 20"));
  }
  EXPECT_THAT(
      damaged(bitmap_fp8, [&](Bytes& b, const PackedSections& s) { b.set(at(s.masks), std::uint64_t{0}); }),
      HasSubstr("the masks before it count"));
  EXPECT_THAT(
      damaged(bitmap_fp8, [&](Bytes& b, const PackedSections& s) { b.set(at(s.num_bytes) - 1, '\1'); }),
      HasSubstr("after the values"));
  // Column 37 of row 0: the last quad of ten.
  EXPECT_THAT(
      damaged(dense_fp8, [&](Bytes& b, const PackedSections& s) { b.set(at(s.values) + 9 * 64 + 1, '\1'); }),
      HasSubstr("outside the matrix"));
}

TEST(PackedTensor, NmRules) {
  const auto at = [](std::int64_t offset) { return static_cast<std::size_t>(offset); };
  EXPECT_THAT(damaged([] { return nm(2, 4); },
                      [&](Bytes& b, const PackedSections& s) { b.set(at(s.indices), std::uint32_t{3}); }),
              HasSubstr("rising indices"));
  EXPECT_THAT(damaged([] { return nm(1, 8); },
                      [&](Bytes& b, const PackedSections& s) { b.set(at(s.indices), std::uint64_t{9}); }),
              HasSubstr("rising indices below 8"));
  // The second panel's rows 4 to 15 are outside: their values must be 0.
  EXPECT_THAT(
      damaged([] { return nm(2, 4); },
              [&](Bytes& b, const PackedSections& s) { b.set(at(s.num_bytes) - 2, std::uint16_t{1}); }),
      HasSubstr("outside the matrix"));
  // 1:16 over 48 columns is three slots and one of padding.
  EXPECT_THAT(
      damaged([] { return nm(1, 16); },
              [&](Bytes& b, const PackedSections& s) { b.set(at(s.indices) + 3 * 8, std::uint64_t{1}); }),
      HasSubstr("padding index"));
  EXPECT_THAT(
      damaged([] { return nm(1, 16); },
              [&](Bytes& b, const PackedSections& s) { b.set(at(s.values) + 2 * 32 + 2, std::uint16_t{1}); }),
      HasSubstr("outside the matrix"));
  EXPECT_THAT(damaged([] { return nm(1, 8); },
                      [&](Bytes& b, const PackedSections& s) { b.set(at(s.values) - 1, '\1'); }),
              HasSubstr("after the indices"));
}

TEST(PackedTensor, BlockRules) {
  const auto at = [](std::int64_t offset) { return static_cast<std::size_t>(offset); };
  const auto tiles = static_cast<std::uint64_t>(blocks().shape().num_values / 256);
  EXPECT_THAT(
      damaged(blocks, [&](Bytes& b, const PackedSections& s) { b.set(at(s.columns), std::uint32_t{7}); }),
      HasSubstr("tile column 7"));
  EXPECT_THAT(damaged(blocks,
                      [&](Bytes& b, const PackedSections& s) {
                        b.set(at(s.columns) + 4, b.get<std::uint32_t>(at(s.columns)));
                      }),
              HasSubstr("tile column"));
  EXPECT_THAT(
      damaged(blocks, [&](Bytes& b, const PackedSections& s) { b.set(at(s.offsets), std::uint64_t{1}); }),
      HasSubstr("tile offsets"));
  EXPECT_THAT(
      damaged(blocks, [&](Bytes& b, const PackedSections& s) { b.set(at(s.offsets) + 24, tiles + 1); }),
      HasSubstr("tile offsets"));
  EXPECT_THAT(
      damaged(blocks, [&](Bytes& b, const PackedSections& s) { b.set(at(s.offsets) + 8, tiles + 1); }),
      HasSubstr("offset of panel 1"));
  EXPECT_THAT(damaged(blocks, [&](Bytes& b, const PackedSections& s) { b.set(at(s.num_bytes) - 2, '\1'); }),
              HasSubstr("outside the matrix"));
  EXPECT_THAT(damaged(blocks,
                      [&](Bytes& b, const PackedSections&) {
                        b.set(kNumValues, b.get<std::uint64_t>(kNumValues) - 1);
                      }),
              HasSubstr("values, expected"));
}

TEST(PackedTensor, DenseRules) {
  // Column 37 of row 0, and row 20.
  EXPECT_THAT(damaged(dense,
                      [](Bytes& b, const PackedSections& s) {
                        b.set(static_cast<std::size_t>(s.values) + 18 * 64 + 2, std::uint16_t{1});
                      }),
              HasSubstr("outside the matrix"));
  EXPECT_THAT(damaged(dense,
                      [](Bytes& b, const PackedSections& s) {
                        b.set(static_cast<std::size_t>(s.values) + 19 * 64 + 4 * 4, std::uint16_t{1});
                      }),
              HasSubstr("outside the matrix"));
}

TEST(PackedTensor, GridHeaderRules) {
  const auto with = [](std::size_t offset, auto value) {
    Bytes bytes(bitmap_grid(4));
    bytes.set(offset, value);
    return bytes.error();
  };
  EXPECT_EQ(with(kBits, std::uint8_t{128 + 4}), "");
  EXPECT_THAT(with(kDType, std::uint16_t{0}), HasSubstr("dtype 0"));
  for (const int bits : {0, 2, 5, 16}) {
    EXPECT_THAT(with(kBits, static_cast<std::uint8_t>(128 + bits)),
                HasSubstr(fmt::format("codes of {} bits", bits)));
  }
  EXPECT_THAT(with(kGroup, std::uint8_t{3}), HasSubstr("groups of 96"));
  EXPECT_THAT(with(kGroup, std::uint8_t{4}), HasSubstr("groups of 128 over 64"));
  EXPECT_THAT(with(kGroup, std::uint8_t{255}), HasSubstr("groups of"));
  EXPECT_THAT(with(kGroupN, std::uint16_t{2}), HasSubstr("groups in kind bitmap_grid"));
  EXPECT_THAT(with(kCodeBytes, ~std::uint64_t{0}), HasSubstr("bytes of codes"));
  EXPECT_THAT(with(kCodeBytes, std::uint64_t{1} << 40), HasSubstr("its shape needs"));
  EXPECT_THAT(with(kCodeBytes, std::uint64_t{1}), HasSubstr("bytes"));
  const auto nm_with = [](std::size_t offset, std::uint16_t value) {
    Bytes bytes(nm_grid(4));
    bytes.set(offset, value);
    return bytes.error();
  };
  EXPECT_THAT(nm_with(kGroupM, 8), HasSubstr("2:8"));
  EXPECT_THAT(nm_with(kGroupN, 4), HasSubstr("4:4"));
  EXPECT_THAT(nm_with(kGroupN, 0), HasSubstr("0:4"));
  EXPECT_THAT(nm_with(kGroupN, 1), HasSubstr("values, expected 320"));
  Bytes reserved(dense_grid(4));
  reserved.set(kCodeBytes, std::uint64_t{64});
  EXPECT_THAT(reserved.error(), HasSubstr("reserved"));
}

TEST(PackedTensor, GridRules) {
  const auto at = [](std::int64_t offset) { return static_cast<std::size_t>(offset); };
  const auto bitmaps = [](int bits) { return [bits] { return bitmap_grid(bits); }; };
  for (const int bits : {8, 4, 3}) {
    EXPECT_EQ(damaged(bitmaps(bits), [](Bytes&, const PackedSections&) {}), "");
    // Zero, negative, infinite, not a number.
    for (const std::uint16_t scale : {std::uint16_t{0}, std::uint16_t{0x8000}, std::uint16_t{0xb000},
                                      std::uint16_t{0x7c00}, std::uint16_t{0x7e00}}) {
      EXPECT_THAT(
          damaged(bitmaps(bits), [&](Bytes& b, const PackedSections& s) { b.set(at(s.scales), scale); }),
          HasSubstr("row 0, group 0: found scale"));
    }
    // The second panel's fifth row is padding: two groups of 16 rows before it, and four rows.
    EXPECT_THAT(damaged(bitmaps(bits),
                        [&](Bytes& b, const PackedSections& s) {
                          b.set(at(s.scales) + (2 * 16 + 4) * 2, std::uint16_t{0x3c00});
                        }),
                HasSubstr("row 20, group 0: found scale"));
    const std::size_t zero = bits == 8 ? 2 * 16 + 4 : (2 * 16 + 4) / 2;
    EXPECT_THAT(
        damaged(bitmaps(bits), [&](Bytes& b, const PackedSections& s) { b.set(at(s.zeros) + zero, '\1'); }),
        HasSubstr("row 20, group 0: found zero point"));
    // One stored weight more and one less than the offsets say.
    for (const std::uint64_t mask : {~std::uint64_t{0}, std::uint64_t{0}}) {
      EXPECT_THAT(
          damaged(bitmaps(bits), [&](Bytes& b, const PackedSections& s) { b.set(at(s.masks), mask); }),
          testing::AnyOf(HasSubstr("the masks"), HasSubstr("after the last of its stream")));
    }
    EXPECT_THAT(
        damaged(bitmaps(bits),
                [&](Bytes& b, const PackedSections& s) { b.set(at(s.offsets) + 8, ~std::uint64_t{0}); }),
        HasSubstr("offset 1: found"));
    EXPECT_THAT(damaged(bitmaps(bits),
                        [&](Bytes& b, const PackedSections& s) { b.set(at(s.offsets), std::uint64_t{1}); }),
                HasSubstr("offset 0: found"));
    // Row 20, in the second panel's first step.
    EXPECT_THAT(damaged(bitmaps(bits),
                        [&](Bytes& b, const PackedSections& s) { b.set(at(s.masks) + 16 * 8 + 2, '\1'); }),
                HasSubstr("outside the matrix"));
    EXPECT_THAT(
        damaged(bitmaps(bits), [&](Bytes& b, const PackedSections& s) { b.set(at(s.num_bytes) - 1, '\1'); }),
        HasSubstr("after the codes"));
    EXPECT_THAT(
        damaged(bitmaps(bits), [&](Bytes& b, const PackedSections& s) { b.set(at(s.masks) - 1, '\1'); }),
        HasSubstr("after the offsets"));
    EXPECT_THAT(damaged(bitmaps(bits),
                        [&](Bytes& b, const PackedSections&) {
                          b.set(kNumValues, b.get<std::uint64_t>(kNumValues) + 1);
                        }),
                HasSubstr("the masks count"));
  }
  // A zero point of 3 bits is below 8.
  EXPECT_THAT(damaged(bitmaps(3), [&](Bytes& b, const PackedSections& s) { b.set(at(s.zeros), '\x0f'); }),
              HasSubstr("zero point 15, expected below 8"));
  // The last byte of the shorter stream: of 4 bits only one of the two halves is used there.
  const PackedTensor four = bitmap_grid(4);
  std::int64_t counts[2] = {};
  for (std::int64_t s = 0; s < 16; ++s) {
    counts[s % 2] += std::popcount(static_cast<const std::uint64_t*>(four.masks())[s]);
  }
  ASSERT_NE(counts[0], counts[1]);
  EXPECT_THAT(damaged(bitmaps(4),
                      [&](Bytes& b, const PackedSections& s) {
                        b.set(at(s.values + std::max(counts[0], counts[1]) - 1), '\xff');
                      }),
              HasSubstr("after the last of its stream"));
}

TEST(PackedTensor, DenseAndNmGridRules) {
  const auto at = [](std::int64_t offset) { return static_cast<std::size_t>(offset); };
  for (const int bits : {8, 4, 3}) {
    const auto dense_of = [bits] { return dense_grid(bits); };
    const auto nm_of = [bits] { return nm_grid(bits); };
    EXPECT_EQ(damaged(dense_of, [](Bytes&, const PackedSections&) {}), "");
    EXPECT_EQ(damaged(nm_of, [](Bytes&, const PackedSections&) {}), "");
    // The last codes of the second panel: rows 32 and on, columns past 37.
    EXPECT_THAT(
        damaged(dense_of, [&](Bytes& b, const PackedSections& s) { b.set(at(s.num_bytes) - 1, '\xff'); }),
        HasSubstr("outside the matrix"));
    // N:M: three of a row's four, then too few; and a bit outside.
    EXPECT_THAT(damaged(nm_of, [&](Bytes& b, const PackedSections& s) { b.set(at(s.masks), '\x37'); }),
                HasSubstr("row 0, columns from 0: found 3 of 4"));
    EXPECT_THAT(damaged(nm_of, [&](Bytes& b, const PackedSections& s) { b.set(at(s.masks), '\x30'); }),
                HasSubstr("row 0, columns from 0: found 0 of 4"));
    EXPECT_THAT(
        damaged(nm_of, [&](Bytes& b, const PackedSections& s) { b.set(at(s.masks) + 16 * 8 + 2, '\1'); }),
        HasSubstr("outside the matrix"));
    // The second panel stores four rows of 32 codes a step: the fifth row's first code of its first step.
    const std::int64_t panel = 2 * 16 * 2 * bits;  // bytes: two chunks
    EXPECT_THAT(
        damaged(nm_of, [&](Bytes& b, const PackedSections& s) { b.set(at(s.values + panel) + 8, '\1'); }),
        HasSubstr("outside the matrix"));
    EXPECT_THAT(damaged(nm_of, [&](Bytes& b, const PackedSections& s) { b.set(at(s.num_bytes) - 1, '\1'); }),
                HasSubstr("after the codes"));
  }
}

// Whatever bytes are damaged: either the file is refused, or a forward stays inside it (the address sanitizer
// watches) and unpacking too.
TEST(PackedTensor, RandomDamageIsRefusedOrHarmless) {
  std::mt19937 engine(5);
  int refused = 0;
  for (const PackedTensor& tensor : {bitmap(), bitmap_int8(), nm(2, 4), nm(1, 8), blocks(), dense(),
                                     bitmap_fp8(), dense_fp8(), dense_grid(4), dense_grid(3), bitmap_grid(8),
                                     bitmap_grid(4), bitmap_grid(3), nm_grid(4), nm_grid(3)}) {
    std::vector<float> values(static_cast<std::size_t>(tensor.cols()));
    Matrix x = Matrix::zeros(20, tensor.cols());
    Matrix y(20, tensor.rows());
    for (int round = 0; round < 400; ++round) {
      Bytes bytes(tensor);
      const std::size_t size = bytes.span().size();
      for (int hit = 0; hit < 1 + round % 3; ++hit) {
        // Half of the hits in the first 256 bytes, where the numbers are that steer.
        const std::size_t offset = engine() % (engine() % 2 == 0 ? std::min<std::size_t>(size, 256) : size);
        if (offset / 8 == kNumBytes / 8 || offset / 8 == kChecksum / 8) continue;
        bytes.set(offset, static_cast<std::uint8_t>(engine()));
      }
      bytes.seal();
      try {
        const PackedTensor parsed = PackedTensor::parse(bytes.span(), "layer.weight", nullptr);
        if (parsed.rows() != tensor.rows() || parsed.cols() != tensor.cols()) continue;
        const Linear linear(parsed);
        for (const std::int64_t tokens : {1, 20}) {
          linear.forward(x.view().row_block(0, tokens), {}, y.view().row_block(0, tokens));
        }
        if (is_grid(parsed.kind())) {
          unpack_quantized(parsed);
          unpack_row(parsed, 0, values);
        } else {
          unpack(parsed);
        }
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 1200);
}

}  // namespace
}  // namespace swiftprune
