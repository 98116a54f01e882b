#include "swiftprune/sparse/packed_tensor.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/sparse/packed_checks.h"
#include "swiftprune/sparse/packed_header.h"

namespace swiftprune {
namespace {

static_assert(std::endian::native == std::endian::little, "packed tensors are little endian");

constexpr char kMagic[4] = {'S', 'W', 'P', 'K'};
constexpr std::uint16_t kVersion = 1;

struct Header {
  char magic[4];
  std::uint16_t version;
  std::uint16_t kind;
  std::uint16_t dtype;  // 0 BF16, 1 F16, 2 F32
  std::uint16_t group_n;
  std::uint16_t group_m;
  std::uint8_t bits;   // grids: of a code; + 128 with zero points
  std::uint8_t group;  // grids: inputs of a group / 32; 0 the whole row
  std::uint64_t rows;
  std::uint64_t cols;
  std::uint64_t num_values;
  std::uint64_t num_bytes;
  std::uint64_t checksum;    // XXH3, 64 bits, of all bytes with this field zero
  std::uint64_t code_bytes;  // bitmap_grid
};
static_assert(sizeof(Header) == kPackedHeaderBytes);

std::shared_ptr<std::byte[]> aligned_memory(std::size_t size) {
  constexpr std::align_val_t kAlignment{64};
  return {static_cast<std::byte*>(::operator new[](size, kAlignment)),
          [](std::byte* p) { ::operator delete[](p, kAlignment); }};
}

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

constexpr std::uint8_t kAsymmetric = 128;

// The grid of a grid kind; other kinds have none.
void read_grid(const Header& header, PackedShape& shape, std::string_view name) {
  if (!is_grid(shape.kind)) {
    if (header.bits != 0 || header.group != 0) {
      bad_input("{}: reserved header bytes are not zero", name);
    }
    return;
  }
  shape.grid.bits = header.bits & ~kAsymmetric;
  shape.grid.asymmetric = (header.bits & kAsymmetric) != 0;
  shape.grid.group = std::int64_t{32} * header.group;
  if (std::ranges::find(kQuantBits, shape.grid.bits) == std::end(kQuantBits)) {
    bad_input("{}: found codes of {} bits, expected 8, 4 or 3", name, shape.grid.bits);
  }
  const bool known =
      shape.grid.group == 0 || std::ranges::find(kQuantGroups, shape.grid.group) != std::end(kQuantGroups);
  if (!known || (shape.grid.group != 0 && shape.cols % shape.grid.group != 0)) {
    bad_input("{}: found groups of {} over {} columns, expected 32, 64 or 128 dividing the columns, or 0",
              name, shape.grid.group, shape.cols);
  }
}

void check_pattern(const PackedShape& shape, std::string_view name) {
  const bool nm_grid = shape.kind == PackedKind::kNmGrid;
  if (shape.kind != PackedKind::kNm16 && !nm_grid) {
    if (shape.group_n != 0 || shape.group_m != 0) {
      bad_input("{}: found {}:{} groups in kind {}", name, shape.group_n, shape.group_m, name_of(shape.kind));
    }
    return;
  }
  const bool known = shape.group_m == 4 || (!nm_grid && (shape.group_m == 8 || shape.group_m == 16));
  if (!known || shape.group_n < 1 || shape.group_n >= shape.group_m || shape.cols % shape.group_m != 0) {
    bad_input("{}: found {}:{} over {} columns, expected 1 <= N < M, M of {} dividing the columns", name,
              shape.group_n, shape.group_m, shape.cols, nm_grid ? "4" : "4, 8 or 16");
  }
}

Header header_of(std::span<const std::byte> bytes, std::string_view name) {
  if (bytes.size() < sizeof(Header)) {
    bad_input("{}: found {} bytes, a packed tensor has a header of {}", name, bytes.size(), sizeof(Header));
  }
  Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  return header;
}

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
  const bool grid = is_grid(static_cast<PackedKind>(header.kind));
  if (grid ? header.dtype != 2 : header.dtype > 1) {
    bad_input("{}: found dtype {}, expected {}", name, header.dtype,
              grid ? "2 (F32) in this kind" : "0 (BF16) or 1 (F16)");
  }
  if (header.code_bytes != 0 && header.kind != static_cast<std::uint16_t>(PackedKind::kBitmapGrid)) {
    bad_input("{}: reserved header bytes are not zero", name);
  }
  if (header.rows == 0 || header.cols == 0 || header.rows > kMaxWeights || header.cols > kMaxWeights ||
      header.rows > kMaxWeights / header.cols) {
    bad_input("{}: found shape [{}, {}], expected 1 to 2^40 weights", name, header.rows, header.cols);
  }
  PackedShape shape;
  shape.kind = static_cast<PackedKind>(header.kind);
  shape.dtype = header.dtype == 0 ? DType::kBF16 : header.dtype == 1 ? DType::kF16 : DType::kF32;
  shape.group_n = header.group_n;
  shape.group_m = header.group_m;
  shape.rows = static_cast<std::int64_t>(header.rows);
  shape.cols = static_cast<std::int64_t>(header.cols);
  if (is_int8(shape.kind) && shape.cols > kMaxInt8Cols) {
    bad_input("{}: found {} columns, expected at most {} in int8", name, shape.cols, kMaxInt8Cols);
  }
  check_pattern(shape, name);
  read_grid(header, shape, name);
  // Bounds num_values (also above padded block tiles) before it enters any size.
  if (header.num_values > 4 * kMaxWeights * static_cast<std::uint64_t>(kPanelRows)) {
    bad_input("{}: found {} values for {} weights", name, header.num_values, header.rows * header.cols);
  }
  shape.num_values = static_cast<std::int64_t>(header.num_values);
  // A panel's bytes are at most one a lane.
  if (header.code_bytes > 4 * kMaxWeights * static_cast<std::uint64_t>(kPanelRows)) {
    bad_input("{}: found {} bytes of codes for {} weights", name, header.code_bytes,
              header.rows * header.cols);
  }
  shape.code_bytes = static_cast<std::int64_t>(header.code_bytes);
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
    case PackedKind::kDenseGrid:
      expected = shape.rows * shape.cols;
      break;
    case PackedKind::kNm16:
    case PackedKind::kNmGrid:
      expected = shape.rows * (shape.cols / shape.group_m) * shape.group_n;
      break;
    case PackedKind::kBlock16:
      expected = round_up(shape.num_values, kPanelRows * kBlockCols);
      break;
    case PackedKind::kBitmap16:
    case PackedKind::kBitmapInt8:
    case PackedKind::kBitmapFp8:
    case PackedKind::kBitmapGrid:
      break;  // the masks decide
  }
  if (shape.num_values != expected) {
    bad_input("{}: found {} values, expected {}", name, shape.num_values, expected);
  }
}

}  // namespace

std::string_view name_of(PackedKind kind) {
  constexpr std::string_view kNames[kNumPackedKinds] = {
      "dense16",   "dense_int8", "bitmap16",   "bitmap_int8", "nm16",   "block16",
      "dense_fp8", "bitmap_fp8", "dense_grid", "bitmap_grid", "nm_grid"};
  return kNames[static_cast<std::size_t>(kind)];
}

bool is_int8(PackedKind kind) { return kind == PackedKind::kDenseInt8 || kind == PackedKind::kBitmapInt8; }
bool is_fp8(PackedKind kind) { return kind == PackedKind::kDenseFp8 || kind == PackedKind::kBitmapFp8; }

bool is_grid(PackedKind kind) {
  return kind == PackedKind::kDenseGrid || kind == PackedKind::kBitmapGrid || kind == PackedKind::kNmGrid;
}

bool starts_as_grid(std::span<const std::byte> bytes) {
  Header header;
  if (bytes.size() < sizeof header) return false;
  std::memcpy(&header, bytes.data(), sizeof header);
  return std::memcmp(header.magic, kMagic, sizeof kMagic) == 0 && header.kind < kNumPackedKinds &&
         is_grid(static_cast<PackedKind>(header.kind));
}

std::int64_t packed_size(std::span<const std::byte> bytes) {
  Header header;
  if (bytes.size() < sizeof header) return 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const bool known = std::memcmp(header.magic, kMagic, sizeof kMagic) == 0 &&
                     header.num_bytes <= std::uint64_t{std::numeric_limits<std::int64_t>::max()};
  return known ? static_cast<std::int64_t>(header.num_bytes) : 0;
}

std::int64_t num_offsets(const PackedShape& shape) {
  const bool two_planes = shape.kind == PackedKind::kBitmapGrid && shape.grid.bits == 3;
  return shape.num_panels() * (two_planes ? 2 : 1) + 1;
}

std::string describe(const PackedShape& shape) {
  std::string text = shape.group_m != 0 ? fmt::format("{}:{}", shape.group_n, shape.group_m)
                     : shape.kind == PackedKind::kDenseGrid  ? "dense"
                     : shape.kind == PackedKind::kBitmapGrid ? "bitmap"
                                                             : std::string(name_of(shape.kind));
  if (!is_grid(shape.kind)) return text;
  text += fmt::format(" int{} {}", shape.grid.bits,
                      shape.grid.group == 0 ? std::string("row") : fmt::format("g{}", shape.grid.group));
  return shape.grid.asymmetric ? text + " asymmetric" : text;
}

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
  const std::int64_t code_cell = kPanelRows * kChunkCols * shape.grid.bits / 8;  // of a dense chunk
  if (is_grid(shape.kind)) {
    s.scales = place(panels * shape.num_groups() * kPanelRows * 2);
    if (shape.grid.asymmetric) {
      s.zeros = place(panels * shape.num_groups() * (shape.grid.bits == 8 ? kPanelRows : kPanelRows / 2));
    }
  }
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
    case PackedKind::kDenseGrid:
      s.values = place(panels * shape.num_chunks() * code_cell);
      break;
    case PackedKind::kBitmapGrid:
      s.offsets = place(num_offsets(shape) * 8);
      s.masks = place(panels * shape.num_chunks() * kChunkSteps * 8);
      s.values = place(round_up(shape.code_bytes, 64) + 64);
      break;
    case PackedKind::kNmGrid:
      s.masks = place(panels * shape.num_chunks() * kChunkSteps * 8);
      s.values = place(panels * shape.num_chunks() * code_cell * shape.group_n / kNmGridColumns + 64);
      break;
  }
  s.num_bytes = end;
  return s;
}

PackedShape read_packed_shape(std::span<const std::byte> bytes, std::string_view name) {
  return read_header(header_of(bytes, name), name, bytes.size());
}

PackedTensor PackedTensor::parse(std::span<const std::byte> bytes, std::string_view name,
                                 std::shared_ptr<const void> owner) {
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % 64 != 0) {
    bad_input("{}: found at an offset that is no multiple of 64; pack the model again", name);
  }
  const Header header = header_of(bytes, name);
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

PackedTensor PackedTensor::read(std::int64_t num_bytes, std::string_view name,
                                const std::function<void(std::span<std::byte>)>& fill) {
  const auto size = static_cast<std::size_t>(num_bytes);
  const std::shared_ptr<std::byte[]> memory = aligned_memory(size);
  fill({memory.get(), size});
  return parse({memory.get(), size}, name, memory);
}

double PackedTensor::density() const {
  return static_cast<double>(shape_.num_values) /
         (static_cast<double>(shape_.rows) * static_cast<double>(shape_.cols));
}

PackedBuilder::PackedBuilder(const PackedShape& shape) : shape_(shape), sections_(sections_of(shape)) {
  const auto size = static_cast<std::size_t>(sections_.num_bytes);
  memory_ = aligned_memory(size);
  std::memset(memory_.get(), 0, size);
}

std::span<float> PackedBuilder::scales() {
  return {reinterpret_cast<float*>(memory_.get() + sections_.scales),
          static_cast<std::size_t>(shape_.num_panels() * kPanelRows)};
}

std::span<std::uint64_t> PackedBuilder::offsets() {
  return {reinterpret_cast<std::uint64_t*>(memory_.get() + sections_.offsets),
          static_cast<std::size_t>(num_offsets(shape_))};
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
  header.dtype = shape_.dtype == DType::kBF16 ? 0 : shape_.dtype == DType::kF16 ? 1 : 2;
  if (is_grid(shape_.kind)) {
    header.bits = static_cast<std::uint8_t>(shape_.grid.bits | (shape_.grid.asymmetric ? kAsymmetric : 0));
    header.group = static_cast<std::uint8_t>(shape_.grid.group / 32);
    header.code_bytes = static_cast<std::uint64_t>(shape_.code_bytes);
  }
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
