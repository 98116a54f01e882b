// pipeline/drivers/expert_shop.h on the device: a layer's experts lie in its memory while the next layer's load; hidden
// states and outputs stay there, what is decided about them comes back one number a token.
#include "swiftprune/pipeline/drivers/expert_shop.h"
#include "swiftprune/cuda/forward/block_kernels.h"
#include "swiftprune/cuda/forward/expert_kernels.h"
#include "swiftprune/cuda/refinement/refinement_kernels.h"
#include "swiftprune/cuda/statistics/statistics_kernels.h"
#include "swiftprune/cuda/structure/structure_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/index.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/cuda/pipeline/block_slots.h"
#include "swiftprune/cuda/pipeline/stream_ops.h"
#include "swiftprune/cuda/refinement/inverse.h"
#include "swiftprune/cuda/stages.h"
#include "swiftprune/model/experts_config.h"
#include "swiftprune/pipeline/streams/rank_windows.h"
#include "swiftprune/structure/refit.h"

namespace swiftprune::cuda {
namespace {

constexpr std::string_view kWhat = "the removal of experts";

std::uint64_t bytes_of(std::int64_t count, std::size_t each) {
  return static_cast<std::uint64_t>(count) * each;
}

class CudaExpertShop final : public ExpertShop {
 public:
  CudaExpertShop(const ExpertRun& run, const GpuOptions& device)
      : run_(run),
        experts_(*experts_of(run.model.config())),
        hidden_size_(run.model.config().hidden_size),
        memory_(device.memory_bytes),
        compute_(run.options.compute == ComputeType::kBF16 ? DType::kBF16 : DType::kF32),
        ranks_(*run.options.ranks),
        share_(rank_windows(run.model.config(), run.windows, ranks_, kTokensPerPass)),
        windows_(windows_of_rank(run.windows, share_)),
        part_ends_(expert_part_ends(run.windows, share_, kTokensPerPass)),
        products_(memory_, stream_),
        slots_(memory_, run.model, compute_, device.index, stream_) {
    if (ranks_.size() > 1) shared_.emplace(ranks_, run.windows, share_.first, spans_);
    slots_.prefetch(0);
    make_room();
    hidden_ = embed(memory_, run.model, windows_, stream_);
  }

  Share tokens() const override { return {share_.first * windows_.seqlen, num_tokens()}; }

  void start(std::int64_t layer) override {
    stream_.synchronize();
    spans_.collect();
    const std::int64_t next = layer + 1;
    slots_.load(layer, next < run_.model.config().num_layers() ? next : -1);
    run_.seconds.load = slots_.busy_seconds();
    for_passes(windows_, [&](std::int64_t first, std::int64_t count) {
      const DeviceView rows = hidden_.view().row_block(first, count);
      if (block().config().experts) {
        run_up_to_experts(rows, first);
      } else {
        forward_->run(block(), rows);
      }
    });
  }

  Matrix products(ConstMatrixView weight) override {
    expect(weight.stride == weight.cols, "products: contiguous weights");
    const DeviceView on_device = view_of(weight_.data(), DType::kF32, weight.rows, weight.cols);
    check(cudaMemcpyAsync(on_device.data, weight.data,
                          static_cast<std::size_t>(weight.numel()) * sizeof(float), cudaMemcpyHostToDevice,
                          stream_));
    Matrix result(num_tokens(), weight.rows);
    for (std::int64_t first = 0; first < num_tokens(); first += chunk()) {
      const std::int64_t count = std::min(chunk(), num_tokens() - first);
      const DeviceView scores = view_of(scores_.data(), DType::kF32, count, weight.rows);
      forward_->experts().logits(x_.view().row_block(first, count), on_device, scores);
      download(scores.data, std::span(result.row(first), at(count * weight.rows)));
    }
    return result;
  }

  void sum_dense(const MemberTokens& all, const SizesFn& seen) override {
    const StreamSpans::Span span(spans_, stream_, "forward", "gpu", -1);
    sum_outputs(all, dense_.view(), false, [&](std::size_t j, std::int64_t first, DeviceView f) {
      row_sizes(floats(f), nullptr, f.rows, f.cols, numbers_.as<double>(), more_numbers_.as<double>(),
                stream_);
      seen(j, first, {download_numbers(numbers_, f.rows), download_numbers(more_numbers_, f.rows)});
    });
  }

  RowSizes residual_sizes() override {
    row_sizes(floats(hidden_.view()), floats(dense_.view()), num_tokens(), hidden_size_,
              numbers_.as<double>(), more_numbers_.as<double>(), stream_, run_.model.config().residual_scale);
    return {download_numbers(numbers_, num_tokens()), download_numbers(more_numbers_, num_tokens())};
  }

  void set_token_weights(std::span<const double> weights) override {
    roots_.clear();
    for (const double weight : weights) roots_.push_back(std::sqrt(weight));
  }

  RowSquares start_changes(const MemberTokens& now, bool of_tokens) override {
    sum_outputs(now, y_.view(), true, {});
    if (!of_tokens) return {};
    row_products(floats(y_.view()), floats(dense_.view()), num_tokens(), hidden_size_, numbers_.as<double>(),
                 more_numbers_.as<double>(), stream_);
    return {download_numbers(numbers_, num_tokens()), download_numbers(more_numbers_, num_tokens())};
  }

  std::vector<std::vector<double>> changes(const MemberTokens& now,
                                           std::span<const std::vector<OutputChange>> changes) override {
    static_assert(sizeof(OutputChange) == 3 * sizeof(double));
    std::int64_t before = 0;  // tokens of the members before
    for (std::size_t j = 0; j < now.members.size(); ++j) {
      upload_to(factors_, std::as_bytes(std::span(changes[j])));
      for_outputs(now.members[j], now.tokens[j].rows, [&](const Chunk& chunk, DeviceView f) {
        ExpertChangesArgs args;
        args.f = floats(f);
        args.rows = chunk.rows;
        args.factors = factors_.as<double>() + 3 * chunk.first;
        args.y = floats(y_.view());
        args.dense = floats(dense_.view());
        args.n = f.rows;
        args.cols = f.cols;
        args.changes = changes_.as<double>() + before + chunk.first;
        expert_changes(args, next_.view().data, compute_, stream_);
      });
      before += std::ssize(now.tokens[j].rows);
    }
    const std::vector<double> all = download_numbers(changes_, before);
    std::vector<std::vector<double>> result;
    auto first = all.begin();
    for (const ExpertTokens& tokens : now.tokens) {
      result.emplace_back(first, first + std::ssize(tokens.rows));
      first += std::ssize(tokens.rows);
    }
    return result;
  }

  void sum(const MemberTokens& kept) override { sum_outputs(kept, y_.view(), false, {}); }

  RowSquares errors() override {
    row_squares(strided(y_.view()), strided(dense_.view()), num_tokens(), hidden_size_, numbers_.as<double>(),
                more_numbers_.as<double>(), stream_);
    return {download_numbers(more_numbers_, num_tokens()), download_numbers(numbers_, num_tokens())};
  }

  Matrix refit(const MemberTokens& kept, std::size_t member) override {
    const StreamSpans::Span span(spans_, stream_, "refine", "gpu", -1);
    const std::int64_t expert = kept.members[member];
    const ExpertTokens& tokens = kept.tokens[member];
    add_moments(expert, tokens);
    solve(fmt::format("expert {}", expert));
    // The file's weights, as the device has them or, where it computes in another type, as they are.
    const DType dtype = block().expert_tensors().dtype(expert, ExpertPart::kDown);
    const auto* weight = block().expert_down(expert).data;
    if (dtype != compute_) {
      std::vector<std::byte> own;
      upload_to(original_, block().expert_tensors().bytes(expert, ExpertPart::kDown, own));
      weight = original_.data();
    }
    const std::int64_t numel = hidden_size_ * experts_.width;
    apply_fit(weight, dtype, fitted_.as<float>(), numel, refitted_.data(), stream_);
    check(cudaMemcpyAsync(host_weight_.data(), refitted_.data(), bytes_of(numel, at(size_of(dtype))),
                          cudaMemcpyDeviceToHost, stream_));
    stream_.synchronize();
    Matrix result(hidden_size_, experts_.width);
    const std::int64_t row_bytes = experts_.width * size_of(dtype);
    parallel_for(hidden_size_, kRowsATask, [&](std::int64_t first, std::int64_t last) {
      convert_to_f32(
          {host_weight_.data() + first * row_bytes, at((last - first) * row_bytes)}, dtype,
          result.values().subspan(at(first * experts_.width), at((last - first) * experts_.width)));
    });
    add_fitted(expert, tokens);
    return result;
  }

  void use_down(const MemberTokens& kept, std::size_t member, ConstMatrixView down) override {
    const std::int64_t expert = kept.members[member];
    const ExpertTokens& tokens = kept.tokens[member];
    const DType dtype = block().expert_tensors().dtype(expert, ExpertPart::kDown);
    std::vector<std::byte> own;
    upload_to(original_, block().expert_tensors().bytes(expert, ExpertPart::kDown, own));
    std::vector<std::byte> bytes(at(down.numel() * size_of(dtype)));
    convert_from_f32(std::span(down.data, at(down.numel())), dtype, bytes);
    upload_to(refitted_, bytes);
    scaled_difference(refitted_.data(), dtype, original_.data(), dtype, nullptr, hidden_size_, experts_.width,
                      fitted_.data(), DType::kF32, stream_);
    upload_to(gates_, std::as_bytes(std::span(tokens.gates)));
    add_fitted(expert, tokens);
  }

  Matrix lacking_by_member(const MemberTokens& kept) override {
    const std::int64_t members = std::ssize(kept.members);
    const DeviceView sums = view_of(weight_.data(), DType::kF32, members, hidden_size_);
    check(cudaMemsetAsync(sums.data, 0, bytes_of(sums.numel(), sizeof(float)), stream_));
    const auto add_all = [&] {
      for (const Share rows : token_chunks(num_tokens(), chunk(), part_ends_)) {
        const DeviceView gates = upload_gates(kept, rows, true);
        std::vector<std::int32_t> places(at(rows.count));
        std::iota(places.begin(), places.end(), static_cast<std::int32_t>(rows.first));
        upload_to(order_, std::as_bytes(std::span(places)));
        const std::vector<float> roots(roots_.begin() + rows.first, roots_.begin() + rows.first + rows.count);
        upload_to(token_roots_, std::as_bytes(std::span(roots)));
        const DeviceView lacking = lacking_.view().row_block(0, rows.count);
        lacking_rows(floats(dense_.view()), floats(y_.view()), order_.as<std::int32_t>(),
                     token_roots_.as<float>(), rows.count, hidden_size_, static_cast<float*>(lacking.data),
                     stream_);
        products_.run({.a = gates, .b = lacking, .c = sums, .a_transposed = true, .beta = 1.0f});
      }
    };
    if (shared_) {
      const std::uint64_t bytes = bytes_of(sums.numel(), sizeof(float));
      shared_->start(stream_);
      shared_->pass_on(sums.data, bytes, stream_, add_all);
      shared_->share(sums.data, bytes);
      shared_->finish(stream_);
    } else {
      add_all();
    }
    Matrix result(members, hidden_size_);
    download(sums.data, result.values());
    return result;
  }

  void add_biases(const MemberTokens& kept, ConstMatrixView changes) override {
    expect(changes.stride == changes.cols, "add_biases: contiguous rows");
    const DeviceView on_device = view_of(weight_.data(), DType::kF32, changes.rows, changes.cols);
    upload_to(weight_, std::as_bytes(std::span(changes.data, at(changes.numel()))));
    for (const Share rows : token_chunks(num_tokens(), chunk(), part_ends_)) {
      products_.run({.a = upload_gates(kept, rows, false),
                     .b = on_device,
                     .c = y_.view().row_block(rows.first, rows.count),
                     .beta = 1.0f});
    }
  }

  void finish_layer() override {
    add(y_.view().data, DType::kF32, static_cast<float*>(hidden_.view().data), y_.view().numel(), stream_,
        run_.model.config().residual_scale);
  }

 private:
  // Some of the tokens in hand: from `first` on, and their rows on the device.
  struct Chunk {
    std::int64_t first = 0;
    const std::int32_t* rows = nullptr;
  };
  using InnerFn = std::function<void(const Chunk& chunk, DeviceView inner)>;
  using OutputFn = std::function<void(const Chunk& chunk, DeviceView f)>;

  BlockWeights& block() { return slots_.block(); }
  std::int64_t num_tokens() const { return windows_.num_windows() * windows_.seqlen; }
  std::int64_t chunk() const { return forward_->rows(); }
  static const float* floats(DeviceView x) { return static_cast<const float*>(x.data); }

  // Everything on the device but the weights and the hidden states, sized once.
  void make_room() {
    const std::int64_t n = num_tokens(), rows = rows_per_pass(run_.windows), width = experts_.width;
    forward_.emplace(memory_, products_, run_.model, rows, run_.windows.seqlen, compute_, stream_);
    const auto all = [&](DType dtype) { return DeviceMatrix(memory_, dtype, n, hidden_size_, kWhat); };
    x_ = all(compute_);
    dense_ = all(DType::kF32);
    y_ = all(DType::kF32);
    if (run_.options.scorer->needs_changes) {
      next_ = all(compute_);
      factors_ = DeviceBuffer(memory_, bytes_of(n, sizeof(OutputChange)), kWhat);
      changes_ = DeviceBuffer(memory_, bytes_of(n * experts_.router.top_k, sizeof(double)), kWhat);
    }
    gathered_ = DeviceMatrix(memory_, compute_, rows, hidden_size_, kWhat);
    std::int64_t most = 0;  // experts of a block
    for (const BlockConfig& block : run_.model.config().blocks) {
      if (block.experts) most = std::max(most, block.experts->count);
    }
    weight_ = DeviceBuffer(memory_, bytes_of(most * hidden_size_, sizeof(float)), kWhat);
    scores_ = DeviceBuffer(memory_, bytes_of(rows * most, sizeof(float)), kWhat);
    order_ = DeviceBuffer(memory_, bytes_of(n, sizeof(std::int32_t)), kWhat);
    gates_ = DeviceBuffer(memory_, bytes_of(n, sizeof(float)), kWhat);
    numbers_ = DeviceBuffer(memory_, bytes_of(n, sizeof(double)), kWhat);
    more_numbers_ = DeviceBuffer(memory_, bytes_of(n, sizeof(double)), kWhat);
    if (!run_.options.refit && !run_.options.bias) return;
    const auto matrix = [&](std::int64_t numel) {
      return DeviceBuffer(memory_, bytes_of(numel, sizeof(float)), kWhat);
    };
    const std::int64_t held = shared_ ? most_held_rows(windows_, true) : rows;  // of an expert's tokens
    lacking_ = DeviceMatrix(memory_, DType::kF32, held, hidden_size_, kWhat);
    token_roots_ = matrix(rows);
    if (!run_.options.refit) return;
    z_ = DeviceMatrix(memory_, DType::kF32, held, width, kWhat);
    scales_ = matrix(rows);
    gram_ = matrix(width * width);
    factor_ = matrix(width * width);
    inverse_scratch_ = matrix(inverse_scratch(width));
    norm_ = matrix(width);
    for (DeviceBuffer* buffer : {&cross_, &right_, &fitted_, &original_, &refitted_}) {
      *buffer = matrix(hidden_size_ * width);
    }
    host_weight_ = PinnedBuffer(bytes_of(hidden_size_ * width, sizeof(float)));
    bad_ = DeviceBuffer(memory_, sizeof(int), kWhat);
    std::vector<std::int32_t> columns(at(width));
    std::iota(columns.begin(), columns.end(), 0);
    columns_ = upload(memory_, std::span<const std::int32_t>(columns), kWhat, stream_);
    stream_.synchronize();
  }

  // All of the block but its experts: the rows have the attention and the shared expert in them.
  void run_up_to_experts(DeviceView rows, std::int64_t first) {
    using enum LinearInput;
    DeviceView x = forward_->input_of(block(), kAttention, rows);
    forward_->project_and_add(block(), kAttentionOutput, forward_->attention(block(), x, rows), rows);
    x = forward_->input_of(block(), kMlp, rows);
    copy(x, x_.view().row_block(first, rows.rows), stream_);
    forward_->add_shared(block(), x, rows, nullptr, run_.model.config().residual_scale);
  }

  void for_outputs(std::int64_t expert, std::span<const std::int64_t> rows, const OutputFn& body) {
    for_inner(expert, rows, [&](const Chunk& chunk, DeviceView inner) {
      body(chunk, forward_->experts().project(block(), expert, inner));
    });
  }

  // y follows the change of the expert's down projection, which is in fitted_; gates_ are its tokens'.
  void add_fitted(std::int64_t expert, const ExpertTokens& tokens) {
    for_inner(expert, tokens.rows, [&](const Chunk& chunk, DeviceView inner) {
      const DeviceView z = z_.view().row_block(0, inner.rows);
      const DeviceView more = lacking_.view().row_block(0, inner.rows);
      convert(inner.data, compute_, z.data, DType::kF32, inner.numel(), stream_);
      products_.linear(z, outputs(fitted_), nullptr, more);
      add_gated_rows(floats(more), chunk.rows, gates_.as<float>() + chunk.first, more.rows, more.cols,
                     static_cast<float*>(y_.view().data), stream_);
    });
  }

  // The expert's inner values for these rows of x, some at a time. The device has the rows afterwards.
  void for_inner(std::int64_t expert, std::span<const std::int64_t> rows, const InnerFn& body) {
    if (rows.empty()) return;
    check_interrupt();
    const std::vector<std::int32_t> narrow(rows.begin(), rows.end());
    upload_to(order_, std::as_bytes(std::span(narrow)));
    for (std::int64_t first = 0; first < std::ssize(rows);) {
      const std::int64_t count = end_in_part(rows, first, chunk(), part_ends_) - first;
      const Chunk part{first, order_.as<std::int32_t>() + first};
      const DeviceView x = gathered_.view().row_block(0, count);
      gather(x_.view().data, compute_, hidden_size_, part.rows, count, nullptr, hidden_size_, x.data,
             stream_);
      body(part, forward_->experts().inner(block(), expert, x));
      first += count;
    }
  }

  void sum_outputs(const MemberTokens& routed, DeviceView y, bool with_next,
                   const std::function<void(std::size_t, std::int64_t, DeviceView)>& seen) {
    const auto clear = [&](DeviceView x) {
      check(cudaMemsetAsync(x.data, 0, bytes_of(x.numel(), at(size_of(x.dtype))), stream_));
    };
    clear(y);
    std::vector<std::vector<std::int64_t>> waiting;
    if (with_next) {
      clear(next_.view());
      waiting = tokens_by_next(routed);
    }
    for (std::size_t j = 0; j < routed.members.size(); ++j) {
      const ExpertTokens& tokens = routed.tokens[j];
      upload_to(gates_, std::as_bytes(std::span(tokens.gates)));
      for_outputs(routed.members[j], tokens.rows, [&](const Chunk& chunk, DeviceView f) {
        add_gated_rows(floats(f), chunk.rows, gates_.as<float>() + chunk.first, f.rows, f.cols,
                       static_cast<float*>(y.data), stream_);
        if (seen) seen(j, chunk.first, f);
      });
      if (!with_next) continue;
      for_outputs(routed.members[j], waiting[j], [&](const Chunk& chunk, DeviceView f) {
        place_rows(floats(f), chunk.rows, f.rows, f.cols, next_.view().data, compute_, stream_);
      });
    }
  }

  // gates_of() on the device, by the roots of the tokens' weights or as they are.
  DeviceView upload_gates(const MemberTokens& kept, const Share& tokens, bool by_roots) {
    Matrix gates = swiftprune::gates_of(kept, tokens);
    for (std::int64_t i = 0; i < tokens.count && by_roots; ++i) {
      for (float& gate : gates.view().row_span(i))
        gate = static_cast<float>(roots_[at(tokens.first + i)] * double{gate});
    }
    upload_to(scores_, std::as_bytes(std::span(gates.values())));
    return view_of(scores_.data(), DType::kF32, gates.rows(), gates.cols());
  }

  // gram_ = Σ z zᵀ, cross_ [hidden, width] = Σ lacking zᵀ of the expert's tokens, all ranks'; gates_ then are its tokens'
  // here. What is added to the sums of other ranks waits in z_ and lacking_, chunk behind chunk.
  void add_moments(std::int64_t expert, const ExpertTokens& tokens) {
    for (const DeviceView sums : {gram(), outputs(cross_)})
      check(cudaMemsetAsync(sums.data, 0, bytes_of(sums.numel(), sizeof(float)), stream_));
    upload_to(gates_, std::as_bytes(std::span(tokens.gates)));
    std::vector<Share> held;  // rows of z_
    const auto add_gram = [&](Share rows) {
      const DeviceView z = z_.view().row_block(rows.first, rows.count);
      products_.run({.a = z, .b = z, .c = gram(), .a_transposed = true, .beta = 1.0f});
    };
    const auto add_cross = [&](Share rows) {
      products_.run({.a = lacking_.view().row_block(rows.first, rows.count),
                     .b = z_.view().row_block(rows.first, rows.count),
                     .c = outputs(cross_),
                     .a_transposed = true,
                     .beta = 1.0f});
    };
    std::int64_t end = 0;
    for_inner(expert, tokens.rows, [&](const Chunk& chunk, DeviceView inner) {
      const Share rows{end, inner.rows};
      weigh(tokens, chunk, inner, rows);
      if (shared_) {
        held.push_back(rows);
        end += round_up(inner.rows, kHeldRows);
      } else {
        add_gram(rows);
        add_cross(rows);
      }
    });
    if (!shared_) return;
    shared_->start(stream_);
    const auto pass = [&](DeviceView sums, const auto& add) {
      shared_->pass_on(sums.data, bytes_of(sums.numel(), sizeof(float)), stream_, [&] {
        for (const Share& rows : held) add(rows);
      });
    };
    pass(gram(), add_gram);
    pass(outputs(cross_), add_cross);
    for (const DeviceView sums : {gram(), outputs(cross_)})
      shared_->share(sums.data, bytes_of(sums.numel(), sizeof(float)));
    shared_->finish(stream_);
  }

  // The chunk's inner values by gate and the root of the token's weight, and what y lacks there, to these rows.
  void weigh(const ExpertTokens& tokens, const Chunk& chunk, DeviceView inner, Share rows) {
    std::vector<float> scales, roots;
    for (std::int64_t i = chunk.first; i < chunk.first + inner.rows; ++i) {
      const double root = roots_[at(tokens.rows[at(i)])];
      roots.push_back(static_cast<float>(root));
      scales.push_back(static_cast<float>(root * double{tokens.gates[at(i)]}));
    }
    upload_to(scales_, std::as_bytes(std::span(scales)));
    upload_to(token_roots_, std::as_bytes(std::span(roots)));
    const DeviceView z = z_.view().row_block(rows.first, rows.count);
    const DeviceView lacking = lacking_.view().row_block(rows.first, rows.count);
    scaled_difference(inner.data, compute_, nullptr, compute_, scales_.as<float>(), inner.rows,
                      experts_.width, z.data, DType::kF32, stream_);
    lacking_rows(floats(dense_.view()), floats(y_.view()), chunk.rows, token_roots_.as<float>(), inner.rows,
                 hidden_size_, static_cast<float*>(lacking.data), stream_);
  }

  // fitted_ [hidden, width] = cross·(Ĝ + δI)⁻¹ of the normalised Gram matrix, in the units of the inputs
  void solve(const std::string& what) {
    const std::int64_t width = experts_.width;
    const DeviceView factor = view_of(factor_.data(), DType::kF32, width, width);
    admm_norms(gram_.as<float>(), width, kRefitEnergyFloor, norm_.as<float>(), stream_);
    double damping = run_.options.damping;
    for (int raised = 0;; ++raised, damping *= 10.0) {
      normalised_gram(gram_.as<float>(), norm_.as<float>(), width, static_cast<float>(damping), 1.0f,
                      factor.data, DType::kF32, stream_);
      if (try_inverse_factor(products_, factor, inverse_scratch_.as<float>(), bad_.as<int>(), false, stream_))
        break;
      if (raised == kMaxDampingRaises) {
        bad_input(
            "{}: found a Gram matrix that no damping up to {:g} of its mean diagonal makes positive "
            "definite; "
            "check the calibration data",
            what, damping);
      }
    }
    const auto* columns = columns_.as<std::int32_t>();
    kept_right(cross_.data(), DType::kF32, cross_.as<float>(), hidden_size_, width, norm_.as<float>(),
               columns, width, 0.0f, 1.0f, right_.as<float>(), stream_);
    products_.run({.a = outputs(right_), .b = factor, .c = outputs(fitted_), .b_transposed = true});
    products_.run({.a = outputs(fitted_), .b = factor, .c = outputs(right_)});
    spread_columns(right_.as<float>(), norm_.as<float>(), columns, hidden_size_, width, width, fitted_.data(),
                   DType::kF32, stream_);
  }

  DeviceView gram() const { return view_of(gram_.data(), DType::kF32, experts_.width, experts_.width); }
  DeviceView outputs(const DeviceBuffer& buffer) const {
    return view_of(buffer.data(), DType::kF32, hidden_size_, experts_.width);
  }

  void upload_to(const DeviceBuffer& to, std::span<const std::byte> bytes) {
    expect(to.bytes() >= bytes.size(), "CudaExpertShop: room");
    copy_to_device(bytes, to.data(), stream_);
  }
  template <class T>
  void download(const void* from, std::span<T> to) {
    check(cudaMemcpyAsync(to.data(), from, to.size_bytes(), cudaMemcpyDeviceToHost, stream_));
    stream_.synchronize();
  }
  std::vector<double> download_numbers(const DeviceBuffer& from, std::int64_t count) {
    std::vector<double> numbers(at(count));
    download(from.data(), std::span(numbers));
    return numbers;
  }

  const ExpertRun run_;
  const ExpertsConfig& experts_;
  const std::int64_t hidden_size_;
  DeviceMemory memory_;
  Stream stream_;
  const DType compute_;
  Communicator& ranks_;
  const Share share_;           // of the windows
  const TokenWindows windows_;  // this rank's
  const std::vector<std::int64_t> part_ends_;
  StreamSpans spans_;
  std::optional<StatisticsRanks> shared_;  // with several ranks
  Products products_;
  BlockSlots slots_;
  std::optional<BlockForward> forward_;
  DeviceMatrix hidden_, x_;        // [N, hidden]; x_: inputs of the layer's experts
  DeviceMatrix dense_, y_, next_;  // [N, hidden]
  DeviceMatrix gathered_;          // x of one expert's tokens, some at a time
  DeviceBuffer weight_, scores_;   // of a router
  DeviceBuffer order_, gates_;     // of the tokens in hand
  DeviceBuffer factors_;           // [N] OutputChange
  DeviceBuffer changes_;           // [N·top_k]
  DeviceBuffer numbers_, more_numbers_;
  std::vector<double> roots_;  // [N] of the tokens' weights
  // Of the refit of one expert:
  DeviceMatrix z_, lacking_;
  DeviceBuffer scales_, token_roots_, gram_, factor_, inverse_scratch_, norm_, cross_, right_, fitted_,
      original_, refitted_, bad_, columns_;
  PinnedBuffer host_weight_;
};

}  // namespace

ExpertShopMaker expert_shop(const GpuOptions& device) {
  return [device](const ExpertRun& run) -> std::unique_ptr<ExpertShop> {
    check(cudaSetDevice(device.index));
    return std::make_unique<CudaExpertShop>(run, device);
  };
}

}  // namespace swiftprune::cuda
