#include "swiftprune/cuda/forward/experts.h"

#include <algorithm>
#include <cstring>

#include "swiftprune/cuda/forward/block.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/forward/expert_kernels.h"
#include "swiftprune/cuda/forward/packed_experts.h"
#include "swiftprune/cuda/structure/structure_kernels.h"
#include "swiftprune/model/experts_config.h"

namespace swiftprune::cuda {
namespace {

// So many tokens or fewer read the weights faster than they can be sorted.
constexpr std::int64_t kFewTokens = 16;
constexpr std::string_view kWhat = "the experts of one pass";

}  // namespace

DeviceExperts::DeviceExperts(DeviceMemory& memory, Products& products, const Model& model, std::int64_t rows,
                             DType compute, cudaStream_t stream)
    : model_(model.config()),
      experts_(*experts_of(model_)),
      products_(products),
      compute_(compute),
      stream_(stream) {
  const std::int64_t top_k = experts_.router.top_k, pairs = rows * top_k;
  const std::int64_t up_rows = std::ssize(inner_parts_of(experts_)) * experts_.width;
  std::int64_t count = 0;
  bool packed = false;
  for (const BlockConfig& block : model_.blocks) {
    if (!block.experts) continue;
    count = std::max(count, block.experts->count);
    packed = packed || has_packed_experts(model, block);
  }
  wide_ = DeviceMatrix(memory, DType::kF32, rows, model_.hidden_size, kWhat);
  x_ = DeviceMatrix(memory, compute, rows, model_.hidden_size, kWhat);
  up_ = DeviceMatrix(memory, compute, rows, up_rows, kWhat);
  if (packed && rows > kMaxDecodeTokens)
    expanded_ = DeviceMatrix(memory, compute, up_rows, model_.hidden_size, "expanded weights");
  inner_ = DeviceMatrix(memory, compute, std::max(rows, top_k), experts_.width, kWhat);
  logits_ = DeviceMatrix(memory, DType::kF32, rows, count, kWhat);
  const auto bytes = static_cast<std::uint64_t>(pairs) * sizeof(float);
  static_assert(sizeof(float) == sizeof(std::int32_t));
  for (DeviceBuffer* buffer : {&chosen_, &gates_, &order_, &ordered_gates_}) {
    *buffer = DeviceBuffer(memory, bytes, kWhat);
  }
  host_chosen_ = PinnedBuffer(bytes);
  host_gates_ = PinnedBuffer(bytes);
}

void DeviceExperts::logits(DeviceView x, DeviceView weight, DeviceView logits) {
  DeviceView wide = x;
  if (x.dtype != DType::kF32) {
    wide = wide_.view().row_block(0, x.rows);
    convert(x.data, x.dtype, wide.data, DType::kF32, x.numel(), stream_);
  }
  products_.linear(wide, weight, nullptr, logits);
}

DeviceView DeviceExperts::inner(const BlockWeights& block, std::int64_t expert, DeviceView x) {
  const DeviceView up = up_.view().row_block(0, x.rows), inner = inner_.view().row_block(0, x.rows);
  block.expert_up_linear(products_, expert, x, up, expanded_.view(), stream_);
  if (experts_.clamped) {
    clamped_activate(clamped(), up.data, x.rows, inner.cols, inner.data, compute_, stream_);
    return inner;
  }
  activate(kind_of(model_.activation), experts_.gated, up.data, x.rows, inner.cols, inner.data, compute_,
           stream_);
  return inner;
}

DeviceView DeviceExperts::project(const BlockWeights& block, std::int64_t expert, DeviceView inner) {
  const DeviceView out = wide_.view().row_block(0, inner.rows);
  block.expert_down_linear(products_, expert, inner, out, expanded_.view(), stream_);
  return out;
}

void DeviceExperts::choose(const BlockWeights& block, DeviceView x, float factor) {
  const std::int64_t count = block.config().experts->count;
  const DeviceView scores = view_of(logits_.view().data, DType::kF32, x.rows, count);
  logits(x, block.router(), scores);
  const RouterConfig& router = experts_.router;
  RouteArgs args;
  args.logits = static_cast<const float*>(scores.data);
  args.bias = block.router_bias();
  args.correction = block.correction_bias();
  args.rows = x.rows;
  args.num_experts = static_cast<int>(count);
  args.sigmoid = router.score == RouterScore::kSigmoid;
  args.top_k = static_cast<int>(router.top_k);
  args.num_groups = static_cast<int>(router.num_groups);
  args.top_groups = static_cast<int>(router.top_groups);
  args.best_two = router.group_score == GroupScore::kBestTwo;
  args.renormalised = router.renormalised;
  args.scale = router.scale * factor;
  args.chosen = chosen_.as<std::int32_t>();
  args.gates = gates_.as<float>();
  cuda::route(args, stream_);
}

void DeviceExperts::add_outputs(const BlockWeights& block, DeviceView x, DeviceView hidden, bool recordable,
                                float factor) {
  choose(block, x, factor);
  if (recordable || x.rows <= kFewTokens) {
    add_few(block, x, hidden);
  } else {
    add_many(block, x, hidden);
  }
}

void DeviceExperts::add_few(const BlockWeights& block, DeviceView x, DeviceView hidden) {
  FewExpertsArgs args;
  args.dtype = compute_;
  args.hidden = x.cols;
  args.width = experts_.width;
  args.top_k = static_cast<int>(experts_.router.top_k);
  args.up_bias = block.expert_up_bias(0);
  args.down_bias = block.expert_down_bias(0);
  if (experts_.clamped) args.clamped = clamped();
  args.gated = experts_.gated;
  const std::int64_t together = inner_.view().rows / experts_.router.top_k;
  for (std::int64_t first = 0; first < x.rows; first += together) {
    args.rows = std::min(together, x.rows - first);
    args.chosen = chosen_.as<std::int32_t>() + first * experts_.router.top_k;
    args.gates = gates_.as<float>() + first * experts_.router.top_k;
    const ActivationKind kind = kind_of(model_.activation);
    auto* y = reinterpret_cast<float*>(hidden.row(first));
    void* inner = inner_.view().data;
    if (block.has_packed_experts()) {
      packed_experts_up(args, kind, x.row(first), block.packed_expert_up(), inner, stream_);
      packed_experts_down(args, inner, block.packed_expert_down(), y, stream_);
    } else {
      experts_up(args, kind, x.row(first), block.expert_up(0).data, inner, stream_);
      experts_down(args, inner, block.expert_down(0).data, y, stream_);
    }
  }
}

std::vector<ExpertTokens> DeviceExperts::route(const BlockWeights& block, DeviceView x) {
  choose(block, x, 1.0f);
  return download_chosen(x.rows, block.config().experts->count);
}

std::vector<ExpertTokens> DeviceExperts::download_chosen(std::int64_t rows, std::int64_t num_experts) {
  const std::int64_t top_k = experts_.router.top_k;
  const auto pairs = static_cast<std::size_t>(rows * top_k);
  const auto to_host = [&](const DeviceBuffer& from, const PinnedBuffer& to) {
    check(cudaMemcpyAsync(to.data(), from.data(), pairs * sizeof(float), cudaMemcpyDeviceToHost, stream_));
  };
  to_host(chosen_, host_chosen_);
  to_host(gates_, host_gates_);
  check(cudaStreamSynchronize(stream_));
  Routing routing{top_k, std::vector<std::int32_t>(pairs), std::vector<float>(pairs)};
  std::memcpy(routing.experts.data(), host_chosen_.data(), pairs * sizeof(std::int32_t));
  std::memcpy(routing.gates.data(), host_gates_.data(), pairs * sizeof(float));
  return tokens_by_expert(routing, num_experts);
}

void DeviceExperts::add_many(const BlockWeights& block, DeviceView x, DeviceView hidden) {
  const auto pairs = static_cast<std::size_t>(x.rows * experts_.router.top_k);
  const std::int64_t num_experts = block.config().experts->count;
  const std::vector<ExpertTokens> tokens = download_chosen(x.rows, num_experts);
  // The host's copies are free again: what was in them has been read.
  auto* rows = reinterpret_cast<std::int32_t*>(host_chosen_.data());
  auto* gates = reinterpret_cast<float*>(host_gates_.data());
  for (const ExpertTokens& of : tokens) {
    rows = std::transform(of.rows.begin(), of.rows.end(), rows,
                          [](std::int64_t row) { return static_cast<std::int32_t>(row); });
    gates = std::copy(of.gates.begin(), of.gates.end(), gates);
  }
  const auto to_device = [&](const PinnedBuffer& from, const DeviceBuffer& to) {
    check(cudaMemcpyAsync(to.data(), from.data(), pairs * sizeof(float), cudaMemcpyHostToDevice, stream_));
  };
  to_device(host_chosen_, order_);
  to_device(host_gates_, ordered_gates_);
  std::int64_t first = 0;
  for (std::int64_t e = 0; e < num_experts; ++e) {
    const auto count = std::ssize(tokens[static_cast<std::size_t>(e)].rows);
    if (count == 0) continue;
    const DeviceView own = x_.view().row_block(0, count);
    const std::int32_t* own_rows = order_.as<std::int32_t>() + first;
    gather(x.data, compute_, x.cols, own_rows, count, nullptr, x.cols, own.data, stream_);
    const DeviceView out = project(block, e, inner(block, e, own));
    add_gated_rows(static_cast<const float*>(out.data), own_rows, ordered_gates_.as<float>() + first, count,
                   out.cols, static_cast<float*>(hidden.data), stream_);
    first += count;
  }
}

}  // namespace swiftprune::cuda
