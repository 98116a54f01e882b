#include "swiftprune/refinement/grid_solver.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/core/progress.h"
#include "swiftprune/refinement/inverse_factor.h"
#include "swiftprune/refinement/layer_error.h"
#include "swiftprune/refinement/row_loops.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kGridBlock = 128;        // columns whose errors are made up for at once
constexpr std::int64_t kGridRowsPerChunk = 16;  // they share the rows of H that they read

constexpr int kGridRounds = 4;  // of descent and scales
constexpr int kSweeps = 6;      // over the weights, in each
constexpr int kExchanges = 64;  // of a row or N:M group, in each

std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// a x = b of a symmetric positive definite a [n, n], row-major, which it destroys. False when it is not.
bool solve_symmetric(std::vector<double>& a, std::vector<double>& b) {
  const std::size_t n = b.size();
  for (std::size_t j = 0; j < n; ++j) {
    for (std::size_t i = j; i < n; ++i) {
      double sum = a[i * n + j];
      for (std::size_t k = 0; k < j; ++k) sum -= a[i * n + k] * a[j * n + k];
      if (i == j && !(sum > 0.0 && std::isfinite(sum))) return false;
      a[i * n + j] = i == j ? std::sqrt(sum) : sum / a[j * n + j];
    }
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < i; ++k) b[i] -= a[i * n + k] * b[k];
    b[i] /= a[i * n + i];
  }
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t k = i + 1; k < n; ++k) b[i] -= a[k * n + i] * b[k];
    b[i] /= a[i * n + i];
  }
  return true;
}

class Descent {
 public:
  Descent(Mask& mask, const Pattern& pattern, ConstMatrixView target, const GridGram& gram,
          GridWeight& weight, const Backend& backend)
      : mask_(mask),
        exchange_width_(pattern.kind == Pattern::Kind::kNofM ? pattern.m
                        : pattern.kind == Pattern::Kind::kBlock || mask.num_kept() == target.numel()
                            ? 0
                            : target.cols),
        target_(target),
        gram_(gram),
        weight_(weight),
        backend_(backend),
        gradient_(target.rows, target.cols) {}

  // Until no weight moves, or kSweeps times; then exchanges.
  void move_weights() {
    set_gradient();
    parallel_for(target_.rows, kGridRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
      for (int sweep = 0; sweep < kSweeps; ++sweep)
        if (!sweep_rows(first, last)) break;
      if (exchange_width_ == 0) return;
      for (std::int64_t r = first; r < last; ++r)
        for (std::int64_t begin = 0; begin < target_.cols; begin += exchange_width_) exchange(r, begin);
    });
  }

  // The least-squares scales of the codes as they are, where they make E smaller.
  void fit_scales() {
    parallel_for(target_.rows, kGridRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) fit_row(r);
    });
  }

 private:
  // B H - T
  void set_gradient() {
    parallel_for(target_.rows, kGridRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) std::copy_n(target_.row(r), target_.cols, gradient_.row(r));
    });
    backend_.matmul(std::as_const(weight_.values).view(), gram_.quadratic.view(), 1.0f, -1.0f,
                    gradient_.view());
  }

  void set_value(std::int64_t r, std::int64_t j, float value) {
    float& old = weight_.values.at(r, j);
    row_loops().add_scaled(value - old, gram_.quadratic.row(j), gradient_.row(r), target_.cols);
    old = value;
  }

  // Weights p (kept) and q (pruned) of one unit change places while that makes E smaller: with the gradient
  // 2 c, ΔE = -2 w_p c_p + w_p² H_pp + 2 v c_q + v² H_qq - 2 w_p v H_pq, v on the grid. The pair of the best
  // p and q by themselves.
  void exchange(std::int64_t r, std::int64_t begin) {
    for (int done = 0; done < kExchanges; ++done) {
      std::int64_t p = -1, q = -1;
      double pruning = std::numeric_limits<double>::infinity(), restoring = 0.0;
      float restored = 0.0f;
      for (std::int64_t j = begin; j < begin + exchange_width_; ++j) {
        const double curvature = double{gram_.quadratic.at(j, j)};
        const double slope = double{gradient_.at(r, j)};
        if (mask_.kept(r, j)) {
          const double value = double{weight_.values.at(r, j)};
          const double change = value * (value * curvature - 2.0 * slope);
          if (change < pruning) pruning = change, p = j;
        } else {
          const float value =
              on_grid(weight_.at(r, weight_.group_of(j)), static_cast<float>(-slope / curvature));
          const double change = double{value} * (double{value} * curvature + 2.0 * slope);
          if (change < restoring) restoring = change, q = j, restored = value;
        }
      }
      if (p < 0 || q < 0) return;
      const double pruned = double{weight_.values.at(r, p)};
      const double both =
          pruning + restoring - 2.0 * pruned * double{restored} * double{gram_.quadratic.at(p, q)};
      if (!(both < -1e-3 * (std::abs(pruning) + std::abs(restoring)))) return;  // more than rounding errors
      set_value(r, p, 0.0f);
      set_value(r, q, restored);
      mask_.prune(r, p);
      mask_.keep(r, q);
    }
  }

  bool sweep_rows(std::int64_t first, std::int64_t last) {
    bool moved = false;
    for (const std::int64_t j : gram_.order) {
      const float curvature = gram_.quadratic.at(j, j);
      for (std::int64_t r = first; r < last; ++r) {
        if (!mask_.kept(r, j)) continue;
        const float value = weight_.values.at(r, j);
        const GroupGrid& group = weight_.at(r, weight_.group_of(j));
        const float best = value - gradient_.at(r, j) / curvature;
        const float next = on_grid(group, best);
        // Not for what rounding errors of the gradient could undo.
        if (std::abs(next - value) < 0.5f * group.scale ||
            std::abs(next - best) > std::abs(value - best) - 1e-4f * group.scale)
          continue;
        set_value(r, j, next);
        moved = true;
      }
    }
    return moved;
  }

  // With q_g the row's codes of group g (less its zero point): min over s of Σ s_g s_h q_g H q_hᵀ - 2 Σ s_g q_g t.
  void fit_row(std::int64_t r) {
    const std::int64_t cols = target_.cols;
    std::vector<std::int64_t> used;  // groups with a weight that is not 0
    std::vector<float> codes(index(cols), 0.0f);
    for (std::int64_t g = 0; g < weight_.num_groups(); ++g) {
      const float scale = weight_.at(r, g).scale;
      bool any = false;
      for (std::int64_t j = g * weight_.width(); j < (g + 1) * weight_.width(); ++j) {
        codes[index(j)] = std::nearbyint(weight_.values.at(r, j) / scale);
        any |= codes[index(j)] != 0.0f;
      }
      if (any) used.push_back(g);
    }
    const std::size_t n = used.size();
    if (n == 0) return;
    const RowLoops& loops = row_loops();
    std::vector<double> a(n * n), b(n);
    std::vector<float> product(index(cols));
    const std::int64_t width = weight_.width();
    for (std::size_t i = 0; i < n; ++i) {
      const std::int64_t begin = used[i] * width;
      std::fill(product.begin(), product.end(), 0.0f);
      for (std::int64_t j = begin; j < begin + width; ++j) {
        if (codes[index(j)] != 0.0f)
          loops.add_scaled(codes[index(j)], gram_.quadratic.row(j), product.data(), cols);
      }
      for (std::size_t k = 0; k < n; ++k) {
        const std::int64_t at = used[k] * width;
        a[i * n + k] = double{loops.dot(product.data() + at, codes.data() + at, width)};
      }
      b[i] = double{loops.dot(target_.row(r) + begin, codes.data() + begin, width)};
    }
    const auto error = [&](const std::vector<double>& scales) {
      double sum = 0.0;
      for (std::size_t i = 0; i < n; ++i) {
        double row = -2.0 * b[i];
        for (std::size_t k = 0; k < n; ++k) row += a[i * n + k] * scales[k];
        sum += scales[i] * row;
      }
      return sum;
    };
    std::vector<double> before(n);
    for (std::size_t i = 0; i < n; ++i) before[i] = double{weight_.at(r, used[i]).scale};
    std::vector<double> factor = a, fitted = b;
    if (!solve_symmetric(factor, fitted)) return;
    for (std::size_t i = 0; i < n; ++i) {
      // A scale that leaves the old one far behind belongs to codes that no longer fit.
      fitted[i] = double{scale_of(std::clamp(fitted[i], 0.5 * before[i], 2.0 * before[i]))};
    }
    if (!(error(fitted) < error(before))) return;
    for (std::size_t i = 0; i < n; ++i) {
      const auto scale = static_cast<float>(fitted[i]);
      weight_.at(r, used[i]).scale = scale;
      for (std::int64_t j = used[i] * width; j < (used[i] + 1) * width; ++j)
        weight_.values.at(r, j) = codes[index(j)] * scale;
    }
  }

  Mask& mask_;
  std::int64_t exchange_width_;  // inputs among which weights change places; 0: none do
  ConstMatrixView target_;
  const GridGram& gram_;
  GridWeight& weight_;
  const Backend& backend_;
  Matrix gradient_;  // [O, I]
};

}  // namespace

GridGram prepare_grid(const Matrix& gram, std::span<const float> norm, double damping, ColumnOrder order,
                      const Backend& backend, std::string_view tensor) {
  const std::int64_t n = gram.rows();
  GridGram result;
  result.order.resize(index(n));
  std::iota(result.order.begin(), result.order.end(), std::int64_t{0});
  if (order == ColumnOrder::kByDiagonal) {
    std::stable_sort(result.order.begin(), result.order.end(),
                     [&](std::int64_t a, std::int64_t b) { return gram.at(a, a) > gram.at(b, b); });
  }
  Matrix normalised(n, n);  // in the order
  parallel_for(n, 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      const std::int64_t row = result.order[index(i)];
      for (std::int64_t j = 0; j < n; ++j) {
        const std::int64_t col = result.order[index(j)];
        normalised.at(i, j) = static_cast<float>(double{gram.at(row, col)} / double{norm[index(row)]} /
                                                 double{norm[index(col)]});
      }
    }
  });
  DampedFactor found = damped_factor(normalised.view(), {.relative = damping, .unit = 1.0}, backend, tensor);
  result.factor = std::move(found.factor);
  result.damping = found.damping;
  result.damping_raised = found.damping_raised;
  for (std::int64_t i = 0; i < n; ++i) {
    const float of_row = norm[index(result.order[index(i)])];
    for (std::int64_t j = 0; j <= i; ++j) result.factor.at(i, j) /= of_row;
  }
  result.quadratic = gram.clone();
  for (std::int64_t j = 0; j < n; ++j) {
    const double size = double{norm[index(j)]};
    result.quadratic.at(j, j) = static_cast<float>(double{gram.at(j, j)} + result.damping * size * size);
  }
  return result;
}

void round_columns(const GridGram& gram, const Mask* mask, GroupScales scales, GridWeight& weight,
                   const Backend& backend) {
  const RowLoops& loops = row_loops();
  const std::int64_t rows = weight.values.rows();
  const std::int64_t cols = weight.values.cols();
  const auto permute = [&](const Matrix& from, Matrix& to, bool back) {
    parallel_for(rows, kGridRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) {
        for (std::int64_t j = 0; j < cols; ++j) {
          const std::int64_t at = gram.order[index(j)];
          to.at(r, back ? at : j) = from.at(r, back ? j : at);
        }
      }
    });
  };
  Matrix w(rows, cols);
  permute(weight.values, w, false);
  // Whole groups where their scales are found on the way: all columns before a group must be done by then.
  const bool on_the_way = scales == GroupScales::kRangeOnTheWay;
  const std::int64_t step =
      on_the_way && kGridBlock % weight.width() != 0 ? weight.width() : std::min(kGridBlock, cols);
  for (std::int64_t first = 0; first < cols; first += step) {
    check_interrupt();
    const std::int64_t size = std::min(step, cols - first);
    Matrix factor(size, size);  // U = Lᵀ of the block
    for (std::int64_t i = 0; i < size; ++i)
      for (std::int64_t j = 0; j < size; ++j) factor.at(i, j) = gram.factor.at(first + j, first + i);
    Matrix errors(rows, size);
    parallel_for(rows, kGridRowsPerChunk, [&](std::int64_t begin, std::int64_t end) {
      GridColumns block(size);
      for (std::int64_t r = begin; r < end; ++r) {
        const std::int64_t part = on_the_way ? weight.width() : size;
        for (std::int64_t at = 0; at < size; at += part) {
          if (on_the_way) {
            std::vector<float> group(w.row(r) + first + at, w.row(r) + first + at + part);
            for (std::int64_t j = 0; mask != nullptr && j < part; ++j)
              if (!mask->kept(r, first + at + j)) group[index(j)] = 0.0f;
            weight.at(r, weight.group_of(first + at)) = range_grid(group, weight.grid());
          }
          for (std::int64_t j = at; j < at + part; ++j) {
            const std::int64_t col = gram.order[index(first + j)];
            block.set(j, mask == nullptr || mask->kept(r, col), weight.at(r, weight.group_of(col)));
          }
          loops.compensate_rounding(factor.data(), size, block.kept.data(), block.scale.data(),
                                    block.lowest.data(), block.highest.data(), at, at + part,
                                    w.row(r) + first, errors.row(r));
        }
      }
    });
    const std::int64_t after = cols - first - size;
    if (after == 0) break;
    backend.matmul_transposed(errors.view(),
                              gram.factor.view().row_block(first + size, after).col_block(first, size), -1.0f,
                              1.0f, w.view().col_block(first + size, after));
  }
  permute(w, weight.values, true);
}

std::vector<double> grid_errors(ConstMatrixView values, ConstMatrixView target, const GridGram& gram,
                                const Backend& backend) {
  std::vector<double> errors = row_energies(values, gram.quadratic.view(), backend);
  for (std::int64_t r = 0; r < values.rows; ++r)
    for (std::int64_t j = 0; j < values.cols; ++j)
      errors[index(r)] -= 2.0 * double{values.at(r, j)} * double{target.at(r, j)};
  return errors;
}

GridWeight solve_on_grid(ConstMatrixView start, Mask& mask, const Pattern& pattern, ConstMatrixView target,
                         const GridGram& gram, const QuantGrid& grid, const Backend& backend) {
  GridWeight weight(grid, start.rows, start.cols);
  std::vector<float> importance(index(start.cols));
  for (std::int64_t j = 0; j < start.cols; ++j) importance[index(j)] = gram.quadratic.at(j, j);
  parallel_for(start.rows, kGridRowsPerChunk, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      std::copy_n(start.row(r), start.cols, weight.values.row(r));
      for (std::int64_t g = 0; g < weight.num_groups(); ++g) {
        const std::int64_t begin = g * weight.width();
        weight.at(r, g) = searched_grid({start.row(r) + begin, index(weight.width())},
                                        {importance.data() + begin, index(weight.width())}, grid);
      }
    }
  });
  round_columns(gram, &mask, GroupScales::kGiven, weight, backend);
  Descent descent(mask, pattern, target, gram, weight, backend);
  for (int round = 0; round < kGridRounds; ++round) {
    check_interrupt();
    descent.move_weights();
    descent.fit_scales();
  }
  descent.move_weights();
  return weight;
}

}  // namespace swiftprune
