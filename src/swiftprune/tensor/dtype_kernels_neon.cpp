#include "swiftprune/tensor/dtype_kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace swiftprune {

#if defined(__aarch64__)
namespace {

constexpr std::int64_t kLanes = 4;

float32x4_t widen_f16(uint16x4_t bits) { return vcvt_f32_f16(vreinterpret_f16_u16(bits)); }

float32x4_t widen_bf16(uint16x4_t bits) { return vreinterpretq_f32_u32(vshll_n_u16(bits, 16)); }

uint16x4_t without_negative_zero(uint16x4_t bits) {
  return vbic_u16(bits, vceq_u16(bits, vdup_n_u16(0x8000)));
}

uint16x4_t narrow_f16(float32x4_t values) {
  return without_negative_zero(vreinterpret_u16_f16(vcvt_f16_f32(values)));
}

uint16x4_t narrow_bf16(float32x4_t values) {
  const uint32x4_t bits = vreinterpretq_u32_f32(values);
  const uint32x4_t upper = vshrq_n_u32(bits, 16);
  const uint32x4_t rounding = vaddq_u32(vdupq_n_u32(0x7fff), vandq_u32(upper, vdupq_n_u32(1)));
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, rounding), 16);
  const uint32x4_t nan = vorrq_u32(upper, vdupq_n_u32(0x40));
  const uint32x4_t is_number = vceqq_f32(values, values);
  return without_negative_zero(vmovn_u32(vbslq_u32(is_number, rounded, nan)));
}

template <float32x4_t (*kWiden)(uint16x4_t)>
void widen(const std::byte* source, float* target, std::int64_t n) {
  const auto load = [](const void* from, std::int64_t count) {
    std::uint16_t bits[kLanes] = {};
    __builtin_memcpy(bits, from, static_cast<std::size_t>(2 * count));
    return vld1_u16(bits);
  };
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) vst1q_f32(target + i, kWiden(load(source + 2 * i, kLanes)));
  if (i == n) return;
  float values[kLanes];
  vst1q_f32(values, kWiden(load(source + 2 * i, n - i)));
  __builtin_memcpy(target + i, values, static_cast<std::size_t>(n - i) * sizeof(float));
}

template <uint16x4_t (*kNarrow)(float32x4_t)>
void narrow(const float* source, std::byte* target, std::int64_t n) {
  const auto store = [](uint16x4_t values, void* to, std::int64_t count) {
    std::uint16_t bits[kLanes];
    vst1_u16(bits, values);
    __builtin_memcpy(to, bits, static_cast<std::size_t>(2 * count));
  };
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(kNarrow(vld1q_f32(source + i)), target + 2 * i, kLanes);
  if (i == n) return;
  float values[kLanes] = {};
  __builtin_memcpy(values, source + i, static_cast<std::size_t>(n - i) * sizeof(float));
  store(kNarrow(vld1q_f32(values)), target + 2 * i, n - i);
}

}  // namespace

const DTypeKernels* dtype_kernels_neon() {
  static constexpr DTypeKernels kKernels = {widen<widen_f16>, widen<widen_bf16>, narrow<narrow_f16>,
                                            narrow<narrow_bf16>};
  return &kKernels;
}
#else
const DTypeKernels* dtype_kernels_neon() { return nullptr; }
#endif

}  // namespace swiftprune
