#include "swiftprune/backend/cpu/bf16_products.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

#include "swiftprune/backend/cpu/kernels.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune::cpu {
namespace {

constexpr std::int64_t kTile = 256;
constexpr std::int64_t kRowChunk = 256;

dnnl::engine& engine() {
  static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

struct Rounded {
  std::vector<std::uint16_t> values;
  std::int64_t rows;
  std::int64_t cols;
};

Rounded rounded(ConstMatrixView x) {
  Rounded result{std::vector<std::uint16_t>(static_cast<std::size_t>(x.numel())), x.rows, x.cols};
  parallel_for(x.rows, kRowChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r)
      kernels().to_bf16(x.row(r), result.values.data() + r * x.cols, x.cols);
  });
  return result;
}

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

struct Split {
  std::int64_t parts;
  std::int64_t size;
};

// Never one part alone: it would not run as a task, and oneDNN would plan it for the number of threads.
Split split(std::int64_t n) {
  const std::int64_t parts = std::max<std::int64_t>(2, ceil_div(n, kTile));
  const std::int64_t size = round_up(ceil_div(n, parts), 16);
  return {std::max<std::int64_t>(2, ceil_div(n, size)), size};
}

void add_tiles(const Rounded& a, const Rounded& b, bool lower_half, MatrixView c) {
  const Split rows = split(c.rows);
  const Split cols = split(c.cols);
  parallel_for(rows.parts * cols.parts, 1, [&](std::int64_t first, std::int64_t last) {
    thread_local std::vector<std::byte> scratch;
    for (std::int64_t t = first; t < last; ++t) {
      const std::int64_t r0 = (t / cols.parts) * rows.size;
      const std::int64_t c0 = (t % cols.parts) * cols.size;
      if (r0 >= c.rows || c0 >= c.cols || (lower_half && c0 > r0)) continue;
      const TileProduct::Shape shape{
          a.rows,  std::min(rows.size, c.rows - r0), std::min(cols.size, c.cols - c0), a.cols, b.cols,
          c.stride};
      product_for(shape).run(a.values.data() + r0, b.values.data() + c0, c.row(r0) + c0, scratch);
    }
  });
}

}  // namespace

void add_cross_bf16(ConstMatrixView a, ConstMatrixView b, MatrixView c) {
  add_tiles(rounded(a), rounded(b), false, c);
}

void add_gram_bf16(ConstMatrixView x, MatrixView gram) {
  const Rounded values = rounded(x);
  add_tiles(values, values, true, gram);
}

}  // namespace swiftprune::cpu
