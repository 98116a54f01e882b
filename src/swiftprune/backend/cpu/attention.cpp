#include "swiftprune/backend/cpu/attention.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "swiftprune/backend/cpu/kernels.h"
#include "swiftprune/backend/cpu/products.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune::cpu {
namespace {

constexpr std::int64_t kTileRows = 192;  // rows of one product: queries times the heads of a group
constexpr std::int64_t kKeyTile = 256;

// All query heads that share one key/value head, for one tile of queries. Row r = n·group + g is query n of
// head g.
class GroupTile {
 public:
  GroupTile(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, const AttentionParams& p,
            std::int64_t kv_head, std::int64_t first_query, std::int64_t num_queries)
      : p_(p),
        head_(kv_head * (p.num_heads / p.num_kv_heads)),
        group_(p.num_heads / p.num_kv_heads),
        first_query_(first_query),
        num_queries_(num_queries),
        rows_(num_queries * group_),
        k_(k.col_block(kv_head * p.head_size, p.head_size)),
        v_(v.col_block(kv_head * p.head_size, p.head_size)),
        column_(kv_head * group_ * p.head_size),
        queries_(rows_, p.head_size),
        sums_(Matrix::zeros(rows_, p.head_size)),
        scores_(rows_, kKeyTile),
        top_(static_cast<std::size_t>(rows_), -std::numeric_limits<float>::infinity()),
        total_(static_cast<std::size_t>(rows_), 0.0f) {
    // A sink is a key without a value, which every query has seen already.
    for (std::int64_t r = 0; r < rows_ && !p.sinks.empty(); ++r) {
      const std::int64_t head = kv_head * group_ + r % group_;
      top_[static_cast<std::size_t>(r)] = p.sinks[static_cast<std::size_t>(head)];
      total_[static_cast<std::size_t>(r)] = 1.0f;
    }
    for (std::int64_t n = 0; n < num_queries_; ++n) {
      std::copy_n(q.row(first_query_ + n) + column_, group_ * p_.head_size, queries_.row(n * group_));
    }
  }

  void run(MatrixView out) {
    const std::int64_t last_position = p_.first_position + first_query_ + num_queries_ - 1;
    for (std::int64_t t = first_key(0); t <= last_position; t += kKeyTile) {
      add_keys(t, std::min(kKeyTile, last_position + 1 - t));
    }
    for (std::int64_t r = 0; r < rows_; ++r) {
      kernels().scale_row(sums_.row(r), p_.head_size, 1.0f / total_[static_cast<std::size_t>(r)]);
    }
    for (std::int64_t n = 0; n < num_queries_; ++n) {
      std::copy_n(sums_.row(n * group_), group_ * p_.head_size, out.row(first_query_ + n) + column_);
    }
  }

 private:
  std::int64_t last_key(std::int64_t n) const { return p_.first_position + first_query_ + n; }
  std::int64_t first_key(std::int64_t n) const {
    return p_.window > 0 ? std::max<std::int64_t>(0, last_key(n) - p_.window + 1) : 0;
  }

  void add_keys(std::int64_t t0, std::int64_t count) {
    const MatrixView scores = scores_.view().col_block(0, count);
    sgemm(false, true, 1.0f, queries_.view(), k_.row_block(t0, count), 0.0f, scores);
    for (std::int64_t n = 0; n < num_queries_; ++n) {
      const std::int64_t begin = std::clamp<std::int64_t>(first_key(n) - t0, 0, count);
      const std::int64_t end = std::clamp<std::int64_t>(last_key(n) + 1 - t0, 0, count);
      for (std::int64_t g = 0; g < group_; ++g) {
        const std::int64_t r = n * group_ + g;
        float* row = scores.row(r);
        if (begin >= end) {
          std::fill_n(row, count, 0.0f);
          continue;
        }
        std::fill_n(row, begin, 0.0f);
        std::fill(row + end, row + count, 0.0f);
        const auto s = static_cast<std::size_t>(r);
        if (!p_.slopes.empty())
          add_slope(p_.slopes[static_cast<std::size_t>(head_ + g)], t0 - last_key(n), begin, end, row);
        const float correction =
            kernels().softmax_row(row + begin, end - begin, p_.scale, p_.softcap, &top_[s], &total_[s]);
        if (correction != 1.0f) kernels().scale_row(sums_.row(r), p_.head_size, correction);
      }
    }
    sgemm(false, false, 1.0f, scores, v_.row_block(t0, count), 1.0f, sums_.view());
  }

  // The kernel multiplies what it is given by the scale. offset: of the first key from the query.
  void add_slope(float slope, std::int64_t offset, std::int64_t begin, std::int64_t end, float* row) const {
    for (std::int64_t t = begin; t < end; ++t) row[t] += slope / p_.scale * static_cast<float>(offset + t);
  }

  const AttentionParams& p_;
  std::int64_t head_;  // the group's first
  std::int64_t group_, first_query_, num_queries_, rows_;
  ConstMatrixView k_, v_;
  std::int64_t column_;  // of the group's first head in q and out
  Matrix queries_, sums_, scores_;
  std::vector<float> top_, total_;
};

}  // namespace

void attention(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, const AttentionParams& p,
               MatrixView out) {
  const std::int64_t query_tile = std::max<std::int64_t>(16, kTileRows * p.num_kv_heads / p.num_heads);
  const std::int64_t tiles = ceil_div(q.rows, query_tile);
  parallel_for(tiles * p.num_kv_heads, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      // The last queries see the most keys: they go first, so that the threads end together.
      const std::int64_t n0 = (tiles - 1 - t / p.num_kv_heads) * query_tile;
      GroupTile tile(q, k, v, p, t % p.num_kv_heads, n0, std::min(query_tile, q.rows - n0));
      tile.run(out);
    }
  });
}

}  // namespace swiftprune::cpu
