#include "swiftprune/sparse/packed_tensor.h"

#include <xxhash.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <new>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/sparse/packed_checks.h"

namespace swiftprune {
namespace {

static_assert(std::endian::native == std::endian::little, "packed tensors are little endian");

constexpr char kMagic[4] = {'S', 'W', 'P', 'K'};
constexpr std::uint16_t kVersion = 1;

struct Header {
  char magic[4];
  std::uint16_t version;
  std::uint16_t kind;
  std::uint16_t dtype;  // 0 BF16, 1 F16
  std::uint16_t group_n;
  std::uint16_t group_m;
  std::uint16_t reserved;
  std::uint64_t rows;
  std::uint64_t cols;
  std::uint64_t num_values;
  std::uint64_t num_bytes;
  std::uint64_t checksum;  // XXH3, 64 bits, of all bytes with this field zero
  std::uint64_t reserved2;
};
static_assert(sizeof(Header) == 64);

std::uint64_t checksum_of(std::span<const std::byte> bytes) {
  Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  header.checksum = 0;
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  if (state == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset(state.get());
  XXH3_64bits_update(state.get(), &header, sizeof header);
  XXH3_64bits_update(state.get(), bytes.data() + sizeof header, bytes.size() - sizeof header);
  return XXH3_64bits_digest(state.get());
}

// rows · cols stays below this, so that no size computed from a header overflows.
constexpr std::uint64_t kMaxWeights = std::uint64_t{1} << 40;

PackedShape read_header(const Header& header, std::string_view name, std::size_t num_bytes) {
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) {
    bad_input("{}: not a packed tensor: its first bytes are not 'SWPK'", name);
  }
  if (header.version != kVersion) {
    bad_input("{}: found packed format version {}, expected {}; pack the model again", name, header.version,
              kVersion);
  }
  if (header.kind >= kNumPackedKinds) {
    bad_input("{}: found kind {}, expected 0 to {}", name, header.kind, kNumPackedKinds - 1);
  }
  if (header.dtype > 1) bad_input("{}: found dtype {}, expected 0 (BF16) or 1 (F16)", name, header.dtype);
  if (header.reserved != 0 || header.reserved2 != 0) {
    bad_input("{}: reserved header bytes are not zero", name);
  }
  if (header.rows == 0 || header.cols == 0 || header.rows > kMaxWeights || header.cols > kMaxWeights ||
      header.rows > kMaxWeights / header.cols) {
    bad_input("{}: found shape [{}, {}], expected 1 to 2^40 weights", name, header.rows, header.cols);
  }
  PackedShape shape;
  shape.kind = static_cast<PackedKind>(header.kind);
  shape.dtype = header.dtype == 0 ? DType::kBF16 : DType::kF16;
  shape.group_n = header.group_n;
  shape.group_m = header.group_m;
  shape.rows = static_cast<std::int64_t>(header.rows);
  shape.cols = static_cast<std::int64_t>(header.cols);
  if (is_int8(shape.kind) && shape.cols > kMaxInt8Cols) {
    bad_input("{}: found {} columns, expected at most {} in int8", name, shape.cols, kMaxInt8Cols);
  }
  if (shape.kind == PackedKind::kNm16) {
    const bool known = shape.group_m == 4 || shape.group_m == 8 || shape.group_m == 16;
    if (!known || shape.group_n < 1 || shape.group_n >= shape.group_m || shape.cols % shape.group_m != 0) {
      bad_input("{}: found {}:{} over {} columns, expected 1 <= N < M, M of 4, 8 or 16 dividing the columns",
                name, shape.group_n, shape.group_m, shape.cols);
    }
  } else if (shape.group_n != 0 || shape.group_m != 0) {
    bad_input("{}: found {}:{} groups in kind {}", name, shape.group_n, shape.group_m, name_of(shape.kind));
  }
  // Bounds num_values (also above padded block tiles) before it enters any size.
  if (header.num_values > 4 * kMaxWeights * static_cast<std::uint64_t>(kPanelRows)) {
    bad_input("{}: found {} values for {} weights", name, header.num_values, header.rows * header.cols);
  }
  shape.num_values = static_cast<std::int64_t>(header.num_values);
  if (header.num_bytes != num_bytes) {
    bad_input("{}: found {} bytes, its header says {}; the file is cut or damaged", name, num_bytes,
              header.num_bytes);
  }
  return shape;
}

// The number of values where the shape alone decides it.
void check_num_values(const PackedShape& shape, std::string_view name) {
  std::int64_t expected = shape.num_values;
  switch (shape.kind) {
    case PackedKind::kDense16:
    case PackedKind::kDenseInt8:
    case PackedKind::kDenseFp8:
      expected = shape.rows * shape.cols;
      break;
    case PackedKind::kNm16:
      expected = shape.rows * (shape.cols / shape.group_m) * shape.group_n;
      break;
    case PackedKind::kBlock16:
      expected = round_up(shape.num_values, kPanelRows * kBlockCols);
      break;
    case PackedKind::kBitmap16:
    case PackedKind::kBitmapInt8:
    case PackedKind::kBitmapFp8:
      break;  // the masks decide
  }
  if (shape.num_values != expected) {
    bad_input("{}: found {} values, expected {}", name, shape.num_values, expected);
  }
}

}  // namespace

std::string_view name_of(PackedKind kind) {
  constexpr std::string_view kNames[kNumPackedKinds] = {"dense16", "dense_int8", "bitmap16",  "bitmap_int8",
                                                        "nm16",    "block16",    "dense_fp8", "bitmap_fp8"};
  return kNames[static_cast<std::size_t>(kind)];
}

bool is_int8(PackedKind kind) { return kind == PackedKind::kDenseInt8 || kind == PackedKind::kBitmapInt8; }
bool is_fp8(PackedKind kind) { return kind == PackedKind::kDenseFp8 || kind == PackedKind::kBitmapFp8; }

PackedSections sections_of(const PackedShape& shape) {
  PackedSections s;
  std::int64_t end = sizeof(Header);
  const auto place = [&end](std::int64_t bytes) {
    const std::int64_t start = end;
    end = round_up(end + bytes, 64);
    return start;
  };
  const std::int64_t panels = shape.num_panels();
  if (is_8bit(shape.kind)) s.scales = place(panels * kPanelRows * 4);
  switch (shape.kind) {
    case PackedKind::kDense16:
      s.values = place(panels * shape.num_pairs() * 64);
      break;
    case PackedKind::kDenseInt8:
    case PackedKind::kDenseFp8:
      s.values = place(panels * shape.num_quads() * 64);
      break;
    case PackedKind::kBitmap16:
      s.offsets = place((panels + 1) * 8);
      s.masks = place(panels * shape.num_pairs() * 4);
      s.values = place(round_up(shape.num_values * 2, 64) + 64);  // kernels load 64 bytes at any value
      break;
    case PackedKind::kBitmapInt8:
    case PackedKind::kBitmapFp8:
      s.offsets = place((panels + 1) * 8);
      s.masks = place(panels * shape.num_quads() * 8);
      s.values = place(round_up(shape.num_values, 64) + 64);
      break;
    case PackedKind::kNm16:
      s.indices = place(panels * shape.num_slots() * (shape.group_m == 4 ? 4 : 8));
      s.values = place(panels * shape.num_slots() * kPanelRows * 2);
      break;
    case PackedKind::kBlock16:
      s.offsets = place((panels + 1) * 8);
      s.columns = place(shape.num_values / (kPanelRows * kBlockCols) * 4);
      s.values = place(shape.num_values * 2);
      break;
  }
  s.num_bytes = end;
  return s;
}

PackedTensor PackedTensor::parse(std::span<const std::byte> bytes, std::string_view name,
                                 std::shared_ptr<const void> owner) {
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % 64 != 0) {
    bad_input("{}: found at an offset that is no multiple of 64; pack the model again", name);
  }
  if (bytes.size() < sizeof(Header)) {
    bad_input("{}: found {} bytes, a packed tensor has a header of {}", name, bytes.size(), sizeof(Header));
  }
  Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  PackedTensor tensor;
  tensor.shape_ = read_header(header, name, bytes.size());
  check_num_values(tensor.shape_, name);
  tensor.sections_ = sections_of(tensor.shape_);
  if (static_cast<std::uint64_t>(tensor.sections_.num_bytes) != bytes.size()) {
    bad_input("{}: found {} bytes, its shape needs {}", name, bytes.size(), tensor.sections_.num_bytes);
  }
  tensor.bytes_ = bytes;
  tensor.owner_ = std::move(owner);
  if (checksum_of(bytes) != header.checksum) {
    bad_input("{}: checksum mismatch; the file is damaged, copy or pack it again", name);
  }
  check_packed(tensor, tensor.sections_, name);
  return tensor;
}

double PackedTensor::density() const {
  return static_cast<double>(shape_.num_values) /
         (static_cast<double>(shape_.rows) * static_cast<double>(shape_.cols));
}

PackedBuilder::PackedBuilder(const PackedShape& shape) : shape_(shape), sections_(sections_of(shape)) {
  const auto size = static_cast<std::size_t>(sections_.num_bytes);
  memory_ =
      std::shared_ptr<std::byte[]>(static_cast<std::byte*>(::operator new[](size, std::align_val_t{64})),
                                   [](std::byte* p) { ::operator delete[](p, std::align_val_t{64}); });
  std::memset(memory_.get(), 0, size);
}

std::span<float> PackedBuilder::scales() {
  return {reinterpret_cast<float*>(memory_.get() + sections_.scales),
          static_cast<std::size_t>(shape_.num_panels() * kPanelRows)};
}

std::span<std::uint64_t> PackedBuilder::offsets() {
  return {reinterpret_cast<std::uint64_t*>(memory_.get() + sections_.offsets),
          static_cast<std::size_t>(shape_.num_panels() + 1)};
}

PackedTensor PackedBuilder::finish() && {
  PackedTensor tensor;
  tensor.shape_ = shape_;
  tensor.sections_ = sections_;
  tensor.bytes_ = {memory_.get(), static_cast<std::size_t>(sections_.num_bytes)};
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.kind = static_cast<std::uint16_t>(shape_.kind);
  header.dtype = shape_.dtype == DType::kBF16 ? 0 : 1;
  header.group_n = static_cast<std::uint16_t>(shape_.group_n);
  header.group_m = static_cast<std::uint16_t>(shape_.group_m);
  header.rows = static_cast<std::uint64_t>(shape_.rows);
  header.cols = static_cast<std::uint64_t>(shape_.cols);
  header.num_values = static_cast<std::uint64_t>(shape_.num_values);
  header.num_bytes = static_cast<std::uint64_t>(sections_.num_bytes);
  std::memcpy(memory_.get(), &header, sizeof header);
  header.checksum = checksum_of(tensor.bytes_);
  std::memcpy(memory_.get(), &header, sizeof header);
  tensor.owner_ = memory_;
  return tensor;
}

}  // namespace swiftprune
