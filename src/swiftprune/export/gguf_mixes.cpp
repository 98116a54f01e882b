#include "swiftprune/export/gguf_mixes.h"

#include <algorithm>
#include <array>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

using Raise = GgufMix::Raise;

constexpr std::int64_t kQ3KSmall = 11;

constexpr std::array kMixes = {
    GgufMix{"f32", GgmlType::kF32, 0},
    GgufMix{"f16", GgmlType::kF16, 1},
    GgufMix{"bf16", GgmlType::kBF16, 32},
    GgufMix{"q8_0", GgmlType::kQ8_0, 7},
    GgufMix{"q6_k", GgmlType::kQ6_K, 18},
    GgufMix{"q5_k_m", GgmlType::kQ5_K, 17, Raise::kQ5KM},
    GgufMix{"q5_k", GgmlType::kQ5_K, 16},  // llama.cpp's q5_k_s
    GgufMix{"q5_1", GgmlType::kQ5_1, 9},
    GgufMix{"q5_0", GgmlType::kQ5_0, 8},
    GgufMix{"q4_k_m", GgmlType::kQ4_K, 15, Raise::kQ4KM},
    GgufMix{"q4_k_s", GgmlType::kQ4_K, 14, Raise::kQ4KS},
    GgufMix{"q4_k", GgmlType::kQ4_K, 14},
    GgufMix{"q4_1", GgmlType::kQ4_1, 3},
    GgufMix{"q4_0", GgmlType::kQ4_0, 2},
    GgufMix{"q3_k_l", GgmlType::kQ3_K, 13, Raise::kQ3KL},
    GgufMix{"q3_k_m", GgmlType::kQ3_K, 12, Raise::kQ3KM},
    GgufMix{"q3_k", GgmlType::kQ3_K, kQ3KSmall},  // llama.cpp's q3_k_s
    GgufMix{"q2_k", GgmlType::kQ2_K, 10, Raise::kQ2K},
};

bool is_float(GgmlType type) {
  return type == GgmlType::kF32 || type == GgmlType::kF16 || type == GgmlType::kBF16;
}

// The first and the last eighth of the blocks, and every third one between.
bool in_more_bits(std::int64_t block, std::int64_t blocks) {
  return block < blocks / 8 || block >= 7 * blocks / 8 || (block - blocks / 8) % 3 == 2;
}

GgmlType value_type(const GgufMix& mix, const MatrixPlace& place) {
  const auto chosen = [&] {
    switch (mix.raise) {
      case Raise::kQ2K:
        return place.queries_per_key >= 4 ? GgmlType::kQ4_K : GgmlType::kQ3_K;
      case Raise::kQ3KM:
        return place.block < 2 ? GgmlType::kQ5_K : GgmlType::kQ4_K;
      case Raise::kQ3KL:
        return GgmlType::kQ5_K;
      case Raise::kQ4KS:
        return place.block < 4 ? GgmlType::kQ5_K : mix.base;
      case Raise::kQ4KM:
      case Raise::kQ5KM:
        return in_more_bits(place.block, place.num_blocks) ? GgmlType::kQ6_K : mix.base;
      case Raise::kNone:
        break;
    }
    return mix.base;
  }();
  // Models of LLaMA-2-70B's shape share each value head among eight query heads: few bytes for much.
  constexpr std::int64_t kBlocksOf70B = 80;
  const bool is_70b = place.num_blocks == kBlocksOf70B && place.queries_per_key > 1;
  return is_70b && (chosen == GgmlType::kQ3_K || chosen == GgmlType::kQ4_K) ? GgmlType::kQ5_K : chosen;
}

GgmlType down_type(const GgufMix& mix, const MatrixPlace& place) {
  switch (mix.raise) {
    case Raise::kQ2K:
      return GgmlType::kQ3_K;
    case Raise::kQ3KM:
      return place.block < place.num_blocks / 16 ? GgmlType::kQ5_K : GgmlType::kQ4_K;
    case Raise::kQ3KL:
      return GgmlType::kQ5_K;
    case Raise::kQ4KS:
      return place.block < place.num_blocks / 8 ? GgmlType::kQ5_K : mix.base;
    case Raise::kQ4KM:
    case Raise::kQ5KM:
      return in_more_bits(place.block, place.num_blocks) ? GgmlType::kQ6_K : mix.base;
    case Raise::kNone:
      break;
  }
  return mix.base;
}

// Of eight experts (Mixtral), attention is so small a part that llama.cpp spends more on it.
constexpr std::int64_t kExpertsOfMixtral = 8;

GgmlType attention_output_type(const GgufMix& mix, const MatrixPlace& place) {
  if (place.num_experts == kExpertsOfMixtral) {
    const bool small = mix.file_type == kQ3KSmall || mix.raise == Raise::kQ2K || mix.raise == Raise::kQ3KM ||
                       mix.raise == Raise::kQ4KS || mix.raise == Raise::kQ4KM;
    return small ? GgmlType::kQ5_K : mix.base;
  }
  switch (mix.raise) {
    case Raise::kQ2K:
      return GgmlType::kQ3_K;
    case Raise::kQ3KM:
      return GgmlType::kQ4_K;
    case Raise::kQ3KL:
      return GgmlType::kQ5_K;
    default:
      return mix.base;
  }
}

GgmlType wanted_type(const GgufMix& mix, const MatrixPlace& place) {
  if (is_float(mix.base)) return mix.base;
  if (place.gguf == "output" || (place.tied && place.gguf == "token_embd")) {
    return mix.base == GgmlType::kQ8_0 ? mix.base : GgmlType::kQ6_K;
  }
  const bool is_value = place.gguf == "attn_v" || place.gguf == "attn_qkv";
  if (place.num_experts == kExpertsOfMixtral && (is_value || place.gguf == "attn_k")) return GgmlType::kQ8_0;
  if (is_value) return value_type(mix, place);
  // Also of the experts and of the shared one: ffn_down_exps, ffn_down_shexp.
  if (place.gguf.starts_with("ffn_down")) return down_type(mix, place);
  if (place.gguf == "attn_output") return attention_output_type(mix, place);
  return mix.base;
}

// Of blocks of 32, for rows that are no multiple of 256.
GgmlType smaller_block(GgmlType type) {
  switch (type) {
    case GgmlType::kQ2_K:
    case GgmlType::kQ3_K:
      return GgmlType::kQ4_0;
    case GgmlType::kQ4_K:
      return GgmlType::kQ5_0;
    case GgmlType::kQ5_K:
      return GgmlType::kQ5_1;
    case GgmlType::kQ6_K:
      return GgmlType::kQ8_0;
    default:
      return type;
  }
}

bool fits(GgmlType type, std::int64_t columns) {
  return columns % find_ggml_type(static_cast<std::uint32_t>(type))->block_size == 0;
}

}  // namespace

const GgufMix* find_gguf_mix(std::string_view name) {
  const auto* found =
      std::find_if(kMixes.begin(), kMixes.end(), [name](const GgufMix& mix) { return mix.name == name; });
  return found == kMixes.end() ? nullptr : found;
}

std::vector<std::string> gguf_mix_names() {
  std::vector<std::string> names;
  for (const GgufMix& mix : kMixes) names.emplace_back(mix.name);
  return names;
}

MatrixType matrix_type(const GgufMix& mix, const MatrixPlace& place) {
  MatrixType result{wanted_type(mix, place), GgmlType::kF16};
  for (const GgmlType type : {result.wanted, smaller_block(result.wanted)}) {
    if (!fits(type, place.columns)) continue;
    result.type = type;
    break;
  }
  return result;
}

}  // namespace swiftprune
