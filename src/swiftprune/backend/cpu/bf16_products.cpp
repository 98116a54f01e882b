#include "swiftprune/backend/cpu/bf16_products.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "swiftprune/backend/cpu/bf16.h"
#include "swiftprune/backend/cpu/tiles.h"

namespace swiftprune::cpu {
namespace {

constexpr std::int64_t kBf16Tile = 256;
// c [rows, cols] += aᵀ b of one tile, planned for one thread: how every task runs.
class TileProduct {
 public:
  struct Shape {
    std::int64_t tokens, rows, cols, a_stride, b_stride, c_stride;
    auto operator<=>(const Shape&) const = default;
  };

  explicit TileProduct(const Shape& shape) {
    using dnnl::memory;
    a_ = memory::desc({shape.rows, shape.tokens}, memory::data_type::bf16, memory::dims{1, shape.a_stride});
    b_ = memory::desc({shape.tokens, shape.cols}, memory::data_type::bf16, memory::dims{shape.b_stride, 1});
    c_ = memory::desc({shape.rows, shape.cols}, memory::data_type::f32, memory::dims{shape.c_stride, 1});
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    attributes.set_post_ops(sum);
    const dnnl::matmul::primitive_desc plan(dnnl::matmul::desc(a_, b_, c_), attributes, engine());
    scratch_ = plan.scratchpad_desc();
    product_ = dnnl::matmul(plan);
  }

  void run(const std::uint16_t* a, const std::uint16_t* b, float* c, std::vector<std::byte>& scratch) const {
    using dnnl::memory;
    scratch.resize(std::max(scratch.size(), scratch_.get_size()));
    memory source(a_, engine(), const_cast<std::uint16_t*>(a));
    memory weights(b_, engine(), const_cast<std::uint16_t*>(b));
    memory target(c_, engine(), c);
    memory scratchpad(scratch_, engine(), scratch.data());
    dnnl::stream stream(engine());
    product_.execute(stream, {{DNNL_ARG_SRC, source},
                              {DNNL_ARG_WEIGHTS, weights},
                              {DNNL_ARG_DST, target},
                              {DNNL_ARG_SCRATCHPAD, scratchpad}});
    stream.wait();
  }

 private:
  dnnl::memory::desc a_, b_, c_, scratch_;
  dnnl::matmul product_;
};

const TileProduct& product_for(const TileProduct::Shape& shape) {
  static std::mutex mutex;
  static std::map<TileProduct::Shape, std::unique_ptr<TileProduct>> products;
  const std::lock_guard lock(mutex);
  auto& slot = products[shape];
  if (!slot) slot = std::make_unique<TileProduct>(shape);
  return *slot;
}

// Never one part alone: it would not run as a task, and oneDNN would plan it for the number of threads.
constexpr std::int64_t kLeastParts = 2;

// c [rows, cols], in its rows [first, first + count)
void add_tiles(const Bf16Rows& a, const Bf16Rows& b, bool lower_half, MatrixView c, std::int64_t first,
               std::int64_t count) {
  for_tile_rows(first, count, c.cols, split(c.rows, kBf16Tile, kLeastParts),
                split(c.cols, kBf16Tile, kLeastParts),
                [&](std::int64_t r0, std::int64_t rows, std::int64_t c0, std::int64_t cols) {
                  if (lower_half && c0 > r0) return;
                  thread_local std::vector<std::byte> scratch;
                  product_for({a.tokens, rows, cols, c.rows, c.cols, c.stride})
                      .run(a.values.data() + r0, b.values.data() + c0, c.row(r0) + c0, scratch);
                });
}

}  // namespace

std::int64_t moment_rows_bf16(std::int64_t n) { return split(n, kBf16Tile, kLeastParts).size; }

void add_cross_bf16(const Bf16Rows& a, const Bf16Rows& b, MatrixView c, std::int64_t first,
                    std::int64_t count) {
  add_tiles(a, b, false, c, first, count);
}

void add_gram_bf16(const Bf16Rows& x, MatrixView gram, std::int64_t first, std::int64_t count) {
  add_tiles(x, x, true, gram, first, count);
}

}  // namespace swiftprune::cpu
