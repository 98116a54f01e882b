#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/selection/row_kernels.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float load_f32(const std::byte* p) {
  float value = 0.0f;
  std::memcpy(&value, p, 4);
  return value;
}
template <float (*to_f32)(std::uint16_t)>
float load_16(const std::byte* p) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, p, 2);
  return to_f32(bits);
}

template <float (*load)(const std::byte*), std::int64_t kBytes>
float score(const void* weights, std::int64_t n, const float* column, float row, const float* slope,
            float* keys) {
  const auto* p = static_cast<const std::byte*>(weights);
  float sum = 0.0f;
  for (std::int64_t j = 0; j < n; ++j) {
    float factor = column == nullptr ? 1.0f : column[j];
    if (slope != nullptr) factor = std::fma(row, slope[j], factor);
    keys[j] = std::abs(load(p + j * kBytes) * factor);
    sum += keys[j];
  }
  std::fill(keys + n, keys + round_up(n, kKeyBlock), kInfinity);
  return sum;
}

std::int64_t window(const float* keys, std::int64_t padded, float low, float high, float* inside,
                    std::int64_t* num_inside) {
  std::int64_t below = 0;
  std::int64_t count = 0;
  for (std::int64_t j = 0; j < padded; ++j) {
    below += keys[j] < low;
    inside[count] = keys[j];
    count += keys[j] >= low && keys[j] < high;
  }
  std::fill(inside + count, inside + round_up(count, kKeyBlock), kInfinity);
  *num_inside = count;
  return below;
}

std::int64_t count_below(const float* keys, std::int64_t padded, float value) {
  std::int64_t count = 0;
  for (std::int64_t j = 0; j < padded; ++j) count += keys[j] < value;
  return count;
}

float threshold(const float* keys, std::int64_t padded, std::int64_t rank, float low, float high,
                std::int64_t* ties) {
  auto below = std::bit_cast<std::uint32_t>(low);  // count(< below) <= rank < count(< above)
  auto above = std::bit_cast<std::uint32_t>(high);
  while (above - below > 1) {
    const std::uint32_t middle = below + (above - below) / 2;
    const std::int64_t count = count_below(keys, padded, std::bit_cast<float>(middle));
    (count <= rank ? below : above) = middle;
    if (count == rank) break;
  }
  const auto value = std::bit_cast<float>(below);
  *ties = rank - count_below(keys, padded, value);
  return value;
}

void keep_above(const float* keys, std::int64_t padded, float threshold, std::int64_t ties,
                std::uint64_t* words) {
  for (std::int64_t j = 0; j < padded; j += 64) {
    std::uint64_t word = 0;
    for (int b = 0; b < 64; ++b) {
      bool kept = keys[j + b] >= threshold;
      if (keys[j + b] == threshold && ties > 0) {
        --ties;
        kept = false;
      }
      word |= std::uint64_t{kept} << b;
    }
    words[j / 64] = word;
  }
}

void keep_n_of_m(const float* keys, std::int64_t padded, int n, int m, std::uint64_t* words) {
  std::fill(words, words + padded / 64, std::uint64_t{0});
  for (std::int64_t first = 0; first + m <= padded; first += m) {
    const float* group = keys + first;
    for (int a = 0; a < m; ++a) {
      int before = 0;  // keys that are pruned sooner than a
      for (int b = 0; b < m; ++b) before += group[b] < group[a] || (group[b] == group[a] && b < a);
      if (before >= m - n) words[(first + a) / 64] |= std::uint64_t{1} << ((first + a) % 64);
    }
  }
}

template <std::int64_t kBytes>
void zero(void* weights, std::int64_t n, const std::uint64_t* words) {
  auto* p = static_cast<std::byte*>(weights);
  for (std::int64_t j = 0; j < n; ++j) {
    if (((words[j / 64] >> (j % 64)) & 1u) == 0) std::memset(p + j * kBytes, 0, kBytes);
  }
}

}  // namespace

const RowKernels& baseline_row_kernels() {
  static constexpr RowKernels kKernels = {
      .score_f32 = score<load_f32, 4>,
      .score_f16 = score<load_16<f16_to_f32>, 2>,
      .score_bf16 = score<load_16<bf16_to_f32>, 2>,
      .window = window,
      .threshold = threshold,
      .keep_above = keep_above,
      .keep_n_of_m = keep_n_of_m,
      .zero_32 = zero<4>,
      .zero_16 = zero<2>,
  };
  return kKernels;
}

}  // namespace swiftprune
