// The kernels of recurrent mixers, and of heads that do not lie as attention takes them, against the reference backend
// and plain formulas: whole sequences, and the same in pieces in lanes of their own.
#include <algorithm>
#include <cmath>

#include "cuda/gpu.h"
#include "swiftprune/backend/backend.h"

namespace swiftprune {
namespace {

using test::relative_error;
using test::rounded;
using testing::random_matrix;

constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

double rounding(DType dtype) { return dtype == DType::kF32 ? 1e-5 : dtype == DType::kF16 ? 1e-3 : 8e-3; }
double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// Some tokens more of two sequences, in lanes 2 and 0 of three.
struct Piece {
  std::int64_t first = 0, length = 0;
};

class CudaMixersTest : public test::GpuTest {
 protected:
  static constexpr std::int64_t kSequences = 2, kLanes = 3;

  // What the two sequences have in `piece`, one behind the other.
  static Matrix rows_of(const Matrix& all, const Piece& piece) {
    const std::int64_t length = all.rows() / kSequences;
    Matrix rows(kSequences * piece.length, all.cols());
    for (std::int64_t s = 0; s < kSequences; ++s) {
      for (std::int64_t n = 0; n < piece.length; ++n)
        std::copy_n(all.row(s * length + piece.first + n), all.cols(), rows.row(s * piece.length + n));
    }
    return rows;
  }
  static void put_rows(const Matrix& rows, const Piece& piece, Matrix& all) {
    const std::int64_t length = all.rows() / kSequences;
    for (std::int64_t s = 0; s < kSequences; ++s) {
      for (std::int64_t n = 0; n < piece.length; ++n)
        std::copy_n(rows.row(s * piece.length + n), all.cols(), all.row(s * length + piece.first + n));
    }
  }
  static std::vector<Piece> pieces_of(std::int64_t length) {
    std::vector<Piece> pieces;
    for (std::int64_t first = 0; first < length;) {
      const std::int64_t count = std::min(length - first, std::int64_t{first == 0 ? 3 : first == 3 ? 1 : 5});
      pieces.push_back({first, count});
      first += count;
    }
    return pieces;
  }
  // body(sequences) for each piece in turn.
  template <class Body>
  void for_pieces(std::int64_t length, const Body& body) {
    const auto lanes = upload(std::span<const std::int32_t>(std::vector<std::int32_t>{2, 0}));
    for (const Piece& piece : pieces_of(length)) {
      const auto at = static_cast<std::int32_t>(piece.first);
      const auto positions = upload(std::span<const std::int32_t>(std::vector<std::int32_t>{at, at}));
      body(piece, cuda::SequencesArgs{kSequences * piece.length, piece.length, lanes.as<std::int32_t>(),
                                      positions.as<std::int32_t>()});
      stream_->synchronize();
    }
  }

  std::unique_ptr<Backend> reference_ = make_reference_backend();
};

TEST_F(CudaMixersTest, ConvolutionAgreesWithTheReference) {
  for (const DType dtype : kDTypes) {
    for (const auto& [length, channels, taps] : {std::tuple{1, 3, 4}, {9, 40, 4}, {33, 70, 3}, {7, 5, 1}}) {
      for (const bool gated : {false, true}) {
        const Matrix x = rounded(random_matrix(kSequences * length, 2 * channels + 3, 1), dtype);
        const Matrix weights = random_matrix(taps, channels, 2), bias = random_matrix(1, channels, 3);
        Matrix expected(x.rows(), channels);
        for (std::int64_t s = 0; s < kSequences; ++s) {
          const auto rows = x.view().row_block(s * length, length);
          Matrix past = Matrix::zeros(taps - 1, channels), in(length, channels);
          for (std::int64_t n = 0; n < length; ++n) {
            for (std::int64_t c = 0; c < channels; ++c)
              in.at(n, c) = rows.at(n, c) * (gated ? rows.at(n, channels + c) : 1.0f);
          }
          reference_->causal_convolution(in.view(), weights.view(), bias.values(), past.view(),
                                         expected.view().row_block(s * length, length));
        }
        reference_->activate(Activation::kSilu, expected.view());
        const auto taps_on = upload_as(weights, DType::kF32), bias_on = upload_as(bias, DType::kF32);
        const auto run = [&](const Matrix& rows, const cuda::SequencesArgs& sequences, float* past) {
          const auto in = upload_as(rows, dtype);
          const auto out = poisoned(rows.rows() * channels * 4);
          cuda::ConvolutionArgs args;
          args.sequences = sequences;
          args.x = in.data();
          if (gated) args.factor = in.data() + channels * size_of(dtype);
          args.dtype = dtype;
          args.row_stride = rows.cols();
          args.channels = channels;
          args.taps_count = taps;
          args.taps = taps_on.as<float>();
          args.bias = bias_on.as<float>();
          args.silu = true;
          args.past = past;
          args.y = out.as<float>();
          cuda::causal_convolution(args, *stream_);
          return download_as(out, DType::kF32, rows.rows(), channels);
        };
        const Matrix whole = run(x, {x.rows(), length, nullptr, nullptr}, nullptr);
        EXPECT_LE(relative_error(whole.view(), expected.view()), 1e-5) << name_of(dtype) << " " << length;
        const auto past = poisoned(kLanes * std::max<std::int64_t>(1, taps - 1) * channels * 4);
        Matrix found(x.rows(), channels);
        for_pieces(length, [&](const Piece& piece, const cuda::SequencesArgs& sequences) {
          put_rows(run(rows_of(x, piece), sequences, past.as<float>()), piece, found);
        });
        EXPECT_LE(relative_error(found.view(), expected.view()), 1e-5) << name_of(dtype) << " " << length;
      }
    }
  }
}

TEST_F(CudaMixersTest, RecurrenceAgreesWithTheReference) {
  struct Shape {
    std::int64_t length, heads, key_heads, keys, values;
  };
  for (const Shape& s : {Shape{1, 2, 1, 4, 3},
                         {19, 4, 2, 20, 7},
                         {30, 2, 2, 64, 64},
                         {40, 6, 3, 128, 33},
                         {17, 2, 1, 256, 8},
                         {9, 1, 1, 512, 5}}) {
    for (const bool delta : {false, true}) {
      const std::int64_t keys = s.key_heads * s.keys, values = s.heads * s.values, n = kSequences * s.length;
      Matrix mixed = random_matrix(n, 2 * keys + values, 4);
      for (float& value : mixed.values()) value /= std::sqrt(static_cast<float>(s.keys));
      Matrix decay = random_matrix(n, s.heads, 5), step = random_matrix(n, s.heads, 6);
      for (Matrix* m : {&decay, &step}) {
        for (float& value : m->values()) value = static_cast<float>(sigmoid(double{value}));
      }
      Matrix expected(n, values);
      for (std::int64_t i = 0; i < kSequences; ++i) {
        const auto rows = mixed.view().row_block(i * s.length, s.length);
        Matrix state = Matrix::zeros(s.heads * s.keys, s.values);
        reference_->recurrence(
            rows.col_block(0, keys), rows.col_block(keys, keys), rows.col_block(2 * keys, values),
            decay.view().row_block(i * s.length, s.length), step.view().row_block(i * s.length, s.length),
            {s.heads, s.key_heads, s.keys, s.values, delta}, state.view(),
            expected.view().row_block(i * s.length, s.length));
      }
      const auto run = [&](const Matrix& x, const Matrix& d, const Matrix& t,
                           const cuda::SequencesArgs& sequences, float* state) {
        const auto in = upload_as(x, DType::kF32), decays = upload_as(d, DType::kF32),
                   steps = upload_as(t, DType::kF32);
        const auto out = poisoned(x.rows() * values * 4);
        cuda::RecurrenceArgs args;
        args.sequences = sequences;
        args.q = in.as<float>();
        args.k = args.q + keys;
        args.v = args.k + keys;
        args.row_stride = x.cols();
        args.decays = decays.as<float>();
        args.steps = steps.as<float>();
        args.num_heads = s.heads;
        args.num_key_heads = s.key_heads;
        args.key_size = s.keys;
        args.value_size = s.values;
        args.delta_rule = delta;
        args.state = state;
        args.y = out.as<float>();
        cuda::recurrence(args, *stream_);
        return download_as(out, DType::kF32, x.rows(), values);
      };
      const Matrix whole = run(mixed, decay, step, {n, s.length, nullptr, nullptr}, nullptr);
      EXPECT_LE(relative_error(whole.view(), expected.view()), 1e-5) << s.keys << " " << delta;
      const auto state = poisoned(kLanes * s.heads * s.values * s.keys * 4);
      Matrix found(n, values);
      for_pieces(s.length, [&](const Piece& piece, const cuda::SequencesArgs& sequences) {
        put_rows(run(rows_of(mixed, piece), rows_of(decay, piece), rows_of(step, piece), sequences,
                     state.as<float>()),
                 piece, found);
      });
      EXPECT_LE(relative_error(found.view(), whole.view()), 0.0) << "the same bits in pieces, " << s.keys;
    }
  }
}

TEST_F(CudaMixersTest, HeadsOfALength) {
  constexpr std::int64_t kRows = 5, kHeads = 3, kSize = 37, kStride = kHeads * kSize + 4;
  const Matrix x = random_matrix(kRows, kStride, 7);
  const auto on_device = upload_as(x, DType::kF32);
  cuda::ScaleHeadsArgs args;
  args.x = on_device.as<float>();
  args.rows = kRows;
  args.row_stride = kStride;
  args.num_heads = kHeads;
  args.head_size = kSize;
  args.length = 0.25f;
  args.eps = 1e-3f;
  cuda::scale_heads(args, *stream_);
  const Matrix found = download_as(on_device, DType::kF32, kRows, kStride);
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t c = 0; c < kStride; ++c) {
      double factor = 1.0;
      if (c < kHeads * kSize) {
        double squares = 1e-3;
        for (std::int64_t i = 0; i < kSize; ++i) {
          const double value = double{x.at(r, c / kSize * kSize + i)};
          squares += value * value;
        }
        factor = 0.25 / std::sqrt(squares);
      }
      EXPECT_NEAR(found.at(r, c), factor * double{x.at(r, c)}, 1e-6) << r << " " << c;
    }
  }
}

TEST_F(CudaMixersTest, GatesOfTheRecurrences) {
  constexpr std::int64_t kRows = 6, kHeads = 5, kStride = 2 * kHeads + 1;
  for (const DType dtype : kDTypes) {
    const Matrix x = rounded(random_matrix(kRows, kStride, 8), dtype);
    const Matrix decay = random_matrix(1, kHeads, 9), bias = random_matrix(1, kHeads, 10);
    const auto in = upload_as(x, dtype), decay_on = upload_as(decay, DType::kF32),
               bias_on = upload_as(bias, DType::kF32);
    for (const bool with_rate : {false, true}) {
      const auto decays = poisoned(kRows * kHeads * 4), steps = poisoned(kRows * kHeads * 4);
      cuda::MixerGatesArgs args;
      args.time = in.data();
      if (with_rate) args.rate = in.data() + kHeads * size_of(dtype);
      args.dtype = dtype;
      args.row_stride = kStride;
      args.rows = kRows;
      args.num_heads = kHeads;
      args.decay = decay_on.as<float>();
      args.step_bias = bias_on.as<float>();
      args.time_scale = 1.5f;
      args.least_time = 0.7f;
      args.decays = decays.as<float>();
      args.steps = steps.as<float>();
      cuda::mixer_gates(args, *stream_);
      const Matrix found = download_as(decays, DType::kF32, kRows, kHeads),
                   found_steps = download_as(steps, DType::kF32, kRows, kHeads);
      for (std::int64_t r = 0; r < kRows; ++r) {
        for (std::int64_t h = 0; h < kHeads; ++h) {
          const double time =
              std::max(double{0.7f}, std::log1p(std::exp(1.5 * double{x.at(r, h)} + double{bias.at(0, h)})));
          EXPECT_NEAR(found.at(r, h), std::exp(-std::exp(double{decay.at(0, h)}) * time), 1e-5);
          EXPECT_NEAR(found_steps.at(r, h), with_rate ? sigmoid(double{x.at(r, kHeads + h)}) : time, 1e-5);
        }
      }
    }
  }
}

TEST_F(CudaMixersTest, OutputsOfMixers) {
  constexpr std::int64_t kRows = 4, kGroups = 3, kSize = 40, kCols = kGroups * kSize, kHead = 20;
  for (const DType dtype : kDTypes) {
    const Matrix y = random_matrix(kRows, kCols, 11), v = random_matrix(kRows, kCols + 2, 12);
    const Matrix gate = rounded(random_matrix(kRows, kCols + 5, 13), dtype);
    const Matrix skip = random_matrix(1, kCols / kHead, 14), gain = random_matrix(1, kCols, 15);
    const auto y_on = upload_as(y, DType::kF32), v_on = upload_as(v, DType::kF32),
               gate_on = upload_as(gate, dtype), skip_on = upload_as(skip, DType::kF32),
               gain_on = upload_as(gain, DType::kF32);
    for (int variant = 0; variant < 8; ++variant) {
      const bool first = (variant & 1) != 0, normed = (variant & 2) != 0, skips = (variant & 4) != 0;
      const auto out = poisoned(kRows * (kCols + 1) * size_of(dtype));
      cuda::MixerOutputArgs args;
      args.y = y_on.as<float>();
      args.rows = kRows;
      args.num_groups = kGroups;
      args.group_size = kSize;
      if (skips) args.skip = skip_on.as<float>();
      args.v = v_on.as<float>();
      args.v_stride = v.cols();
      args.head_size = kHead;
      args.gate = gate_on.data();
      args.gate_stride = gate.cols();
      args.gate_scale = 0.8f;
      args.silu = first;
      if (normed) args.norm = gain_on.as<float>();
      args.norm_stride = kSize;
      args.norm_first = first;
      args.eps = 1e-3f;
      args.out = out.data();
      args.out_stride = kCols + 1;
      args.dtype = dtype;
      cuda::mixer_output(args, *stream_);
      const Matrix found = download_as(out, dtype, kRows, kCols + 1);
      Matrix expected(kRows, kCols), compared(kRows, kCols);
      for (std::int64_t r = 0; r < kRows; ++r) {
        const auto value = [&](std::int64_t c) {
          return double{y.at(r, c)} + (skips ? double{skip.at(0, c / kHead)} * double{v.at(r, c)} : 0.0);
        };
        const auto gated = [&](std::int64_t c) {
          const double g = double{0.8f} * double{gate.at(r, c)};
          return first ? g * sigmoid(g) : g;
        };
        for (std::int64_t c = 0; c < kCols; ++c) {
          double squares = 0.0;
          for (std::int64_t i = c / kSize * kSize; i < c / kSize * kSize + kSize; ++i) {
            const double x = first ? value(i) : value(i) * gated(i);
            squares += x * x;
          }
          const double factor = normed ? double{gain.at(0, c)} / std::sqrt(squares / kSize + 1e-3) : 1.0;
          expected.at(r, c) = static_cast<float>(value(c) * gated(c) * factor);
          compared.at(r, c) = found.at(r, c);
        }
      }
      EXPECT_LE(relative_error(compared.view(), expected.view()), rounding(dtype)) << variant;
    }
  }
}

TEST_F(CudaMixersTest, UngroupsTheProjectionsOfADeltaNet) {
  constexpr std::int64_t kRows = 3, kKeyHeads = 2, kValueHeads = 6, kKey = 5, kValue = 4, kGroup = 3;
  constexpr std::int64_t kKeys = kKeyHeads * kKey, kValues = kValueHeads * kValue;
  constexpr std::int64_t kCols = 2 * kKeys + 2 * kValues + 2 * kValueHeads;
  const Matrix x = rounded(random_matrix(kRows, kCols, 16), DType::kBF16);
  Matrix expected(kRows, kCols);
  for (std::int64_t r = 0; r < kRows; ++r) {
    std::int64_t from = 0;
    const auto take = [&](std::int64_t count, std::int64_t to) {
      std::copy_n(x.row(r) + from, count, expected.row(r) + to);
      from += count;
    };
    for (std::int64_t h = 0; h < kKeyHeads; ++h) {
      take(kKey, h * kKey);
      take(kKey, kKeys + h * kKey);
      take(kGroup * kValue, 2 * kKeys + h * kGroup * kValue);
      take(kGroup * kValue, 2 * kKeys + kValues + h * kGroup * kValue);
    }
    for (std::int64_t h = 0; h < kKeyHeads; ++h) {
      take(kGroup, 2 * kKeys + 2 * kValues + h * kGroup);
      take(kGroup, 2 * kKeys + 2 * kValues + kValueHeads + h * kGroup);
    }
  }
  const auto in = upload_as(x, DType::kBF16);
  const auto out = poisoned(x.numel() * 2);
  cuda::ungroup({in.data(), out.data(), DType::kBF16, kRows, kKeyHeads, kValueHeads, kKey, kValue}, *stream_);
  EXPECT_EQ(relative_error(download_as(out, DType::kBF16, kRows, kCols).view(), expected.view()), 0.0);
}

TEST_F(CudaMixersTest, HeadsFromPlaceToPlace) {
  constexpr std::int64_t kRows = 3, kHeads = 4, kSize = 6, kPadded = 9;
  for (const std::int64_t stride : {std::int64_t{0}, kSize + 1}) {
    const Matrix x = rounded(random_matrix(kRows, kHeads * (kSize + 1) + 2, 17), DType::kBF16);
    const auto in = upload_as(x, DType::kBF16);
    const auto out = poisoned(kRows * kHeads * (kPadded + 1) * 4);
    cuda::CopyHeadsArgs args;
    args.x = in.data();
    args.x_dtype = DType::kBF16;
    args.x_row_stride = x.cols();
    args.x_head_stride = stride;
    args.y = out.data();
    args.y_dtype = DType::kF32;
    args.y_row_stride = kHeads * (kPadded + 1);
    args.y_head_stride = kPadded + 1;
    args.rows = kRows;
    args.num_heads = kHeads;
    args.size = kSize;
    args.padded = kPadded;
    cuda::copy_heads(args, *stream_);
    const Matrix found = download_as(out, DType::kF32, kRows, kHeads * (kPadded + 1));
    for (std::int64_t r = 0; r < kRows; ++r) {
      for (std::int64_t h = 0; h < kHeads; ++h) {
        for (std::int64_t i = 0; i < kPadded; ++i)
          EXPECT_EQ(found.at(r, h * (kPadded + 1) + i), i < kSize ? x.at(r, h * stride + i) : 0.0f);
      }
    }
  }
}

TEST_F(CudaMixersTest, GatesAndScalesOfHeads) {
  constexpr std::int64_t kRows = 3, kHeads = 2, kSize = 5, kStride = 2 * kHeads * kSize + 1;
  for (const DType dtype : kDTypes) {
    const Matrix gate = rounded(random_matrix(kRows, kStride, 18), dtype);
    const Matrix y = rounded(random_matrix(kRows, kHeads * kSize, 19), dtype);
    const auto gate_on = upload_as(gate, dtype), y_on = upload_as(y, dtype);
    cuda::gate_heads({gate_on.data(), kStride, 2 * kSize, y_on.data(), dtype, kRows, kHeads, kSize},
                     *stream_);
    cuda::scale_rows(y_on.data(), dtype, kRows, kSize, kHeads * kSize, 0.5f, *stream_);
    Matrix expected(kRows, kHeads * kSize);
    for (std::int64_t r = 0; r < kRows; ++r) {
      for (std::int64_t c = 0; c < kHeads * kSize; ++c) {
        const double g = double{gate.at(r, c / kSize * 2 * kSize + c % kSize)};
        expected.at(r, c) = static_cast<float>(double{y.at(r, c)} * sigmoid(g) * (c < kSize ? 0.5 : 1.0));
      }
    }
    EXPECT_LE(relative_error(download_as(y_on, dtype, kRows, kHeads * kSize).view(), expected.view()),
              2.0 * rounding(dtype));
  }
}

}  // namespace
}  // namespace swiftprune
