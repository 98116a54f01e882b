#include "swiftprune/backend/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "swiftprune/backend/cpu/kernels.h"
#include "swiftprune/backend/cpu/products.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune::cpu {
namespace {

constexpr std::int64_t kTileRows = 192;  // rows of one product: queries times the heads of a group
constexpr std::int64_t kKeyTile = 256;
// Few queries are too little work for many threads by heads alone: their keys are split, too.
constexpr std::int64_t kPartKeys = 512;
constexpr std::int64_t kFewQueries = 16;
constexpr std::int64_t kFewTileRows = 8;  // of a tile: sgemm takes longer to begin than to multiply

// All query heads that share one key/value head, for one tile of queries and part `part` of their keys, of kPartKeys each,
// or all of them (kAllKeys). Row r = n·group + g is query n of head g.
class GroupTile {
 public:
  static constexpr std::int64_t kAllKeys = -1;
  GroupTile(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, const AttentionParams& p,
            std::int64_t kv_head, std::int64_t first_query, std::int64_t num_queries, std::int64_t part)
      : p_(p),
        head_(kv_head * (p.num_heads / p.num_kv_heads)),
        group_(p.num_heads / p.num_kv_heads),
        first_query_(first_query),
        num_queries_(num_queries),
        part_(part),
        rows_(num_queries * group_),
        k_(k.col_block(kv_head * p.head_size, p.head_size)),
        v_(v.col_block(kv_head * p.head_size, p.head_size)),
        column_(kv_head * group_ * p.head_size),
        queries_(rows_, p.head_size),
        sums_(Matrix::zeros(rows_, p.head_size)),
        scores_(rows_, kKeyTile),
        top_(static_cast<std::size_t>(rows_), -std::numeric_limits<float>::infinity()),
        total_(static_cast<std::size_t>(rows_), 0.0f) {
    // A sink is a key without a value, which every query has seen already, in its first part.
    for (std::int64_t r = 0; r < rows_ && !p.sinks.empty() && part <= 0; ++r) {
      const std::int64_t head = kv_head * group_ + r % group_;
      top_[static_cast<std::size_t>(r)] = p.sinks[static_cast<std::size_t>(head)];
      total_[static_cast<std::size_t>(r)] = 1.0f;
    }
    for (std::int64_t n = 0; n < num_queries_; ++n) {
      std::copy_n(q.row(first_query_ + n) + column_, group_ * p_.head_size, queries_.row(n * group_));
    }
  }

  // Keys that the queries see, counted from the first one that any of them does.
  std::int64_t num_keys() const { return end_key() - first_key(0); }

  void run() {
    const std::int64_t begin = first_key(0) + (part_ == kAllKeys ? 0 : part_ * kPartKeys);
    const std::int64_t end = part_ == kAllKeys ? end_key() : std::min(end_key(), begin + kPartKeys);
    for (std::int64_t t = begin; t < end; t += kKeyTile) add_keys(t, std::min(kKeyTile, end - t));
  }

  // Adds what another part of the same queries' keys has found.
  void merge(const GroupTile& other) {
    for (std::int64_t r = 0; r < rows_; ++r) {
      const auto s = static_cast<std::size_t>(r);
      const float top = std::max(top_[s], other.top_[s]);
      const auto share = [&](float of) { return of == top ? 1.0f : std::exp(of - top); };
      const float own = share(top_[s]);
      const float others = share(other.top_[s]);
      total_[s] = own * total_[s] + others * other.total_[s];
      for (std::int64_t d = 0; d < p_.head_size; ++d)
        sums_.at(r, d) = own * sums_.at(r, d) + others * other.sums_.at(r, d);
      top_[s] = top;
    }
  }

  void write(MatrixView out) {
    for (std::int64_t r = 0; r < rows_; ++r) {
      kernels().scale_row(sums_.row(r), p_.head_size, 1.0f / total_[static_cast<std::size_t>(r)]);
    }
    for (std::int64_t n = 0; n < num_queries_; ++n) {
      std::copy_n(sums_.row(n * group_), group_ * p_.head_size, out.row(first_query_ + n) + column_);
    }
  }

 private:
  std::int64_t end_key() const { return p_.first_position + first_query_ + num_queries_; }
  std::int64_t last_key(std::int64_t n) const { return p_.first_position + first_query_ + n; }
  std::int64_t first_key(std::int64_t n) const {
    return p_.window > 0 ? std::max<std::int64_t>(0, last_key(n) - p_.window + 1) : 0;
  }

  void add_keys(std::int64_t t0, std::int64_t count) {
    const MatrixView scores = scores_.view().col_block(0, count);
    const bool few = rows_ <= kFewTileRows;
    if (few) {
      for (std::int64_t r = 0; r < rows_; ++r)
        kernels().key_products(queries_.row(r), k_.row(t0), count, k_.stride, p_.head_size, scores.row(r));
    } else {
      sgemm(false, true, 1.0f, queries_.view(), k_.row_block(t0, count), 0.0f, scores);
    }
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
    if (!few) return sgemm(false, false, 1.0f, scores, v_.row_block(t0, count), 1.0f, sums_.view());
    for (std::int64_t r = 0; r < rows_; ++r)
      kernels().add_values(scores.row(r), v_.row(t0), count, v_.stride, p_.head_size, sums_.row(r));
  }

  // The kernel multiplies what it is given by the scale. offset: of the first key from the query.
  void add_slope(float slope, std::int64_t offset, std::int64_t begin, std::int64_t end, float* row) const {
    for (std::int64_t t = begin; t < end; ++t) row[t] += slope / p_.scale * static_cast<float>(offset + t);
  }

  const AttentionParams& p_;
  std::int64_t head_;  // the group's first
  std::int64_t group_, first_query_, num_queries_, part_, rows_;
  ConstMatrixView k_, v_;
  std::int64_t column_;  // of the group's first head in q and out
  Matrix queries_, sums_, scores_;
  std::vector<float> top_, total_;
};

}  // namespace

void attention(ConstMatrixView q, ConstMatrixView k, ConstMatrixView v, const AttentionParams& p,
               MatrixView out) {
  const std::int64_t num_keys = p.first_position + q.rows;
  if (q.rows <= kFewQueries && num_keys > kPartKeys) {
    const auto tile_of = [&](std::int64_t kv_head, std::int64_t part) {
      return GroupTile(q, k, v, p, kv_head, 0, q.rows, part);
    };
    const std::int64_t parts = ceil_div(tile_of(0, 0).num_keys(), kPartKeys);
    std::vector<std::optional<GroupTile>> tiles(static_cast<std::size_t>(parts * p.num_kv_heads));
    const auto at = [&](std::int64_t kv_head, std::int64_t part) -> std::optional<GroupTile>& {
      return tiles[static_cast<std::size_t>(kv_head * parts + part)];
    };
    parallel_for(std::ssize(tiles), 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        at(t / parts, t % parts).emplace(tile_of(t / parts, t % parts)).run();
      }
    });
    for (std::int64_t kv_head = 0; kv_head < p.num_kv_heads; ++kv_head) {
      for (std::int64_t part = 1; part < parts; ++part) at(kv_head, 0)->merge(*at(kv_head, part));
      at(kv_head, 0)->write(out);
    }
    return;
  }
  const std::int64_t query_tile = std::max<std::int64_t>(16, kTileRows * p.num_kv_heads / p.num_heads);
  const std::int64_t tiles = ceil_div(q.rows, query_tile);
  parallel_for(tiles * p.num_kv_heads, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      // The last queries see the most keys: they go first, so that the threads end together.
      const std::int64_t n0 = (tiles - 1 - t / p.num_kv_heads) * query_tile;
      GroupTile tile(q, k, v, p, t % p.num_kv_heads, n0, std::min(query_tile, q.rows - n0),
                     GroupTile::kAllKeys);
      tile.run();
      tile.write(out);
    }
  });
}

}  // namespace swiftprune::cpu
