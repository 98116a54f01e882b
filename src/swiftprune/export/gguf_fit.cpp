// The search for a block's scales (gguf_grid.h). Sums run in eight lanes, so that a compiler can use SIMD
// and every processor gets the same bits; compiled without contraction of a * b + c.
#include <algorithm>
#include <cmath>
#include <limits>

#include "swiftprune/core/error.h"
#include "swiftprune/export/gguf_grid.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

constexpr int kLanes = 8;
constexpr float kSmallest = 1e-30f;  // below it there is nothing to scale
constexpr int kRounds = 2;           // of least squares and rounding, for a part and for a block
constexpr float kNone = std::numeric_limits<float>::infinity();

// To even; |value| above 2^22 is left about as large, which clamping takes care of.
inline float nearest(float value) {
  constexpr float kMagic = 12582912.0f;  // 1.5·2^23
  return (value + kMagic) - kMagic;
}

inline float clamped(float value, float low, float high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

inline float inverse_of(float step) { return std::abs(step) < kSmallest ? 0.0f : 1.0f / step; }

float sum(const float* lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// One part of a block: its weights and what each counts.
struct Part {
  const float* x;
  const float* w;
  int size;         // a multiple of kLanes
  float low, high;  // codes
};

float error_at(const Part& part, float step, float offset) {
  const float inverse = inverse_of(step);
  float lanes[kLanes] = {};
  for (int i = 0; i < part.size; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float x = part.x[i + l];
      const float q = clamped(nearest((x - offset) * inverse), part.low, part.high);
      const float e = x - (step * q + offset);
      lanes[l] += part.w[i + l] * e * e;
    }
  }
  return sum(lanes);
}

struct Moments {  // of weights w, values x and codes q
  float q = 0, qq = 0, xq = 0;
};

Moments moments_at(const Part& part, float inverse, float offset) {
  float q_lanes[kLanes] = {}, qq_lanes[kLanes] = {}, xq_lanes[kLanes] = {};
  for (int i = 0; i < part.size; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float x = part.x[i + l];
      const float q = clamped(nearest((x - offset) * inverse), part.low, part.high);
      const float wq = part.w[i + l] * q;
      q_lanes[l] += wq;
      qq_lanes[l] += wq * q;
      xq_lanes[l] += wq * x;
    }
  }
  return {sum(q_lanes), sum(qq_lanes), sum(xq_lanes)};
}

struct Line {
  float step = 0.0f, offset = 0.0f;
};

// How many steps the largest value may be away from zero, as candidates: from fewer than the grid has, which
// cuts extremes off for a finer step, to a little more.
struct Reaches {
  float first, spacing;
  int count;
};
Reaches reaches_of(float codes) {
  const float width = std::min(0.35f * codes, 4.0f);
  constexpr int kCount = 20;
  return {codes + 0.6f - width, width / static_cast<float>(kCount - 1), kCount};
}

// Which steps are looked for. A negative one gives positive values the side with one code more.
enum class Signs { kBoth, kPositive, kNegative };

// The step without an offset.
float fit_step(const Part& part, Signs signs) {
  float largest = 0.0f;
  for (int i = 0; i < part.size; ++i) largest = std::max(largest, std::abs(part.x[i]));
  if (largest < kSmallest) return 0.0f;
  const Reaches reaches = reaches_of(-part.low);
  float best = 0.0f, best_gain = 0.0f;
  const auto consider = [&](float inverse) {
    const Moments m = moments_at(part, inverse, 0.0f);
    if (!(m.qq > 0.0f)) return;
    const float step = m.xq / m.qq, gain = m.xq * step;
    if (gain > best_gain) {
      best_gain = gain;
      best = step;
    }
  };
  for (int k = 0; k < reaches.count; ++k) {
    const float reach = reaches.first + reaches.spacing * static_cast<float>(k);
    if (signs != Signs::kNegative) consider(reach / largest);
    if (signs != Signs::kPositive) consider(-reach / largest);
  }
  for (int round = 0; round < kRounds && best != 0.0f; ++round) consider(1.0f / best);
  return best;
}

// The step and the offset. upward: the offset is 0 or less (K-quants).
Line fit_line(const Part& part, bool upward) {
  float low = upward ? 0.0f : part.x[0], high = low, w = 0.0f, wx = 0.0f;
  for (int i = 0; i < part.size; ++i) {
    low = std::min(low, part.x[i]);
    high = std::max(high, part.x[i]);
    w += part.w[i];
    wx += part.w[i] * part.x[i];
  }
  if (high - low < kSmallest) return {0.0f, low};
  const Reaches reaches = reaches_of(part.high);
  Line best;
  float best_error = kNone;
  for (int k = 0; k < reaches.count; ++k) {
    Line line{(high - low) / (reaches.first + reaches.spacing * static_cast<float>(k)), low};
    for (int round = 0; round < kRounds; ++round) {
      const Moments m = moments_at(part, inverse_of(line.step), line.offset);
      const float determinant = w * m.qq - m.q * m.q;
      if (!(determinant > 1e-6f * w * m.qq)) break;  // one code for all
      line.step = (w * m.xq - m.q * wx) / determinant;
      line.offset = (wx - line.step * m.q) / w;
      if (upward && line.offset > 0.0f) line = {m.xq / m.qq, 0.0f};
      if (!(line.step > 0.0f)) break;
    }
    if (!(line.step > 0.0f)) continue;
    const float error = error_at(part, line.step, line.offset);
    if (error < best_error) {
      best_error = error;
      best = line;
    }
  }
  return best_error < kNone ? best : Line{0.0f, wx / std::max(w, kSmallest)};
}

class BlockFit {
 public:
  BlockFit(const GgmlGrid& grid, const float* x, const float* weights, bool symmetric)
      : grid_(grid), x_(x), w_(weights), symmetric_(symmetric) {
    const int zero = symmetric ? grid.zero_code() : 0;
    low_ = static_cast<float>(grid.lowest - zero);
    high_ = static_cast<float>(grid.highest - zero);
  }

  BlockScales run() {
    if (!grid_.has_scales()) return small_block();
    if (!symmetric_) {
      for (int p = 0; p < grid_.parts(); ++p) lines_[static_cast<std::size_t>(p)] = fit_line(part(p), true);
      search_with_offsets();
    } else if (grid_.lowest_scale < 0) {
      search_symmetric(Signs::kBoth);
    } else {  // the parts share the sign of d
      search_symmetric(Signs::kPositive);
      search_symmetric(Signs::kNegative);
    }
    return best_;
  }

 private:
  Part part(int p) const { return {x_ + p * grid_.part, w_ + p * grid_.part, grid_.part, low_, high_}; }

  BlockScales small_block() {
    BlockScales scales;
    if (!symmetric_) {
      const Line line = fit_line(part(0), false);
      scales.d = finite_f16(line.step);
      scales.m = finite_f16(line.offset);
    } else {
      scales.d = finite_f16(fit_step(part(0), Signs::kBoth));
      tie_offsets(grid_, scales);
    }
    return scales;
  }

  // The parts' own numbers for these d and m, each the best of its neighbourhood. The error of the block.
  float choose_codes(BlockScales& scales) const {
    const float d = f16_to_f32(scales.d), m = f16_to_f32(scales.m);
    float total = 0.0f;
    for (int p = 0; p < grid_.parts(); ++p) {
      const auto i = static_cast<std::size_t>(p);
      const Part of = part(p);
      const int wanted_scale = code(lines_[i].step * inverse_of(d), grid_.lowest_scale, grid_.highest_scale);
      const int wanted_min = symmetric_ ? 0 : code(-lines_[i].offset * inverse_of(m), 0, grid_.highest_min);
      const int reach = symmetric_ ? 0 : 1;
      float best = kNone;
      for (int scale = wanted_scale - 1; scale <= wanted_scale + 1; ++scale) {
        if (scale < grid_.lowest_scale || scale > grid_.highest_scale) continue;
        for (int min = wanted_min - reach; min <= wanted_min + reach; ++min) {
          if (min < 0 || min > grid_.highest_min) continue;
          const float error =
              error_at(of, d * static_cast<float>(scale), symmetric_ ? 0.0f : -(m * static_cast<float>(min)));
          if (error >= best) continue;
          best = error;
          scales.scale[i] = static_cast<std::int8_t>(scale);
          scales.min[i] = static_cast<std::int8_t>(min);
        }
      }
      total += best;
    }
    return total;
  }

  static int code(float value, int low, int high) {
    return static_cast<int>(clamped(nearest(value), static_cast<float>(low), static_cast<float>(high)));
  }

  void consider(float d, float m) {
    BlockScales scales;
    scales.d = finite_f16(d);
    scales.m = finite_f16(m);
    const float error = choose_codes(scales);
    if (!(error < best_error_)) return;
    best_error_ = error;
    if (symmetric_) tie_offsets(grid_, scales);
    best_ = scales;
  }

  void search_symmetric(Signs signs) {
    float largest = 0.0f;  // the step that is farthest from 0, with its sign
    for (int p = 0; p < grid_.parts(); ++p) {
      Line& line = lines_[static_cast<std::size_t>(p)] = {fit_step(part(p), signs), 0.0f};
      if (std::abs(line.step) > std::abs(largest)) largest = line.step;
    }
    for (int less = 0; less < 3; ++less) {
      consider(largest / static_cast<float>(grid_.highest_scale - less), 0.0f);
      if (grid_.lowest_scale < 0) consider(largest / static_cast<float>(grid_.lowest_scale + less), 0.0f);
    }
    for (int round = 0; round < kRounds; ++round) refit_symmetric();
  }

  void refit_symmetric() {
    const float d = f16_to_f32(best_.d);
    float xq = 0.0f, qq = 0.0f;
    for (int p = 0; p < grid_.parts(); ++p) {
      const auto scale = static_cast<float>(best_.scale[static_cast<std::size_t>(p)]);
      const Moments m = moments_at(part(p), inverse_of(d * scale), 0.0f);
      xq += scale * m.xq;
      qq += scale * scale * m.qq;
    }
    if (qq > 0.0f) consider(xq / qq, 0.0f);
  }

  void search_with_offsets() {
    float step = 0.0f, offset = 0.0f;
    for (const Line& line : lines_) {
      step = std::max(step, line.step);
      offset = std::max(offset, -line.offset);
    }
    for (int less = 0; less < 3; ++less) {
      for (int less_min = 0; less_min < 2; ++less_min) {
        consider(step / static_cast<float>(grid_.highest_scale - less),
                 offset / static_cast<float>(grid_.highest_min - less_min));
      }
    }
    for (int round = 0; round < kRounds; ++round) refit_with_offsets();
  }

  // x ≈ d·(scale·q) - m·min
  void refit_with_offsets() {
    const float d = f16_to_f32(best_.d), minimum = f16_to_f32(best_.m);
    double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;
    for (int p = 0; p < grid_.parts(); ++p) {
      const auto i = static_cast<std::size_t>(p);
      const Part of = part(p);
      const auto scale = static_cast<float>(best_.scale[i]), min = static_cast<float>(best_.min[i]);
      const Moments m = moments_at(of, inverse_of(d * scale), -(minimum * min));
      double w = 0, wx = 0;
      for (int k = 0; k < of.size; ++k) {
        w += double{of.w[k]};
        wx += double{of.w[k]} * double{of.x[k]};
      }
      aa += double{scale * scale} * double{m.qq};
      ab += double{scale * min} * double{m.q};
      bb += double{min * min} * w;
      xa += double{scale} * double{m.xq};
      xb += double{min} * wx;
    }
    const double determinant = aa * bb - ab * ab;
    if (!(determinant > 1e-9 * aa * bb)) {
      if (aa > 0) consider(static_cast<float>((xa + ab * double{minimum}) / aa), minimum);
      return;
    }
    const auto new_d = static_cast<float>((xa * bb - xb * ab) / determinant);
    const auto new_m = static_cast<float>((xa * ab - xb * aa) / determinant);
    if (new_d > 0.0f && new_m >= 0.0f) consider(new_d, new_m);
  }

  const GgmlGrid& grid_;
  const float* x_;
  const float* w_;
  bool symmetric_;
  float low_ = 0.0f, high_ = 0.0f;
  std::array<Line, kMostParts> lines_{};
  BlockScales best_;
  float best_error_ = kNone;
};

}  // namespace

BlockScales fit_block(const GgmlGrid& grid, const float* x, const float* weights, bool keep_zeros) {
  return BlockFit(grid, x, weights, keep_zeros || !grid.has_offset).run();
}

void round_block(const GgmlGrid& grid, const BlockScales& scales, const float* x, std::int8_t* codes) {
  for (int p = 0; p < grid.parts(); ++p) {
    const GridLine line = line_of(grid, scales, p);
    for (int i = p * grid.part; i < (p + 1) * grid.part; ++i) {
      codes[i] = static_cast<std::int8_t>(line.nearest_code(x[i]));
    }
  }
}

}  // namespace swiftprune
