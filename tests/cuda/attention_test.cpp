// Attention on the GPU against the reference backend: lengths around the tiles, grouped heads, windows, soft
// caps.
#include <algorithm>
#include <random>

#include "cuda/gpu.h"
#include "swiftprune/backend/backend.h"

namespace swiftprune {
namespace {

using test::relative_error;
using test::rounded;
using testing::random_matrix;

struct Shape {
  std::int64_t length, sequences, heads, kv_heads, head_size;
};
const Shape kShapes[] = {{1, 2, 2, 2, 8},     {5, 1, 2, 1, 6},    {63, 1, 4, 2, 16},  {64, 2, 2, 1, 32},
                         {65, 1, 2, 2, 64},   {130, 2, 3, 1, 80}, {200, 1, 2, 2, 96}, {257, 1, 2, 1, 128},
                         {150, 1, 2, 1, 256}, {33, 3, 1, 1, 20},  {300, 2, 9, 3, 64}, {700, 1, 20, 4, 128}};

// Everything of a call but the output and the number of rows. data: queries, keys and values side by side.
cuda::AttentionArgs args_of(const Shape& s, const std::byte* data, DType dtype,
                            const AttentionParams& params) {
  const auto at = [&](std::int64_t element) { return data + element * size_of(dtype); };
  cuda::AttentionArgs args;
  args.q = at(0);
  args.k = at(s.heads * s.head_size);
  args.v = at((s.heads + s.kv_heads) * s.head_size);
  args.dtype = dtype;
  args.row_stride = (s.heads + 2 * s.kv_heads) * s.head_size;
  args.head_stride = s.head_size;
  args.num_heads = s.heads;
  args.num_kv_heads = s.kv_heads;
  args.head_size = s.head_size;
  args.scale = params.scale;
  args.softcap = params.softcap;
  args.window = params.window;
  return args;
}
AttentionParams params_of(const Shape& s, std::int64_t window, float softcap) {
  AttentionParams params;
  params.num_heads = s.heads;
  params.num_kv_heads = s.kv_heads;
  params.head_size = s.head_size;
  params.scale = 0.7f;
  params.softcap = softcap;
  params.window = window;
  return params;
}

class CudaAttentionTest : public test::GpuTest {};

// Keys and values [lanes·capacity, width] of a test in pages on the device, which lie there in another order than lanes
// and positions. capacity: whole pages.
class Pages {
 public:
  Pages(std::int64_t lanes, std::int64_t capacity, std::int64_t width, DType dtype)
      : pages_per_lane_(capacity / cuda::kCachePage),
        count_(lanes * pages_per_lane_),
        width_(width),
        dtype_(dtype),
        part_(cuda::kCachePage * width * size_of(dtype)) {
    for (std::int64_t page = 0; page < count_; ++page) order_.push_back(page);
    std::shuffle(order_.begin(), order_.end(), std::mt19937(9));
  }
  std::int64_t bytes() const { return count_ * 2 * part_; }
  // In the order of the device, keys before values in each page.
  Matrix scattered(const Matrix& keys, const Matrix& values) const {
    Matrix all(count_ * 2 * cuda::kCachePage, width_);
    for_parts([&](std::int64_t from, std::int64_t to, bool of_values) {
      std::copy_n((of_values ? values : keys).row(from), cuda::kCachePage * width_, all.row(to));
    });
    return all;
  }
  void gather(const Matrix& all, Matrix& keys, Matrix& values) const {
    for_parts([&](std::int64_t to, std::int64_t from, bool of_values) {
      std::copy_n(all.row(from), cuda::kCachePage * width_, (of_values ? values : keys).row(to));
    });
  }
  std::vector<std::byte*> addresses(std::byte* first) const {
    std::vector<std::byte*> result;
    for (const std::int64_t place : order_) result.push_back(first + place * 2 * part_);
    return result;
  }
  cuda::CacheArgs args(const cuda::DeviceBuffer& table, std::int64_t capacity) const {
    return {.pages = table.as<std::byte*>(),
            .pages_per_lane = pages_per_lane_,
            .values = part_,
            .capacity = capacity};
  }

 private:
  // of_page(row of the lanes, row on the device, values?)
  template <class OfPart>
  void for_parts(const OfPart& of_part) const {
    for (std::int64_t page = 0; page < count_; ++page) {
      for (const bool of_values : {false, true}) {
        const std::int64_t place = 2 * order_[static_cast<std::size_t>(page)] + (of_values ? 1 : 0);
        of_part(page * cuda::kCachePage, place * cuda::kCachePage, of_values);
      }
    }
  }
  std::int64_t pages_per_lane_, count_, width_;
  DType dtype_;
  std::int64_t part_;  // bytes
  std::vector<std::int64_t> order_;
};

TEST_F(CudaAttentionTest, AgreesWithTheReference) {
  const auto reference = make_reference_backend();
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const double tolerance = dtype == DType::kF32 ? 1e-5 : dtype == DType::kF16 ? 1e-3 : 8e-3;
    for (const Shape& s : kShapes) {
      for (const auto& [window, softcap] : {std::pair{0, 0.0f}, {40, 0.0f}, {0, 3.0f}, {1, 2.0f}}) {
        const std::int64_t rows = s.length * s.sequences;
        const std::int64_t stride = (s.heads + 2 * s.kv_heads) * s.head_size;
        const Matrix qkv = rounded(random_matrix(rows, stride, 4), dtype);
        AttentionParams params = params_of(s, window, softcap);
        Matrix expected(rows, s.heads * s.head_size);
        for (std::int64_t i = 0; i < s.sequences; ++i) {
          const auto part = qkv.view().row_block(i * s.length, s.length);
          reference->attention(part.col_block(0, s.heads * s.head_size),
                               part.col_block(s.heads * s.head_size, s.kv_heads * s.head_size),
                               part.col_block((s.heads + s.kv_heads) * s.head_size, s.kv_heads * s.head_size),
                               params, expected.view().row_block(i * s.length, s.length));
        }
        const auto data = upload_as(qkv, dtype);
        cuda::AttentionArgs args = args_of(s, data.data(), dtype, params);
        args.rows = rows;
        args.sequence_length = s.length;
        for (const auto& [name, kernel] :
             {std::pair{"chosen", &cuda::attention}, {"portable", &cuda::attention_portable}}) {
          const auto out = poisoned(expected.numel() * size_of(dtype));
          args.out = out.data();
          kernel(args, *stream_);
          EXPECT_LE(relative_error(download_as(out, dtype, rows, expected.cols()).view(), expected.view()),
                    tolerance)
              << name << ' ' << name_of(dtype) << " length " << s.length << " head size " << s.head_size
              << " window " << window << " cap " << softcap;
        }
      }
    }
  }
}

// The last tokens of sequences of different lengths, in lanes of one cache, in any order.
TEST_F(CudaAttentionTest, CachedAgreesWithTheReference) {
  const auto reference = make_reference_backend();
  constexpr std::int64_t kCapacity = 18 * cuda::kCachePage;
  const auto scratch = poisoned(cuda::kCacheScratch);
  cuda::check(cudaMemsetAsync(scratch.data(), 0, scratch.bytes(), *stream_));
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const double tolerance = dtype == DType::kF32 ? 1e-5 : dtype == DType::kF16 ? 1e-3 : 8e-3;
    for (const Shape& s : kShapes) {
      for (const auto& [window, softcap] : {std::pair{0, 0.0f}, {40, 0.0f}, {0, 3.0f}}) {
        const std::int64_t length = 1 + s.length % 3;  // new tokens of each
        const std::vector<std::int32_t> lanes = {2, 0, 3};
        const std::vector<std::int32_t> positions = {
            static_cast<std::int32_t>(std::min<std::int64_t>(4 * s.length, 1050)), 1, 0};
        const std::int64_t rows = length * std::ssize(lanes);
        const std::int64_t width = s.kv_heads * s.head_size;
        const std::int64_t stride = (s.heads + 2 * s.kv_heads) * s.head_size;
        const Matrix qkv = rounded(random_matrix(rows, stride, 4), dtype);
        Matrix keys = rounded(random_matrix(4 * kCapacity, width, 5), dtype);
        Matrix values = rounded(random_matrix(4 * kCapacity, width, 6), dtype);
        const auto data = upload_as(qkv, dtype);
        const Pages pages(4, kCapacity, width, dtype);
        const auto stored = upload_as(pages.scattered(keys, values), dtype);
        const auto table = upload(std::span<std::byte* const>(pages.addresses(stored.data())));
        const auto device_lanes = upload(std::span<const std::int32_t>(lanes));
        const auto device_positions = upload(std::span<const std::int32_t>(positions));
        AttentionParams params = params_of(s, window, softcap);
        Matrix expected(rows, s.heads * s.head_size);
        for (std::size_t i = 0; i < lanes.size(); ++i) {
          const auto part = qkv.view().row_block(static_cast<std::int64_t>(i) * length, length);
          params.first_position = positions[i];
          const std::int64_t first = lanes[i] * kCapacity;
          for (std::int64_t t = 0; t < length; ++t) {
            const float* row = part.row(t) + s.heads * s.head_size;
            std::copy_n(row, width, keys.row(first + positions[i] + t));
            std::copy_n(row + width, width, values.row(first + positions[i] + t));
          }
          reference->attention(part.col_block(0, s.heads * s.head_size),
                               keys.view().row_block(first, positions[i] + length),
                               values.view().row_block(first, positions[i] + length), params,
                               expected.view().row_block(static_cast<std::int64_t>(i) * length, length));
        }
        const auto out = poisoned(expected.numel() * size_of(dtype));
        cuda::AttentionArgs args = args_of(s, data.data(), dtype, params);
        args.out = out.data();
        args.rows = rows;
        args.sequence_length = length;
        cuda::CacheArgs cache = pages.args(table, kCapacity);
        cache.lanes = device_lanes.as<std::int32_t>();
        cache.positions = device_positions.as<std::int32_t>();
        cache.scratch = scratch.data();
        cuda::append_cache(args, cache, *stream_);
        cuda::cached_attention(args, cache, *stream_);
        EXPECT_LE(relative_error(download_as(out, dtype, rows, expected.cols()).view(), expected.view()),
                  tolerance)
            << name_of(dtype) << " position " << positions[0] << " head size " << s.head_size << " window "
            << window << " cap " << softcap;
        Matrix found_keys(keys.rows(), width), found_values(keys.rows(), width);
        pages.gather(download_as(stored, dtype, 2 * keys.rows(), width), found_keys, found_values);
        EXPECT_LE(relative_error(found_keys.view(), keys.view()), 0.0);
        EXPECT_LE(relative_error(found_values.view(), values.view()), 0.0);
      }
    }
  }
}

// Heads larger than the tiles, and slopes, which go to a kernel of their own: whole sequences and a few tokens behind
// cached ones.
TEST_F(CudaAttentionTest, WideHeadsAndSlopesAgreeWithTheReference) {
  const auto reference = make_reference_backend();
  constexpr std::int64_t kCapacity = 2 * cuda::kCachePage;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const double tolerance = dtype == DType::kF32 ? 1e-5 : dtype == DType::kF16 ? 1e-3 : 8e-3;
    for (const Shape& s :
         {Shape{33, 2, 4, 2, 512}, {1, 1, 2, 1, 300}, {50, 2, 6, 3, 24}, {20, 1, 2, 2, 200}}) {
      for (const auto& [window, softcap] : {std::pair{0, 0.0f}, {7, 0.0f}, {0, 3.0f}}) {
        const Matrix slopes = random_matrix(1, s.heads, 8);
        AttentionParams params = params_of(s, window, softcap);
        const bool sloped = s.head_size <= cuda::kMostTiledHeadSize;
        if (sloped && softcap > 0.0f) continue;  // no model has both
        if (sloped) params.slopes = slopes.values();
        const std::int64_t rows = s.length * s.sequences, stride = (s.heads + 2 * s.kv_heads) * s.head_size;
        const Matrix qkv = rounded(random_matrix(rows, stride, 4), dtype);
        Matrix expected(rows, s.heads * s.head_size);
        for (std::int64_t i = 0; i < s.sequences; ++i) {
          const auto part = qkv.view().row_block(i * s.length, s.length);
          reference->attention(part.col_block(0, s.heads * s.head_size),
                               part.col_block(s.heads * s.head_size, s.kv_heads * s.head_size),
                               part.col_block((s.heads + s.kv_heads) * s.head_size, s.kv_heads * s.head_size),
                               params, expected.view().row_block(i * s.length, s.length));
        }
        const auto slopes_on = upload_as(slopes, DType::kF32);
        const auto run = [&](const Matrix& x, std::int64_t length, const cuda::CacheArgs* cache) {
          const auto data = upload_as(x, dtype);
          const auto out = poisoned(x.rows() * expected.cols() * size_of(dtype));
          cuda::AttentionArgs args = args_of(s, data.data(), dtype, params);
          args.rows = x.rows();
          args.sequence_length = length;
          args.out = out.data();
          if (!params.slopes.empty()) args.slopes = slopes_on.as<float>();
          if (cache == nullptr) {
            cuda::attention(args, *stream_);
          } else {
            cuda::append_cache(args, *cache, *stream_);
            cuda::cached_attention(args, *cache, *stream_);
          }
          return download_as(out, dtype, x.rows(), expected.cols());
        };
        EXPECT_LE(relative_error(run(qkv, s.length, nullptr).view(), expected.view()), tolerance)
            << name_of(dtype) << " head size " << s.head_size << " window " << window;
        const Pages pages(s.sequences, kCapacity, s.kv_heads * s.head_size, dtype);
        const auto stored = poisoned(pages.bytes());
        const auto table = upload(std::span<std::byte* const>(pages.addresses(stored.data())));
        std::vector<std::int32_t> lanes;
        for (std::int64_t i = 0; i < s.sequences; ++i)
          lanes.push_back(static_cast<std::int32_t>(s.sequences - 1 - i));
        const auto lanes_on = upload(std::span<const std::int32_t>(lanes));
        Matrix found(rows, expected.cols());
        for (std::int64_t first = 0; first < s.length;) {
          const std::int64_t count = std::min(s.length - first, std::int64_t{first == 0 ? 9 : 1});
          Matrix piece(s.sequences * count, stride);
          for (std::int64_t r = 0; r < piece.rows(); ++r)
            std::copy_n(qkv.row(r / count * s.length + first + r % count), stride, piece.row(r));
          const std::vector<std::int32_t> at(lanes.size(), static_cast<std::int32_t>(first));
          const auto positions = upload(std::span<const std::int32_t>(at));
          cuda::CacheArgs cache = pages.args(table, kCapacity);
          cache.lanes = lanes_on.as<std::int32_t>();
          cache.positions = positions.as<std::int32_t>();
          const Matrix out = run(piece, count, &cache);
          for (std::int64_t r = 0; r < piece.rows(); ++r)
            std::copy_n(out.row(r), out.cols(), found.row(r / count * s.length + first + r % count));
          first += count;
        }
        EXPECT_LE(relative_error(found.view(), expected.view()), tolerance)
            << "cached, " << name_of(dtype) << " head size " << s.head_size << " window " << window;
      }
    }
  }
}

}  // namespace
}  // namespace swiftprune
