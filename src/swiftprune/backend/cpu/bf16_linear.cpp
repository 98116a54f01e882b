#include "swiftprune/backend/cpu/bf16_linear.h"

#include <omp.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "swiftprune/backend/cpu/bf16.h"
#include "swiftprune/backend/cpu/kernels.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/cpu_features.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune::cpu {
namespace {

dnnl::memory::desc row_major(std::int64_t rows, std::int64_t cols, std::int64_t stride,
                             dnnl::memory::data_type type) {
  return dnnl::memory::desc({rows, cols}, type, dnnl::memory::dims{stride, 1});
}

// Some outputs of the weight, with the primitives for each number of rows that came up. y is contiguous:
// oneDNN has no fast bf16 product with a strided target.
class Panel {
 public:
  Panel(const std::uint16_t* weight, std::int64_t outputs, std::int64_t inputs)
      : outputs_(outputs), inputs_(inputs) {
    using dnnl::memory;
    const memory::desc plain({inputs, outputs}, memory::data_type::bf16, memory::dims{1, inputs});
    const memory::desc any({inputs, outputs}, memory::data_type::bf16, memory::format_tag::any);
    weight_desc_ = descriptor(Bf16Linear::kRowChunk, any).weights_desc();
    weight_ = memory(weight_desc_, engine());
    memory source(plain, engine(), const_cast<std::uint16_t*>(weight));
    dnnl::stream stream(engine());
    dnnl::reorder(source, weight_).execute(stream, source, weight_);
    stream.wait();
  }

  void run(const std::uint16_t* x, std::int64_t rows, float* y, std::vector<std::byte>& scratch) {
    using dnnl::memory;
    const Entry& entry = primitive_for(rows);
    scratch.resize(std::max(scratch.size(), entry.scratch_bytes));
    memory source(row_major(rows, inputs_, inputs_, memory::data_type::bf16), engine(),
                  const_cast<std::uint16_t*>(x));
    memory target(row_major(rows, outputs_, outputs_, memory::data_type::f32), engine(), y);
    memory scratchpad(entry.scratch_desc, engine(), scratch.data());
    dnnl::stream stream(engine());
    entry.primitive.execute(stream, {{DNNL_ARG_SRC, source},
                                     {DNNL_ARG_WEIGHTS, weight_},
                                     {DNNL_ARG_DST, target},
                                     {DNNL_ARG_SCRATCHPAD, scratchpad}});
    stream.wait();
  }

 private:
  struct Entry {
    dnnl::matmul primitive;
    dnnl::memory::desc scratch_desc;
    std::size_t scratch_bytes = 0;
  };

  dnnl::matmul::primitive_desc descriptor(std::int64_t rows, const dnnl::memory::desc& weight) const {
    using dnnl::memory;
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::matmul::desc product(row_major(rows, inputs_, inputs_, memory::data_type::bf16), weight,
                                     row_major(rows, outputs_, outputs_, memory::data_type::f32));
    return {product, attributes, engine()};
  }

  const Entry& primitive_for(std::int64_t rows) {
    const std::lock_guard lock(mutex_);
    auto& slot = entries_[rows];
    if (!slot) {
      const auto pd = descriptor(rows, weight_desc_);
      slot = std::make_unique<Entry>(
          Entry{dnnl::matmul(pd), pd.scratchpad_desc(), pd.scratchpad_desc().get_size()});
    }
    return *slot;
  }

  std::int64_t outputs_, inputs_;
  dnnl::memory::desc weight_desc_;
  dnnl::memory weight_;
  std::mutex mutex_;
  std::map<std::int64_t, std::unique_ptr<Entry>> entries_;
};

}  // namespace

struct Bf16Linear::Impl {
  std::int64_t outputs = 0;
  std::int64_t inputs = 0;
  std::int64_t panel_rows = 0;
  std::vector<std::unique_ptr<Panel>> panels;
};

bool Bf16Linear::available() { return cpu_features().avx512_bf16; }

Bf16Linear::Bf16Linear(ConstMatrixView weight) : impl_(std::make_unique<Impl>()) {
  impl_->outputs = weight.rows;
  impl_->inputs = weight.cols;
  const std::int64_t parts = std::max<std::int64_t>(1, ceil_div(weight.rows, kPanelRows));
  impl_->panel_rows = round_up(ceil_div(weight.rows, parts), 64);
  impl_->panels.resize(static_cast<std::size_t>(ceil_div(weight.rows, impl_->panel_rows)));
  // Inside a parallel region oneDNN plans for one thread, which is how every task runs.
  parallel_for(static_cast<std::int64_t>(impl_->panels.size()), 1,
               [&](std::int64_t first, std::int64_t last) {
                 for (std::int64_t p = first; p < last; ++p) {
                   const std::int64_t r0 = p * impl_->panel_rows;
                   const std::int64_t rows = std::min(impl_->panel_rows, weight.rows - r0);
                   impl_->panels[static_cast<std::size_t>(p)] =
                       std::make_unique<Panel>(rounded(weight.row_block(r0, rows)).data(), rows, weight.cols);
                 }
               });
}

Bf16Linear::~Bf16Linear() = default;

void Bf16Linear::forward(ConstMatrixView x, std::span<const float> bias, MatrixView y) const {
  const std::int64_t inputs = impl_->inputs;
  const std::vector<std::uint16_t> operand = rounded(x);
  const auto num_panels = static_cast<std::int64_t>(impl_->panels.size());
  parallel_for(ceil_div(x.rows, kRowChunk) * num_panels, 1, [&](std::int64_t first, std::int64_t last) {
    thread_local std::vector<std::byte> scratch;
    thread_local std::vector<float> product;
    for (std::int64_t t = first; t < last; ++t) {
      const std::int64_t r0 = (t / num_panels) * kRowChunk;
      const std::int64_t rows = std::min(kRowChunk, x.rows - r0);
      const std::int64_t c0 = (t % num_panels) * impl_->panel_rows;
      const std::int64_t cols = std::min(impl_->panel_rows, impl_->outputs - c0);
      const bool direct = y.stride == cols;
      product.resize(direct ? 0 : static_cast<std::size_t>(rows * cols));
      float* target = direct ? y.row(r0) : product.data();
      impl_->panels[static_cast<std::size_t>(t % num_panels)]->run(operand.data() + r0 * inputs, rows, target,
                                                                   scratch);
      for (std::int64_t r = 0; r < rows; ++r) {
        float* out = y.row(r0 + r) + c0;
        if (!direct) std::copy_n(target + r * cols, cols, out);
        if (!bias.empty()) kernels().add(bias.data() + c0, out, cols);
      }
    }
  });
}

}  // namespace swiftprune::cpu
