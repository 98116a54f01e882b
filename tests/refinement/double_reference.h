// The refinements in double, line by line from their formulas, on full matrices: the oracle of the tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "support/problem.h"
#include "swiftprune/backend/backend.h"
#include "swiftprune/selection/pattern.h"
#include "swiftprune/tensor/mask.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune::testing {

struct Doubles {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::vector<double> values;

  Doubles() = default;
  Doubles(std::int64_t r, std::int64_t c) : rows(r), cols(c), values(static_cast<std::size_t>(r * c), 0.0) {}
  explicit Doubles(ConstMatrixView m) : Doubles(m.rows, m.cols) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) at(r, c) = double{m.at(r, c)};
    }
  }
  double& at(std::int64_t r, std::int64_t c) { return values[static_cast<std::size_t>(r * cols + c)]; }
  double at(std::int64_t r, std::int64_t c) const { return values[static_cast<std::size_t>(r * cols + c)]; }
};

inline Doubles product(const Doubles& a, const Doubles& b) {
  Doubles c(a.rows, b.cols);
  for (std::int64_t i = 0; i < a.rows; ++i) {
    for (std::int64_t k = 0; k < a.cols; ++k) {
      for (std::int64_t j = 0; j < b.cols; ++j) c.at(i, j) += a.at(i, k) * b.at(k, j);
    }
  }
  return c;
}

// Lower Cholesky factor.
inline Doubles cholesky_of(Doubles a) {
  for (std::int64_t j = 0; j < a.rows; ++j) {
    for (std::int64_t i = 0; i < a.rows; ++i) {
      if (i < j) {
        a.at(i, j) = 0.0;
        continue;
      }
      double sum = a.at(i, j);
      for (std::int64_t k = 0; k < j; ++k) sum -= a.at(i, k) * a.at(j, k);
      a.at(i, j) = i == j ? std::sqrt(sum) : sum / a.at(j, j);
    }
  }
  return a;
}

// Gauss-Jordan, for positive definite matrices.
inline Doubles inverse_of(Doubles a) {
  Doubles inverse(a.rows, a.rows);
  for (std::int64_t i = 0; i < a.rows; ++i) inverse.at(i, i) = 1.0;
  for (std::int64_t k = 0; k < a.rows; ++k) {
    const double pivot = a.at(k, k);
    for (std::int64_t j = 0; j < a.rows; ++j) {
      a.at(k, j) /= pivot;
      inverse.at(k, j) /= pivot;
    }
    for (std::int64_t i = 0; i < a.rows; ++i) {
      if (i == k) continue;
      const double factor = a.at(i, k);
      for (std::int64_t j = 0; j < a.rows; ++j) {
        a.at(i, j) -= factor * a.at(k, j);
        inverse.at(i, j) -= factor * inverse.at(k, j);
      }
    }
  }
  return inverse;
}

inline double mean_diagonal(const Doubles& g) {
  double sum = 0.0;
  for (std::int64_t j = 0; j < g.rows; ++j) sum += g.at(j, j);
  return sum / static_cast<double>(g.rows);
}

// tr (W - B) G (W - B)ᵀ
inline double error_of(const Doubles& w, const Doubles& b, const Doubles& g) {
  Doubles d = w;
  for (std::size_t i = 0; i < d.values.size(); ++i) d.values[i] -= b.values[i];
  const Doubles dg = product(d, g);
  return std::inner_product(d.values.begin(), d.values.end(), dg.values.begin(), 0.0);
}

// Stable sort: the `count` lowest of each row's scores go, or all but n of each m.
inline Mask select_rows(const Doubles& scores, const Pattern& pattern, std::int64_t count) {
  Mask mask(scores.rows, scores.cols);
  const bool groups = pattern.kind == Pattern::Kind::kNofM;
  const std::int64_t span = groups ? pattern.m : scores.cols;
  for (std::int64_t r = 0; r < scores.rows; ++r) {
    for (std::int64_t first = 0; first < scores.cols; first += span) {
      std::vector<std::int64_t> order(static_cast<std::size_t>(span));
      std::iota(order.begin(), order.end(), first);
      std::stable_sort(order.begin(), order.end(),
                       [&](std::int64_t a, std::int64_t b) { return scores.at(r, a) < scores.at(r, b); });
      for (std::int64_t k = groups ? pattern.m - pattern.n : count; k < span; ++k) {
        mask.keep(r, order[static_cast<std::size_t>(k)]);
      }
    }
  }
  return mask;
}

inline Doubles absolute(Doubles m) {
  for (double& value : m.values) value = std::abs(value);
  return m;
}

inline Doubles masked_by(Doubles m, const Mask& mask) {
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t c = 0; c < m.cols; ++c) {
      if (!mask.kept(r, c)) m.at(r, c) = 0.0;
    }
  }
  return m;
}

struct ReferenceResult {
  Doubles weight;
  Mask mask;
  Doubles low_rank = {};  // L, where one was asked for
};

// Eigenvalues, and eigenvectors as rows, of a symmetric matrix, the largest first (Jacobi).
struct Eigen {
  std::vector<double> values;
  Doubles vectors;
};
inline Eigen eigen_of(Doubles a) {
  const std::int64_t n = a.rows;
  Doubles v(n, n);
  for (std::int64_t i = 0; i < n; ++i) v.at(i, i) = 1.0;
  for (int sweep = 0; sweep < 60; ++sweep) {
    for (std::int64_t p = 0; p < n; ++p) {
      for (std::int64_t q = p + 1; q < n; ++q) {
        if (a.at(p, q) == 0.0) continue;
        const double angle = 0.5 * std::atan2(2.0 * a.at(p, q), a.at(p, p) - a.at(q, q));
        const double c = std::cos(angle), s = std::sin(angle);
        const auto turn = [&](double& x, double& y) {
          const double old = x;
          x = c * old + s * y;
          y = c * y - s * old;
        };
        for (std::int64_t k = 0; k < n; ++k) turn(a.at(k, p), a.at(k, q));
        for (std::int64_t k = 0; k < n; ++k) turn(a.at(p, k), a.at(q, k));
        for (std::int64_t k = 0; k < n; ++k) turn(v.at(p, k), v.at(q, k));
      }
    }
  }
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](std::int64_t i, std::int64_t j) { return a.at(i, i) > a.at(j, j); });
  Eigen result{{}, Doubles(n, n)};
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t from = order[static_cast<std::size_t>(i)];
    result.values.push_back(a.at(from, from));
    for (std::int64_t k = 0; k < n; ++k) result.vectors.at(i, k) = v.at(from, k);
  }
  return result;
}

inline Doubles transposed(const Doubles& m) {
  Doubles t(m.cols, m.rows);
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t c = 0; c < m.cols; ++c) t.at(c, r) = m.at(r, c);
  }
  return t;
}

// The best L of this rank for min tr (E - L) A (E - L)ᵀ.
inline Doubles best_low_rank(const Doubles& e, const Doubles& a, std::int64_t rank) {
  const Eigen eigen = eigen_of(product(product(e, a), transposed(e)));
  Doubles q(rank, e.rows);
  std::copy_n(eigen.vectors.values.begin(), q.values.size(), q.values.begin());
  return product(transposed(q), product(q, e));
}

// target: T [O, I], what B G is to come near to; null: W G. floor: n_j = √(G_jj + floor·mean) + 1e-8. rank: of the L
// that stands beside.
inline ReferenceResult reference_admm(const Doubles& w, const Doubles& g, const Pattern& pattern,
                                      double sparsity, int steps, int ramp, const Doubles* target = nullptr,
                                      double floor = 0.0, std::int64_t rank = 0) {
  const std::int64_t n = g.rows;
  std::vector<double> norm(static_cast<std::size_t>(n));
  for (std::int64_t j = 0; j < n; ++j) {
    norm[static_cast<std::size_t>(j)] = std::sqrt(g.at(j, j) + floor * mean_diagonal(g)) + 1e-8;
  }
  Doubles a(n, n);
  Doubles shifted(n, n);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      a.at(i, j) = g.at(i, j) / (norm[static_cast<std::size_t>(i)] * norm[static_cast<std::size_t>(j)]);
      if (i == j) a.at(i, j) += 0.1;
      shifted.at(i, j) = a.at(i, j) + (i == j ? 1.0 : 0.0);
    }
  }
  const Doubles p = inverse_of(shifted);
  Doubles scaled = w;
  for (std::int64_t r = 0; r < w.rows; ++r) {
    for (std::int64_t j = 0; j < n; ++j) scaled.at(r, j) *= norm[static_cast<std::size_t>(j)];
  }
  Doubles wanted = product(scaled, a);
  for (std::int64_t r = 0; target != nullptr && r < w.rows; ++r) {
    for (std::int64_t j = 0; j < n; ++j) {
      wanted.at(r, j) = target->at(r, j) / norm[static_cast<std::size_t>(j)] + 0.1 * scaled.at(r, j);
    }
  }
  const Doubles best = rank > 0 ? product(wanted, inverse_of(a)) : Doubles();
  const auto minus = [](Doubles x, const Doubles& y) {
    for (std::size_t i = 0; i < x.values.size(); ++i) x.values[i] -= y.values[i];
    return x;
  };
  Doubles u(w.rows, n), low(w.rows, n);
  Doubles z = scaled;
  Mask mask;
  for (int t = 0; t < steps; ++t) {
    Doubles right = rank > 0 ? minus(wanted, product(low, a)) : wanted;
    for (std::size_t i = 0; i < right.values.size(); ++i) right.values[i] += z.values[i] - u.values[i];
    const Doubles b = product(right, p);
    Doubles y = b;
    for (std::size_t i = 0; i < y.values.size(); ++i) y.values[i] += u.values[i];
    const double left = 1.0 - static_cast<double>(t + 1) / ramp;
    const double now = t + 1 < ramp ? sparsity * (1.0 - left * left * left) : sparsity;
    mask = select_rows(absolute(y), pattern,
                       static_cast<std::int64_t>(std::floor(static_cast<double>(n) * now + 1e-9)));
    z = masked_by(y, mask);
    for (std::size_t i = 0; i < u.values.size(); ++i) u.values[i] += b.values[i] - z.values[i];
    if (rank > 0) low = best_low_rank(minus(best, b), a, rank);
  }
  if (rank > 0) low = best_low_rank(minus(best, z), a, rank);
  for (std::int64_t r = 0; r < w.rows; ++r) {
    for (std::int64_t j = 0; j < n; ++j) {
      z.at(r, j) /= norm[static_cast<std::size_t>(j)];
      low.at(r, j) /= norm[static_cast<std::size_t>(j)];
    }
  }
  return {z, mask, low};
}

// T = W((1 - α)G + αC) + βR, admm towards it, then every row scaled to the energy it had, half way.
inline ReferenceResult reference_aligned_admm(const Doubles& w, const Doubles& g, const Doubles& cross,
                                              const Doubles& residual, double alpha, double beta,
                                              const Pattern& pattern, double sparsity, int steps, int ramp,
                                              std::int64_t rank = 0) {
  Doubles moments = g;
  for (std::size_t i = 0; i < moments.values.size(); ++i) {
    moments.values[i] += alpha * (cross.values[i] - g.values[i]);
  }
  Doubles target = product(w, moments);
  for (std::size_t i = 0; i < target.values.size(); ++i) target.values[i] += beta * residual.values[i];
  ReferenceResult result = reference_admm(w, g, pattern, sparsity, steps, ramp, &target, 1e-8, rank);
  Doubles sum = result.weight;
  for (std::size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += result.low_rank.values[i];
  const Doubles wg = product(w, g);
  const Doubles bg = product(sum, g);
  for (std::int64_t r = 0; r < w.rows; ++r) {
    double dense = 0.0;
    double pruned = 0.0;
    for (std::int64_t j = 0; j < w.cols; ++j) {
      dense += w.at(r, j) * wg.at(r, j);
      pruned += sum.at(r, j) * bg.at(r, j);
    }
    const double scale = std::sqrt(std::clamp(std::sqrt(dense / pruned), 0.5, 2.0));
    for (std::int64_t j = 0; j < w.cols; ++j) {
      result.weight.at(r, j) *= scale;
      result.low_rank.at(r, j) *= scale;
    }
  }
  return result;
}

inline Doubles reference_pcg(const Doubles& w, Doubles g, const Mask& mask, int steps) {
  const double damping = 0.01 * mean_diagonal(g);
  for (std::int64_t j = 0; j < g.rows; ++j) g.at(j, j) += damping;
  Doubles b = masked_by(w, mask);
  for (std::int64_t row = 0; row < w.rows; ++row) {
    const auto n = static_cast<std::size_t>(w.cols);
    std::vector<double> r(n, 0.0);
    std::vector<double> z(n);
    std::vector<double> p(n);
    const auto kept = [&](std::size_t j) { return mask.kept(row, static_cast<std::int64_t>(j)); };
    const auto at = [&](std::size_t i, std::size_t j) {
      return g.at(static_cast<std::int64_t>(i), static_cast<std::int64_t>(j));
    };
    for (std::size_t j = 0; j < n; ++j) {
      for (std::size_t i = 0; i < n; ++i) {
        const auto c = static_cast<std::int64_t>(i);
        if (kept(j)) r[j] += (w.at(row, c) - b.at(row, c)) * at(i, j);
      }
      p[j] = z[j] = r[j] / at(j, j);
    }
    double rz = std::inner_product(r.begin(), r.end(), z.begin(), 0.0);
    for (int t = 0; t < steps && rz > 0.0; ++t) {
      std::vector<double> q(n, 0.0);
      for (std::size_t j = 0; j < n; ++j) {
        for (std::size_t i = 0; i < n; ++i) {
          if (kept(j)) q[j] += p[i] * at(i, j);
        }
      }
      const double alpha = rz / std::inner_product(p.begin(), p.end(), q.begin(), 0.0);
      for (std::size_t j = 0; j < n; ++j) {
        b.at(row, static_cast<std::int64_t>(j)) += alpha * p[j];
        r[j] -= alpha * q[j];
        z[j] = r[j] / at(j, j);
      }
      const double next = std::inner_product(r.begin(), r.end(), z.begin(), 0.0);
      for (std::size_t j = 0; j < n; ++j) p[j] = z[j] + next / rz * p[j];
      rz = next;
    }
  }
  return b;
}

// Greedy exchanges by ΔE, c = G·(pruned part) from scratch each time.
inline Mask reference_swaps(const Doubles& w, const Doubles& g, Mask mask, const Pattern& pattern,
                            int max_swaps) {
  const std::int64_t n = w.cols;
  const bool groups = pattern.kind == Pattern::Kind::kNofM;
  for (std::int64_t row = 0; row < w.rows; ++row) {
    for (int swap = 0; swap < max_swaps; ++swap) {
      std::vector<double> cost(static_cast<std::size_t>(n));
      std::vector<std::int64_t> prune;
      std::vector<std::int64_t> restore;
      for (std::int64_t j = 0; j < n; ++j) {
        double c = 0.0;
        for (std::int64_t i = 0; i < n; ++i) c += mask.kept(row, i) ? 0.0 : g.at(j, i) * w.at(row, i);
        const double sign = mask.kept(row, j) ? 1.0 : -1.0;
        cost[static_cast<std::size_t>(j)] =
            sign * 2.0 * w.at(row, j) * c + w.at(row, j) * w.at(row, j) * g.at(j, j);
        (sign > 0.0 ? prune : restore).push_back(j);
      }
      const auto cheaper = [&](std::int64_t a, std::int64_t b) {
        return cost[static_cast<std::size_t>(a)] < cost[static_cast<std::size_t>(b)];
      };
      for (auto* list : {&prune, &restore}) {
        std::stable_sort(list->begin(), list->end(), cheaper);
        if (!groups && list->size() > 32) list->resize(32);
      }
      double best = 0.0;
      std::pair<std::int64_t, std::int64_t> pair{-1, -1};
      for (std::int64_t p : prune) {
        for (std::int64_t q : restore) {
          if (groups && p / pattern.m != q / pattern.m) continue;
          const double change = cost[static_cast<std::size_t>(p)] + cost[static_cast<std::size_t>(q)] -
                                2.0 * w.at(row, p) * w.at(row, q) * g.at(p, q);
          if (change < best) {
            best = change;
            pair = {p, q};
          }
        }
      }
      if (pair.first < 0) break;
      mask.prune(row, pair.first);
      mask.keep(row, pair.second);
    }
  }
  return mask;
}

// Algorithm 1 of arXiv 2301.00774. Unstructured: floor(share of the total) lowest (w/U_jj)² of each 128
// columns.
inline ReferenceResult reference_sparsegpt(Doubles w, Doubles g, const Pattern& pattern, std::int64_t total) {
  const std::int64_t n = g.rows;
  const double unit = mean_diagonal(g);
  for (std::int64_t j = 0; j < n; ++j) {
    if (g.at(j, j) == 0.0) {
      g.at(j, j) = unit;
      for (std::int64_t r = 0; r < w.rows; ++r) w.at(r, j) = 0.0;
    }
    g.at(j, j) += 0.01 * unit;
  }
  const Doubles lower = cholesky_of(inverse_of(g));  // U_ij = lower_ji
  const bool groups = pattern.kind == Pattern::Kind::kNofM;
  const std::int64_t block = groups ? 128 / pattern.m * pattern.m : 128;
  Mask mask(w.rows, n);
  for (std::int64_t first = 0; first < n; first += block) {
    const std::int64_t last = std::min(n, first + block);
    const auto score = [&](std::int64_t r, std::int64_t j) { return std::abs(w.at(r, j) / lower.at(j, j)); };
    if (!groups) {
      std::vector<std::pair<std::int64_t, std::int64_t>> order;
      for (std::int64_t r = 0; r < w.rows; ++r) {
        for (std::int64_t j = first; j < last; ++j) order.emplace_back(r, j);
      }
      std::stable_sort(order.begin(), order.end(), [&](const auto& a, const auto& b) {
        return score(a.first, a.second) < score(b.first, b.second);
      });
      const std::int64_t count = total * last / n - total * first / n;
      for (std::size_t k = static_cast<std::size_t>(count); k < order.size(); ++k) {
        mask.keep(order[k].first, order[k].second);
      }
    }
    for (std::int64_t j = first; j < last; ++j) {
      for (std::int64_t r = 0; r < w.rows; ++r) {
        if (groups && j % pattern.m == 0) {
          std::vector<std::int64_t> order(static_cast<std::size_t>(pattern.m));
          std::iota(order.begin(), order.end(), j);
          std::stable_sort(order.begin(), order.end(),
                           [&](std::int64_t a, std::int64_t b) { return score(r, a) < score(r, b); });
          for (std::int64_t k = pattern.m - pattern.n; k < pattern.m; ++k) {
            mask.keep(r, order[static_cast<std::size_t>(k)]);
          }
        }
        if (mask.kept(r, j)) continue;
        const double error = w.at(r, j) / lower.at(j, j);
        for (std::int64_t k = j; k < n; ++k) w.at(r, k) -= error * lower.at(k, j);
        w.at(r, j) = 0.0;
      }
    }
  }
  return {masked_by(w, mask), mask};
}

inline double error_of(const Problem& problem, const Matrix& weight) {
  return error_of(Doubles(problem.weight.view()), Doubles(weight.view()), Doubles(problem.gram.view()));
}

inline std::vector<const Backend*> backends() {
  static const auto reference = make_reference_backend();
  static const auto cpu = make_cpu_backend();
  return {reference.get(), cpu.get()};
}

}  // namespace swiftprune::testing
